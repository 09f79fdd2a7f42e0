"""Tables on a terminal of any width: no number is ever cut."""

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Column, Table

_FILE_COLUMNS = 150
_LONGEST_WORD = 32  # of text; longer ones, as paths are, go on in the next line
_PADDING = 2  # of a column
_LINE = 1  # before each column, and one after the last


def make_console() -> Console:
    """Stdout, without colours for numbers; wide enough for a table where it is a file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_FILE_COLUMNS)


def print_whole(console: Console, each: RenderableType) -> None:
    """A table that has no room is as wide as its words and numbers are: the terminal wraps its lines then.

    Left to itself rich shortens what has no room, figures too.
    """
    terminal = console.width
    if isinstance(each, Table):
        console.width = max(terminal, _fit(console, each))
    console.print(each)
    console.width = terminal


def _fit(console: Console, table: Table) -> int:
    """Settles the columns' widths: those of figures get theirs, those of text what is left; the table's width."""
    found = [(column, _range(console, column)) for column in table.columns]
    taken = sum(least for _, (least, _) in found) + (_LINE + _PADDING) * len(found) + _LINE
    for column, (least, most) in sorted(found, key=lambda each: each[1][1] - each[1][0]):
        more = max(0, min(most - least, console.width - taken))
        column.width = least + more
        taken += more
    return taken


def _range(console: Console, column: Column) -> tuple[int, int]:
    """(least, greatest) width that is of use. Changes how text that is too long for a line is shown."""
    options = console.options.update(max_width=10**6)
    widths = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
    least, most = max(each.minimum for each in widths), max(each.maximum for each in widths)
    if column.justify == "right":
        return least, most
    column.overflow = "fold"
    return min(least, _LONGEST_WORD), most
