"""CSV and TSV against what `csv` itself writes; broken rows are named by their line."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.options import InputOptions
from data_prep.sources import corpus, delimited
from data_prep.sources.corpus import open_files
from pretrain.errors import DataError, UsageError
from tests.data_prep.sources.reading import read_files

FIELD = st.text(st.sampled_from('ab",\t\n\r é😀 '), max_size=12)


@settings(max_examples=150)
@given(rows=st.lists(st.tuples(FIELD, FIELD), max_size=12), is_tab=st.booleans(), has_mark=st.booleans())
def test_what_csv_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], is_tab: bool, has_mark: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / ("a.tsv" if is_tab else "a.csv")
    buffer = io.StringIO(newline="")
    # With "\n" between rows, `csv` would leave a lone "\r" without quotes.
    delimiter = "\t" if is_tab else ","
    if has_mark:
        writer = csv.writer(buffer, delimiter=delimiter)
    else:
        writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([("id", "text"), *rows])
    path.write_text("\N{ZERO WIDTH NO-BREAK SPACE}" * has_mark + buffer.getvalue(), newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "CHUNK_BYTES", 7)
        texts, intake = read_files(path)
    assert texts == [text for _, text in rows if text.strip()]
    assert intake.bytes_read == (path.stat().st_size if rows else 0)


def test_long_rows_are_held_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch holds about a chunk of text, however many rows that is."""
    sizes: list[int] = []

    class Spy(delimited.Batch):
        def __init__(self, rows: list[bytes | None], num_bytes: int) -> None:
            super().__init__(rows, num_bytes)
            sizes.append(sum(len(row or b"") for row in rows))

    monkeypatch.setattr(delimited, "Batch", Spy)
    monkeypatch.setattr(corpus, "CHUNK_BYTES", 1000)
    (tmp_path / "a.csv").write_text("text\n" + "".join(f"{'long ' * 60}\n" for _ in range(100)))
    texts, _ = read_files(tmp_path)
    assert len(texts) == 100
    assert max(sizes) < 1000 + 300


def test_words_that_mean_missing_elsewhere_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\nNA\nnull\nNone\n123\nnan\n")
    assert read_files(tmp_path)[0] == ["NA", "null", "None", "123", "nan"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,text\n1,one\n2,two, and more\n", r"a\.csv:3 has 3 fields where the first line has 2"),
        ('id,text\n1,"two\nlines"\n2\n', r"a\.csv:4 has 1 fields where"),
        ('id,text\n1,"never closed\n2,two\n', r"a\.csv:3 is not valid CSV \(unexpected end of data\)"),
        ('id,text\n1,"closed" here\n', r"a\.csv:2 is not valid CSV"),
        (
            "id,body\n1,x\n",
            r"a\.csv has no column 'text'; its first line, cut at each comma, names 'id', 'body'",
        ),
        ("id,text,text\n1,x,y\n", r"a\.csv has several columns named 'text'"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises((DataError, UsageError), match=message):
        read_files(tmp_path, text_column="text")


def test_invalid_utf8_is_named_by_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'id,text\n\xff,one\n2,"two\n\xc3("\n')
    with pytest.raises(DataError, match=r"a\.csv, row 2: its text is not valid UTF-8 at byte 4 "):
        read_files(tmp_path)
    assert read_files(tmp_path, on_bad_text="skip")[0] == ["one"]
    assert read_files(tmp_path, on_bad_text="replace")[0] == ["one", "two\n\N{REPLACEMENT CHARACTER}("]


@pytest.mark.parametrize("content", ["", "\n\n", "text\n"])
def test_files_without_rows(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    assert read_files(tmp_path)[0] == []


@pytest.mark.parametrize("named", [None, "body"])
@pytest.mark.parametrize(
    ("name", "delimiter", "found"),
    [
        ("a.csv", ",", None),
        ("a.csv", ";", ";"),
        ("a.csv", "\t", "\t"),
        ("a.csv", "|", "|"),
        ("a.tsv", "\t", None),
        ("a.tsv", ",", ","),
    ],
)
def test_the_delimiter_is_that_of_the_first_line(
    tmp_path: Path, name: str, delimiter: str, found: str | None, named: str | None
) -> None:
    buffer = io.StringIO(newline="")
    rows = [("", ""), ("id", "body"), ("1", 'one, "two"; three | four\tfive'), ("2", "six")]
    csv.writer(buffer, delimiter=delimiter).writerows(rows[1:])
    (tmp_path / "0.txt").write_text("plain")
    (tmp_path / f"0-empty-{name}").write_text("\n")
    (tmp_path / name).write_text("\n" + buffer.getvalue(), newline="")
    opened = open_files(InputOptions(paths=(str(tmp_path),), text_column=named))
    assert opened.describe()["delimiter"] == found
    assert read_files(tmp_path, text_column=named)[0] == ["plain", rows[2][1], "six"]


def test_what_may_separate_columns_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id;text|more\n1;x|y\n")
    with pytest.raises(
        UsageError, match=r"a\.csv: its first line has a semicolon and a bar.* a comma between"
    ):
        read_files(tmp_path)


def test_a_single_column_may_hold_any_delimiter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\none; two\nthree | four\n")
    assert read_files(tmp_path)[0] == ["one; two", "three | four"]


def test_a_file_cut_otherwise_than_the_first_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id;text\n1;x\n")
    (tmp_path / "b.csv").write_text("id,text\n1,x\n")
    with pytest.raises(
        DataError, match=r"b\.csv has no column 'text'; .*cut at each semicolon, names 'id,text'"
    ):
        read_files(tmp_path)
