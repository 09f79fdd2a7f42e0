"""Tables on narrow terminals keep every figure."""

from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table

from pretrain.command.printing import print_whole

FIGURES = ("1,234,567,890", "12,345 (67,890)", "0.12%")
PATH = "/a/path/with/a/name/of/more/than/any/column/has/room/for.json"


def printed(table: Table, width: int) -> list[str]:
    output = StringIO()
    console = Console(file=output, width=width)
    print_whole(console, table)
    assert console.width == width
    return output.getvalue().splitlines()


def make_table() -> Table:
    table = Table("what it is", title="figures")
    for name in ("tokens/s", "exchanged", "share"):
        table.add_column(name, justify="right")
    table.add_row(f"words of any number, and {PATH}", *FIGURES)
    return table


@pytest.mark.parametrize("width", [20, 60, 80, 100])
def test_every_figure_is_there_in_one_piece(width: int) -> None:
    lines = printed(make_table(), width)
    words = " ".join(lines).split()
    for figure in " ".join(FIGURES).split():
        assert figure in words
    assert not any("…" in line for line in lines)
    folded = "".join(line.split("│")[1].strip() for line in lines if line.count("│") == 5)
    assert PATH in folded
    if width >= 80:
        assert max(map(len, lines)) <= width


def test_with_room_for_all_nothing_changes() -> None:
    expected = StringIO()
    Console(file=expected, width=150).print(make_table())
    assert printed(make_table(), 150) == expected.getvalue().splitlines()
