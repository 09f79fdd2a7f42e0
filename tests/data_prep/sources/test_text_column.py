"""Which column holds the text, where none is named."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.options import InputOptions
from data_prep.progress import Progress
from data_prep.sources.corpus import open_files
from data_prep.sources.opening import open_corpus
from data_prep.workers import Workers
from pretrain.errors import DataError, UsageError
from tests.data_prep.sources.reading import read_files


def write(path: Path, row: dict[str, object]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: [value] for name, value in row.items()}), path)
    elif path.suffix == ".csv":
        path.write_text(f"{','.join(row)}\n{','.join(map(str, row.values()))}\n")
    else:
        path.write_text(f"\n{json.dumps(row)}\n")


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl"])
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"title": "t", "text": "x"}, "text"),
        ({"id": 1, "body": "x", "score": 0.5}, "body"),
        (
            {"id": 1, "body": "x", "title": "t"},
            r"no column 'text' and several columns of strings \('body', 'title'\)",
        ),
        (
            {"id": 1},
            r"no column 'text' and no column of strings \(but 'id'\); name the column .* --text-column",
        ),
    ],
)
def test_the_column_is_found_or_asked_for(
    tmp_path: Path, name: str, row: dict[str, object], expected: str
) -> None:
    write(tmp_path / name, row)
    options = InputOptions(paths=(str(tmp_path),))
    if expected.isalpha():
        assert open_files(options).column == expected
        assert read_files(tmp_path)[0] == ["x"]
        return
    with pytest.raises(UsageError, match=rf"{name} has {expected}"):
        open_files(options)


def test_the_first_file_with_columns_decides_for_all(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("plain")
    (tmp_path / "1.jsonl").write_text("\n")
    write(tmp_path / "2.jsonl", {"body": "one"})
    write(tmp_path / "3.csv", {"id": 1, "body": "two", "title": "t"})
    assert read_files(tmp_path)[0] == ["plain", "one", "two"]
    write(tmp_path / "4.parquet", {"text": "three"})
    with pytest.raises(DataError, match=r"4\.parquet has no column 'body'; it has 'text'"):
        read_files(tmp_path)


def test_without_columns_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("plain")
    assert open_files(InputOptions(paths=(str(tmp_path),))).column is None
    (tmp_path / "a.txt").rename(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"a\.jsonl:1 is not valid JSON"):
        open_files(InputOptions(paths=(str(tmp_path),)))
    (tmp_path / "a.jsonl").write_text("")
    assert read_files(tmp_path)[0] == []


@pytest.mark.parametrize(
    "first_line",
    [
        "1,hello there",
        "word,A short sentence is here.",
        f"word,{'long' * 30}",
        "one two three four five six seven eight nine",
        '"two\nlines",word',
    ],
)
def test_a_row_is_no_header(tmp_path: Path, first_line: str) -> None:
    (tmp_path / "a.csv").write_text(f"{first_line}\n{first_line}\n")
    with pytest.raises(
        UsageError, match=r"a\.csv seems to have no header: .* put a line with the names before it"
    ):
        open_files(InputOptions(paths=(str(tmp_path),)))


def test_an_odd_header_is_believed_where_the_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2019\nx,hello there\n")
    assert read_files(tmp_path, text_column="2019")[0] == ["hello there"]
    (tmp_path / "a.csv").write_text(",2019,text\nx,1,hello there\n")
    assert read_files(tmp_path)[0] == ["hello there"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,body,body\n1,x,y\n")
    with pytest.raises(UsageError, match=r"a\.csv has several columns named 'body'"):
        read_files(tmp_path)
    (tmp_path / "a.csv").unlink()
    pq.write_table(pa.table([["x"], ["y"]], names=["body", "body"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet has several columns named 'body'"):
        read_files(tmp_path, text_column="body")


def test_columns_of_plain_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("plain")
    with pytest.raises(UsageError, match=r"--text-column body: all of the input is plain text"):
        open_files(InputOptions(paths=(str(tmp_path),), text_column="body"))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_the_chosen_column_is_said(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / name, {"id": 1, "body": "x"})
    with Workers(1) as workers:
        corpus = open_corpus(InputOptions(paths=(str(tmp_path),)), workers, Progress())
    assert "The text is that of the column 'body'." in capsys.readouterr().err
    assert corpus.describe()["text_column"] == "body"
