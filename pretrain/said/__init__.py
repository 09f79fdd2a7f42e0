"""What each rank says: a file of its own in the run folder, and how the files read as one log."""

from pretrain.said.streams import Said

__all__ = ["Said"]
