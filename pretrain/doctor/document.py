"""What was found, for people and as JSON."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pretrain.doctor.exam import Exam
from pretrain.doctor.finding import Line

_STYLES = ("green", "yellow", "bold red")
_ENDS = (".", "?", "!")  # of what is a sentence already
_VERDICTS = ("ok", "warning", "failed")


def as_document(exam: Exam) -> dict[str, Any]:
    """Plain data: every line with its ranks and machines, then the counts."""
    return {
        "ranks": exam.ranks,
        "checks": [
            {
                "section": line.section,
                "check": line.check,
                "verdict": line.finding.verdict,
                "found": line.finding.found,
                "remedy": line.finding.remedy or None,
                "ranks": list(line.ranks),
                "nodes": list(line.nodes),
                "others": line.others,
            }
            for line in exam.lines
        ],
        **{verdict: exam.count(verdict) for verdict in _VERDICTS},
        "exit_code": exam.exit_code,
    }


def summary(exam: Exam) -> str:
    """The last line."""
    counts = f"{exam.count('failed')} failed, {exam.count('warning')} warning(s), {exam.count('ok')} ok"
    if exam.count("failed"):
        return f"{counts}: this run cannot be trained here as it stands."
    return f"{counts}: this run can be trained here."


def write(exam: Exam, console: Console) -> None:
    """A table for each section where somebody watches, one line for each check elsewhere."""
    section = ""
    for line in exam.lines:
        if line.section != section:
            section = line.section
            console.print(Text(section, style="bold"))
        console.print(
            _row(line, exam.ranks) if console.is_terminal else plain(line, exam.ranks), soft_wrap=True
        )
    style = _STYLES[2 if exam.count("failed") else 1 if exam.count("warning") else 0]
    console.print(Text(summary(exam), style=style if console.is_terminal else ""), soft_wrap=True)


def said(line: Line, ranks: int) -> str:
    """What was found, by whom, and what to do."""
    who = line.who(ranks) if line.finding.verdict != "ok" else ""
    others = f" ({line.who(ranks)}; {line.others} more alike, by other figures)" if line.others else ""
    words = f"{who + ': ' if who else ''}{line.finding.found}{others}"
    if not line.finding.remedy:
        return words
    return f"{words}{'' if words.endswith(_ENDS) else '.'} To do: {line.finding.remedy}."


def plain(line: Line, ranks: int) -> Text:
    """ "  failed   port: ..."."""
    return Text(f"  {line.finding.verdict:8} {line.check}: {said(line, ranks)}")


def _row(line: Line, ranks: int) -> Table:
    table = Table.grid(padding=(0, 1), expand=False)
    table.add_column(width=9)
    table.add_column(width=13)
    table.add_column()
    style = _STYLES[_VERDICTS.index(line.finding.verdict)]
    table.add_row(Text(f"  {line.finding.verdict}", style=style), line.check, Text(said(line, ranks)))
    return table
