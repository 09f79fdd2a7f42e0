"""Watching a run: who has stopped moving, who is gone, and how everybody then ends in time."""

from pretrain.watch.activity import Activity
from pretrain.watch.watchdog import Watch, WatchOptions

__all__ = ["Activity", "Watch", "WatchOptions"]
