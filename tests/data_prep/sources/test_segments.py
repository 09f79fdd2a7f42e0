"""A file read in segments has the documents of the file read at once, however it is cut."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep import documents
from data_prep.documents import Intake, byte_cut
from data_prep.options import Grouping, InputOptions
from data_prep.sources import boundaries, chunks, corpus, segments
from data_prep.sources.boundaries import newlines_of
from data_prep.sources.corpus import open_files
from data_prep.sources.files import Compression, InputFile
from data_prep.sources.segments import Share, plan_segments
from tests.data_prep.sources.reading import read_files, read_segments

LIMIT = 12
GZIP: Compression = "gz"
PIECES = (
    *(b"a", b"Bc. ", b" ", b"\v", "é".encode(), b"longer", b"x" * (LIMIT - 1), b"y" * LIMIT, b" " * LIMIT),
    *(b"\n", b"\r\n", b"\n\n", b"\n \t\n", b"\r\n\r\n", b"\f\n", b"\n" * LIMIT),
)
CONTENT = st.lists(st.sampled_from(PIECES), max_size=24).map(b"".join)


@pytest.fixture(scope="module", autouse=True)
def everything_is_small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (chunks, documents):
            patch.setattr(module, "MAX_DOCUMENT_BYTES", LIMIT)
        patch.setattr(corpus, "CHUNK_BYTES", 5)
        patch.setattr(boundaries, "_SCAN_BYTES", 3)
        yield


def reference(content: bytes, newlines: int) -> list[tuple[int, str]]:
    """The rule, applied to a whole file: `newlines` with white space alone between them end a document.

    (byte at which the document begins, text), both of its pieces where it is cut.
    """
    separator = re.compile(rb"(?:\n[ \t\r\v\f]*){%d}\n" % (newlines - 1))
    begins = [match.end() for match in re.finditer(separator.pattern + rb"\s*", content)]
    begins = [len(content) - len(content.lstrip()), *begins]
    rest = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    found = []
    while rest:
        match = separator.search(rest)
        end = match.end() if match else len(rest)
        if end > (LIMIT + 1 if match else LIMIT):
            end = byte_cut(rest[: LIMIT + 1], LIMIT)
        document = rest[:end].rstrip()
        found.append((max(each for each in begins if each <= len(content) - len(rest)), document.decode()))
        rest = rest[len(document) :].lstrip()
    return found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("segments") / "a.txt"


@settings(max_examples=400)
@given(
    content=CONTENT,
    grouping=st.sampled_from(["blank-line", "line"]),
    segment_bytes=st.integers(1, 40),
    has_mark=st.booleans(),
)
@example(content=b"a\n\nb", grouping="blank-line", segment_bytes=1, has_mark=False)
@example(content=b"", grouping="line", segment_bytes=1, has_mark=True)
@example(content=b"x" * LIMIT + b"\n\nnext", grouping="blank-line", segment_bytes=3, has_mark=False)
@example(content=b"x" * 11 + b"\n \n" + b"y" * 40, grouping="blank-line", segment_bytes=13, has_mark=True)
def test_segments_add_up(
    path: Path, content: bytes, grouping: Grouping, segment_bytes: int, has_mark: bool
) -> None:
    whole = b"\xef\xbb\xbf" * has_mark + content
    path.write_bytes(whole)
    options = InputOptions(paths=(str(path),), documents=grouping, segment_bytes=segment_bytes)
    opened = open_files(options)
    assert opened.num_segments == max(1, -(-len(whole) // segment_bytes))
    expected = reference(whole, newlines_of(grouping))
    assert read_segments(opened, options, Intake()) == [
        [text for begin, text in expected if begin // segment_bytes == number]
        for number in range(opened.num_segments)
    ]
    assert read_files(path, documents=grouping)[0] == [text for _, text in expected]


@settings(max_examples=200)
@given(
    lines=st.lists(
        st.sampled_from(
            ["", " ", '{"text": "a b"}', ' {"text": "' + "z" * LIMIT + '"}', '{"text": "e\\n\\n"}']
        )
    ),
    ending=st.sampled_from(["\n", "\r\n"]),
    segment_bytes=st.integers(1, 60),
    ends_with_newline=st.booleans(),
)
def test_segments_of_json_lines_add_up(
    path: Path, lines: list[str], ending: str, segment_bytes: int, ends_with_newline: bool
) -> None:
    path = path.with_suffix(".jsonl")
    path.write_bytes((ending.join(lines) + ending * ends_with_newline).encode())
    options = InputOptions(paths=(str(path),), segment_bytes=segment_bytes)
    found = [text for segment in read_segments(open_files(options), options, Intake()) for text in segment]
    assert found == [json.loads(line)["text"] for line in lines if line.strip()]


def test_small_files_run_together_and_big_ones_are_split() -> None:
    a, b, big, c, packed, d = (
        InputFile(Path(name), "text", size, 0, compression)
        for name, size, compression in (
            ("a", 40, None),
            ("b", 60, None),
            ("big", 250, None),
            ("c", 1, None),
            ("packed", 500, GZIP),
            ("d", 1, None),
        )
    )
    options = InputOptions(segment_bytes=100)
    parts = [(Share(big, 0, 100),), (Share(big, 100, 200),), (Share(big, 200, 250),)]
    expected = ((Share(a), Share(b)), *parts, (Share(c),), (Share(packed),), (Share(d),))
    assert plan_segments([a, b, big, c, packed, d], options) == expected
    assert plan_segments([big], replace(options, documents="file")) == ((Share(big),),)
    assert plan_segments([], options) == ((),)
    assert segments.newlines_between(replace(big, format="csv"), options) == 0


def test_a_segment_is_read_by_seeking(path: Path) -> None:
    path.write_bytes(b"Some words here.\n\n" * 100_000)
    options = InputOptions(paths=(str(path),), segment_bytes=100_000)
    opened = open_files(options)
    with pytest.MonkeyPatch.context() as patch:
        patch.undo()
        before = bytes_read_by_this_process()
        for module, name, value in (
            (chunks, "MAX_DOCUMENT_BYTES", 1 << 20),
            (corpus, "CHUNK_BYTES", 1 << 20),
        ):
            patch.setattr(module, name, value)
        texts = [chunk for chunk in opened.chunks(9)]
        assert bytes_read_by_this_process() - before < 150_000
    assert texts


def bytes_read_by_this_process() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])
