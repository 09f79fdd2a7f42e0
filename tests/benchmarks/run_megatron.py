"""Runs Megatron-LM's own `tools/preprocess_data.py`, unchanged, where its heavier requirements are absent.

`python PATH/TO/run_megatron.py tools/preprocess_data.py OPTIONS`, from a checkout of Megatron-LM.

The script imports the whole of Megatron, which imports triton (CPU builds of torch come without) and
`typing.override` (Python 3.12). Preprocessing calls neither, so both are stood in for.
"""

import importlib.machinery
import importlib.util
import runpy
import sys
import types
import typing
from pathlib import Path
from typing import Any

import torch
import typing_extensions


class _Absent(types.ModuleType):
    """A module whose every name is there; as a decorator it gives back what it decorates."""

    __version__ = "3.5.0"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(f"{self.__name__}.{name}")

    def __call__(self, *arguments: Any, **_: Any) -> Any:
        return arguments[0] if arguments and callable(arguments[0]) else self


def main(arguments: list[str]) -> None:
    if importlib.util.find_spec("triton") is None:
        torch.compile(len)  # Loads what asks for triton on its own account, while it is seen to be absent.
        for name in ("triton", "triton.language"):
            sys.modules[name] = _Absent(name)
    if not hasattr(typing, "override"):
        typing.override = typing_extensions.override  # type: ignore[attr-defined,unused-ignore]
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).absolute().parent)  # What the script itself would have there.
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
