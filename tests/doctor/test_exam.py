"""All checks together: what hangs, what breaks, the exit code, the words for people and the JSON."""

import json
from io import StringIO
from pathlib import Path
from threading import Event

import pytest
from rich.console import Console

from pretrain.doctor.document import as_document, said, summary, write
from pretrain.doctor.exam import CHECKS, SECTIONS, Check, Exam, examine, look
from pretrain.doctor.finding import Finding, failed, ok, warning
from tests.doctor.heres import make_here, only


def check(*findings: Finding) -> Check:
    return Check("device", "shown", "rank", lambda here: findings)


def exam_of(folder: Path, *findings: Finding) -> Exam:
    return examine(make_here(folder), [check(*findings)])


def test_a_check_that_hangs_or_breaks_stops_no_other(tmp_path: Path) -> None:
    go = Event()

    def hang(_: object) -> list[Finding]:
        go.wait()
        return []

    def fail(_: object) -> list[Finding]:
        raise ZeroDivisionError("by zero")

    here = make_here(tmp_path, seconds=0.1)
    exam = examine(
        here, [Check("device", "a", "rank", hang), Check("device", "b", "rank", fail), check(ok("well"))]
    )
    go.set()
    found = [line.finding for line in exam.lines if line.section == "device"]
    only(found[:1], "failed", "no answer in 0.1 s", "give more --seconds")
    only(found[1:2], "failed", "ZeroDivisionError: by zero")
    only(found[2:], "ok", "well")


def test_what_computes_may_take_longer_than_what_may_hang(tmp_path: Path) -> None:
    go = Event()
    go.set()
    here = make_here(tmp_path, seconds=1e-9)
    slow = Check("device", "slow", "rank", lambda _: [ok(str(go.wait()))] * (Event().wait(0.05) or 1), 5.0)
    only(look(here, slow), "ok", "True")


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([ok("a"), warning("b", "c")], 0),
        ([failed("a", "b"), ok("c")], 1),
        ([failed("a", "b", is_damage=True), warning("c", "d")], 3),
        ([failed("a", "b", is_damage=True), failed("c", "d")], 1),
    ],
)
def test_exit_codes(tmp_path: Path, findings: list[Finding], code: int) -> None:
    assert exam_of(tmp_path, *findings).exit_code == code


def test_every_check_belongs_to_a_section_and_has_a_name_of_its_own() -> None:
    assert {each.section for each in CHECKS} <= set(SECTIONS)
    assert len({(each.section, each.name) for each in CHECKS}) == len(CHECKS)


def test_as_json(tmp_path: Path) -> None:
    found = json.loads(json.dumps(as_document(exam_of(tmp_path, ok("a"), failed("[b]", "do c")))))
    (line,) = (each for each in found["checks"] if each["verdict"] == "failed")
    expected = {
        "section": "device",
        "check": "shown",
        "found": "[b]",
        "remedy": "do c",
        "ranks": [0],
        "others": 0,
    }
    assert expected.items() <= line.items() and len(line["nodes"]) == 1
    assert (found["failed"], found["warning"], found["exit_code"], found["ranks"]) == (1, 0, 1, 1)
    assert found["ok"] + 1 == len(found["checks"])


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ("a", "a. To do: b."),
        ("It is a.", "It is a. To do: b."),
        ("Is it a?", "Is it a? To do: b."),
    ],
)
def test_one_stop_is_enough(tmp_path: Path, found: str, words: str) -> None:
    (line,) = (each for each in exam_of(tmp_path, warning(found, "b")).lines if each.check == "shown")
    assert said(line, 1) == words


def test_for_people_and_for_files(tmp_path: Path) -> None:
    """Square brackets are no markup; where somebody watches there are colours, and in a file a line for each."""
    exam = exam_of(tmp_path, warning("[b] was found", "do c"))
    watched, file = StringIO(), StringIO()
    write(exam, Console(file=watched, force_terminal=True, width=80, highlight=False))
    write(exam, Console(file=file, highlight=False))
    assert "\x1b[" in watched.getvalue() and "[b] was found" in watched.getvalue()
    assert "  warning  shown: [b] was found. To do: do c.\n" in file.getvalue()
    assert "\x1b[" not in file.getvalue() and file.getvalue().splitlines()[-1] == summary(exam)
    assert summary(exam).startswith("0 failed, 1 warning(s), ") and summary(exam).endswith(
        "can be trained here."
    )
