"""Loops are compiled wherever they may be kept."""

import pytest

from pretrain import compiled


def test_a_function_is_compiled_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = compiled.njit

    def without_a_folder(cache: bool = False, **settings: object) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**settings)

    monkeypatch.setattr(compiled, "njit", without_a_folder)
    assert compiled.compiled(lambda number: number + 1)(2) == 3
