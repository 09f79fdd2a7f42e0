"""Usage that is refused, each with one sentence and nothing left behind; `main` in this process."""

from pathlib import Path

import pytest

from data_prep.cli import main


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--input", "missing.txt"), ["missing.txt does not exist"]),
        (("--input", "*.none"), ["No file matches", "*.none"]),
        (("--input", "a.txt", "--workers", "0"), ["--workers is 0"]),
        (("--input", "a.txt", "--heldout", "1.5"), ["--heldout is 1.5"]),
        (("--input", "a.txt", "--demo"), ["one of --input PATH, --hub NAME and --demo"]),
        ((), ["one of --input PATH, --hub NAME and --demo"]),
        (("--input", "a.txt", "--tokenizer", "nowhere"), ["--tokenizer nowhere"]),
        (("--input", "a.txt", "--tokenizer", ".", "--vocab-size", "9"), ["drop --vocab-size"]),
        (("--input", "a.txt", "--tokenizer", ".", "--lowercase"), ["drop --lowercase"]),
        (("--input", "a.txt", "--tokenizer", ".", "--cased"), ["drop --cased"]),
        (("--input", "a.txt", "--hub-split", "test"), ["There is no --hub NAME; drop --hub-split"]),
        (("--input", "a.txt", "--text-column", "body"), ["--text-column body: all of the input is plain"]),
        (("--demo", "--text-column", "body"), ["--text-column body: the demo corpus has no columns"]),
        (("--input", "a.txt", "--sentences", "line", "--language", "de"), ["drop --language"]),
        (("--input", "sheet.xlsx"), ["sheet.xlsx", "--format"]),
        (("--input", "two.jsonl"), ["'title', 'body'", "--text-column"]),
        (("--input", "a.txt", "--part", "4/3", "--tokenizer", "x"), ["--part is '4/3'"]),
        (("--input", "a.txt", "--part", "1/3"), ["--part needs", "data_prep tokenizer"]),
        (("--input", "a.txt", "--save-every", "-1"), ["--save-every is -1"]),
        (("--input", "a.txt", "--part", "-1/3", "--tokenizer", "x"), ["--part is '-1/3'"]),
        (("--input", "a.txt", "--part", "1/100000", "--tokenizer", "x"), ["at most 99,999 parts"]),
        (("--input", "a.txt", "--workers", "99999"), ["--workers is 99,999", "CPU(s)"]),
        (("--input", "a.txt", "--timings", "no/t.json"), ["--timings no/t.json cannot be written"]),
        (("--input", "a.txt", "--timings", "."), ["--timings . cannot be written: Is a directory"]),
        (("--input", "a.txt", "--output", ""), ["--output: it is empty"]),
        (("--input", "a.txt", "--overwrit"), ["build has no --overwrit", "data_prep build --help"]),
        (("--input", "a.txt", "--save-every", "nan"), ["--save-every is nan"]),
        (("--input", "a.txt", "--timings", "a.txt"), ["--timings a.txt is a file with something else in it"]),
        (("--input", "a.txt", "--timings", "store"), ["--timings store is --output"]),
        (("--input", "a.txt", "--tokenizer", ""), ["--tokenizer: it is empty"]),
        (("--input", "a.txt", "--vocab-size", "99999999999"), ["is more than any text needs"]),
        (("--demo", "--format", "csv"), ["drop --format"]),
    ],
)
def test_wrong_usage(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    parts: list[str],
) -> None:
    (tmp_path / "a.txt").write_text("Some text.")
    (tmp_path / "sheet.xlsx").write_text("a,b")
    (tmp_path / "two.jsonl").write_text('{"title": "x", "body": "y"}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["build", "--output", "store", *arguments]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    for part in parts:
        assert part in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "sheet.xlsx", "two.jsonl"]
