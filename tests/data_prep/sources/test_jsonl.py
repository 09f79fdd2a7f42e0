"""JSON Lines: a line that is wrong is named by file and number, wherever it lies."""

import json
import zlib
from pathlib import Path

import pytest

from data_prep.sources import chunks
from pretrain.errors import DataError
from tests.data_prep.sources.reading import read_files


def test_texts_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = '{"text": "one\\ntwo"}\n\n \r\n{"id": 1, "text": "\\u00e9 \\ud83d\\ude00"}\r\n{"text": " "}\n{"text": null}'
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    texts, intake = read_files(path)
    assert texts == ["one\ntwo", "é 😀"]
    assert dict(intake.dropped) == {"empty": 1, "null text": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": bro', r" is not valid JSON .* at column 10"),
        ("[1]", r" holds a JSON list where an object"),
        ('{"body": "x", "id": 3}', r" has no column 'text'; it has 'body', 'id'"),
        ('{"text": 5}', r": the column 'text' holds a number"),
        ('{"text": ["x"]}', r": the column 'text' holds a list"),
        ('{"text": "\\ud800"}', r": its text has half of a surrogate pair"),
        ("[" * 100_000, r" cannot be read as JSON"),
    ],
)
@pytest.mark.parametrize("num_before", [1, 60_000])
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str, num_before: int) -> None:
    content = ('{"text": "This is fine, dear."}\n' * num_before + line + "\n").encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    packed = tmp_path / "b.jsonl.gz"
    packer = zlib.compressobj(1, wbits=31)
    packed.write_bytes(packer.compress(content) + packer.flush())
    for each in (path, packed):
        with pytest.raises(DataError, match=rf"{each}:{num_before + 1}{message}"):
            read_files(each)


def test_bad_text_is_replaced_or_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "e"}\n{"text": "a \xff b"}\n{"text": "c \\udc00 d"}\n')
    with pytest.raises(DataError, match="at byte 26 "):
        read_files(path)
    texts, intake = read_files(path, on_bad_text="replace")
    assert texts == ["e", "a \N{REPLACEMENT CHARACTER} b", "c \N{REPLACEMENT CHARACTER} d"]
    assert intake.repaired == 2
    texts, intake = read_files(path, on_bad_text="skip")
    assert (texts, dict(intake.dropped)) == (["e"], {"invalid UTF-8": 2})


def test_a_long_text_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    text = "Some words go here. " * 120_000
    path.write_text(json.dumps({"text": "first"}) + "\n" + json.dumps({"text": text}) + '\n{"text": "last"}')
    texts, intake = read_files(path)
    assert "".join(texts) == f"first{text}last"
    assert intake.documents_cut == len(texts) - 3 == 2


@pytest.mark.parametrize("num_bytes", [2_000_001, 5_000_000])
@pytest.mark.parametrize("place", ["first", "middle", "last", "last without newline"])
def test_an_endless_line_is_refused_or_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, num_bytes: int
) -> None:
    monkeypatch.setattr(chunks, "MAX_JSON_LINE_BYTES", 2_000_000)
    longest = json.dumps({"text": "x" * (2_000_000 - 12)})
    assert len(longest) == 2_000_000
    lines = [json.dumps({"text": f"{number}"}) for number in range(5)] + [longest]
    position = {"first": 0, "middle": 3}.get(place, len(lines))
    lines.insert(position, json.dumps({"text": "y" * (num_bytes - 12)}))
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines) + "\n" * (place != "last without newline"))
    with pytest.raises(DataError, match=rf"a\.jsonl:{position + 1} is longer than 2,000,000 bytes"):
        read_files(path)
    texts, intake = read_files(path, on_bad_text="skip")
    assert (texts[:5], sum(map(len, texts[5:]))) == (list("01234"), 2_000_000 - 12)
    assert dict(intake.dropped) == {"line too long": 1}
