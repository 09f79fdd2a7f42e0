"""Loops are compiled wherever they may be kept."""

import sys

import pytest

from pretrain import compiled
from tests.worlds import run_command

FIRST_CALL = """
import numpy
from numba.core.typing.typeof import typeof_impl
from pretrain.compiled import compiled
registered = len(typeof_impl.registry)
assert compiled(lambda values: values.sum())(numpy.ones(3)) == 3
assert len(typeof_impl.registry) == registered, "the first call registers types that another thread may be looking up"
"""


def test_a_function_is_compiled_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = compiled.njit

    def without_a_folder(cache: bool = False, **settings: object) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**settings)

    monkeypatch.setattr(compiled, "njit", without_a_folder)
    assert compiled.compiled(lambda number: number + 1)(2) == 3


def test_the_first_call_changes_no_table_that_other_threads_use() -> None:
    result = run_command([sys.executable, "-c", FIRST_CALL], timeout=120.0)
    assert result.returncode == 0, result.stderr
