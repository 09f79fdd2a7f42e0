"""Python's cyclic garbage collector, kept off what lives as long as the process.

Importing torch, transformers and DeepSpeed makes very many objects that stay. The collector goes over them several
times while they are made, again in a run whenever enough is new, and once more when the interpreter is taken down: a
good part of what starting and ending a short command takes. A process forked from one that has imported them would
copy their pages besides, for the collector writes into every object that it looks at.
"""

import gc


def pause() -> None:
    """Nothing is collected until `spare`: for imports, which make much that stays, and little else."""
    gc.disable()


def spare() -> None:
    """What there is now is never looked at again, and the collector goes about the rest."""
    gc.freeze()
    gc.enable()
