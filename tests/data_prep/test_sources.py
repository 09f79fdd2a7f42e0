"""Files in, documents out: grouping, formats, offsets and line numbers."""

import json
import os
from pathlib import Path

import pytest

from data_prep.documents import MAX_DOCUMENT_BYTES, Intake
from data_prep.options import Grouping, InputOptions
from data_prep.sources import jsonl
from data_prep.sources.corpus import FileCorpus
from data_prep.sources.files import find_files
from data_prep.sources.jsonl import read_jsonl
from data_prep.sources.text import read_text
from pretrain.errors import DataError, UsageError


@pytest.mark.parametrize(
    ("grouping", "expected"),
    [
        ("blank-line", ["a\nb\n", "c\n", "d"]),
        ("line", ["a\n", "b\n", "c\n", "d"]),
        ("file", ["a\nb\n\n \t\nc\n\nd"]),
    ],
)
def test_grouping_of_plain_text(tmp_path: Path, grouping: Grouping, expected: list[str]) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\nb\n\n \t\nc\n\nd")
    intake = Intake()
    assert [document.text for document in read_text(path, grouping, "error", intake)] == expected
    assert intake.bytes_read == path.stat().st_size


def test_origins_are_byte_offsets(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    content = "é one\n\n\ntwo\r\n\r\nthree"
    path.write_bytes(content.encode())
    origins = [document.origin for document in read_text(path, "blank-line", "error", Intake())]
    offsets = [content.encode().index(word) for word in ("é".encode(), b"two", b"three")]
    assert origins == [f"{path} at byte {offset}" for offset in offsets]


@pytest.mark.parametrize("grouping", ["blank-line", "line", "file"])
def test_long_lines_are_cut_and_the_invalid_byte_behind_them_is_found(
    tmp_path: Path, grouping: Grouping
) -> None:
    path = tmp_path / "a.txt"
    long_line = b"Many words without an end. " * 100_000
    path.write_bytes(long_line)
    intake = Intake()
    texts = [document.text for document in read_text(path, grouping, "error", intake)]
    assert "".join(texts).encode() == long_line
    assert max(map(len, texts)) <= MAX_DOCUMENT_BYTES
    assert intake.documents_cut == len(texts) - 1 == 2
    path.write_bytes(long_line + b"\xc3(")
    with pytest.raises(DataError, match=rf"at byte {len(long_line)} "):
        list(read_text(path, grouping, "error", Intake()))


def test_jsonl_texts_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one\\ntwo"}\n\n{"id": 1, "text": "\\u00e9 \\ud83d\\ude00"}\n{"text": " "}')
    intake = Intake()
    documents = list(read_jsonl(path, "text", "error", intake))
    assert [document.text for document in documents] == ["one\ntwo", "é 😀"]
    assert [document.origin for document in documents] == [f"{path}:1", f"{path}:3"]
    assert dict(intake.dropped) == {"empty": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": bro', r":2 is not valid JSON .* at column 10"),
        ("[1]", r":2 holds a JSON list where an object"),
        ('{"body": "x", "id": 3}', r":2 has no column 'text'; it has 'body', 'id'"),
        ('{"text": 5}', r":2: the column 'text' holds a number"),
        ('{"text": null}', r":2: the column 'text' holds a null"),
        ('{"text": ["x"]}', r":2: the column 'text' holds a list"),
        ('{"text": "\\ud800"}', r":2: its text has half of a surrogate pair"),
        ("[" * 100_000, r":2 cannot be read as JSON"),
    ],
)
def test_a_bad_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(DataError, match=message) as caught:
        list(read_jsonl(path, "text", "error", Intake()))
    assert str(path) in str(caught.value)


def test_jsonl_bad_text_is_replaced_or_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "e"}\n{"text": "a \xff b"}\n{"text": "c \\udc00 d"}\n')
    with pytest.raises(DataError, match="at byte 26 "):
        list(read_jsonl(path, "text", "error", Intake()))
    intake = Intake()
    texts = [document.text for document in read_jsonl(path, "text", "replace", intake)]
    assert texts == ["e", "a \N{REPLACEMENT CHARACTER} b", "c \N{REPLACEMENT CHARACTER} d"]
    assert intake.repaired == 2
    intake = Intake()
    assert [document.text for document in read_jsonl(path, "text", "skip", intake)] == ["e"]
    assert dict(intake.dropped) == {"invalid UTF-8": 2}


def test_a_long_json_text_is_cut_and_an_endless_line_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    text = "Some words go here. " * 120_000
    path.write_text(json.dumps({"text": text}))
    intake = Intake()
    texts = [document.text for document in read_jsonl(path, "text", "error", intake)]
    assert "".join(texts) == text
    assert intake.documents_cut == len(texts) - 1 == 2
    monkeypatch.setattr(jsonl, "MAX_JSON_LINE_BYTES", 1000)
    with pytest.raises(DataError, match=r"a\.jsonl:1 is longer than 1000 bytes"):
        list(read_jsonl(path, "text", "error", Intake()))


def test_folders_are_sorted_and_hidden_and_unknown_files_left_out(tmp_path: Path) -> None:
    for name in ("b/z.txt", "b/a.jsonl", "a.txt", "c.csv", ".hidden.txt", ".git/x.txt", "b/wiki_00"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = find_files((str(tmp_path),), "auto")
    names = [(file.path.relative_to(tmp_path).as_posix(), file.format) for file in found.files]
    assert names == [("a.txt", "text"), ("b/a.jsonl", "jsonl"), ("b/wiki_00", "text"), ("b/z.txt", "text")]
    assert found.ignored == {".csv": 1}
    again = find_files((str(tmp_path / "b" / "*.txt"), str(tmp_path / "b" / "z.txt")), "auto")
    assert [file.path for file in again.files] == [tmp_path / "b" / "z.txt"]


@pytest.mark.parametrize("name", ["missing", "missing/*.txt", "table.csv", "empty", "pipe"])
def test_paths_that_cannot_be_read_are_usage_errors(tmp_path: Path, name: str) -> None:
    (tmp_path / "table.csv").write_text("x")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError):
        find_files((str(tmp_path / name),), "auto")


def test_the_sample_takes_a_share_of_each_file_and_is_repeatable(tmp_path: Path) -> None:
    for index in range(4):
        (tmp_path / f"{index}.txt").write_text("".join(f"{index} line {line}\n\n" for line in range(1000)))
    options = InputOptions(paths=(str(tmp_path),))
    corpus = FileCorpus(find_files(options.paths, "auto"), options)
    sample = list(corpus.sample(corpus.total_bytes // 10))
    assert sample == list(corpus.sample(corpus.total_bytes // 10))
    assert {text[0] for text in sample} == set("0123")
    assert 0.05 < sum(map(len, sample)) / corpus.total_bytes < 0.15
    assert len(list(corpus.sample(10**9))) == 4000
