"""What ranks that are forked need imported: once, in the process that they are forked from, which looks after none of
it again. Where something cannot be imported, the ranks do it, and say so."""

from contextlib import suppress
from importlib import import_module

from pretrain import garbage

MODULES = ("pretrain.run", "pretrain.backends.deepspeed", "pretrain.backends.fsdp", "pretrain.faults.world")

garbage.pause()
for _name in MODULES:
    with suppress(ImportError):
        import_module(_name)
garbage.spare()
