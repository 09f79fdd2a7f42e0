"""The demo corpus from a made-up installation: what is prose, in which order, and what is dropped."""

import shutil
import sysconfig
from pathlib import Path

import pytest

from data_prep.documents import Intake
from data_prep.options import InputOptions
from data_prep.progress import Progress
from data_prep.sources import demo, listed
from data_prep.sources.demo import collect_demo, passages_of, prose
from data_prep.sources.listed import ListedCorpus
from data_prep.sources.reading import read_chunk
from data_prep.workers import Workers

DOCSTRING = """Return the sum of two numbers, which
    may be :class:`int` or :py:class:`~decimal.Decimal`.

    Parameters
    ----------
    first : ``int``
        The first of them, wrapped over
        two lines.
    - a bullet that is
      wrapped as well

    .. note:: a directive goes

    Usage::

        add(1,
            2)

    After the block.

    >>> add(1, 2)
    3

    ```python
    add(3, 4)

    ```
    The end.
    """

EXPECTED = """Return the sum of two numbers, which
may be int or decimal.Decimal.

Parameters

first : int

The first of them, wrapped over
two lines.

a bullet that is
wrapped as well

Usage::

After the block.

The end."""


def test_prose_keeps_text_and_drops_code() -> None:
    assert prose(DOCSTRING) == EXPECTED


def test_passages_are_the_docstrings_in_source_order() -> None:
    source = b'''"""The module says this in six words."""
import does_not_exist
def first():
    """Too short."""
    def inner():
        """An inner function is told of as well."""
class Second:
    """A class has something to say here."""
    async def method(self):
        "Single quotes are documentation just as well."
    x = """An ordinary string is not a docstring."""
'''
    assert passages_of(source) == [
        "The module says this in six words.",
        "An inner function is told of as well.",
        "A class has something to say here.",
        "Single quotes are documentation just as well.",
    ]
    assert passages_of(b'"""Broken source has no passages at all."""\ndef (:') == []
    assert passages_of(b'"""Half of a pair \\ud800 in a docstring is replaced."""') == [
        "Half of a pair ? in a docstring is replaced."
    ]


def module(*sentences: str) -> str:
    functions = [f'def f{i}():\n    """{sentence}"""\n' for i, sentence in enumerate(sentences)]
    return '"""' + " ".join(["A module about many things."] * 5) + '"""\n' + "".join(functions)


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    files = {
        "lib/zeta.py": module("The last module of the standard library speaks."),
        "lib/alpha/core.py": module("The first module of the standard library speaks.").replace(
            "many", "few"
        ),
        "lib/alpha/tests/test_core.py": module("A test is not a source of prose."),
        "lib/site-packages/copy.py": module("The last module of the standard library speaks."),
        "lib/site-packages/own.py": module("A package says something of its own.").replace("many", "own"),
        "lib/site-packages/tiny.py": '"""Six words are not a document."""',
        "lib/site-packages/bad.py": '"""Not a module.',
    }
    for name, content in files.items():
        (tmp_path / "one" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "one" / name).write_text(content)
    return tmp_path / "one"


def collect(root: Path, monkeypatch: pytest.MonkeyPatch, limit: int = 10**9) -> ListedCorpus:
    paths = {
        "stdlib": root / "lib",
        "purelib": root / "lib/site-packages",
        "platlib": root / "lib/site-packages",
    }
    monkeypatch.setattr(sysconfig, "get_path", lambda key: str(paths[key]))
    monkeypatch.setattr(
        demo, "topics", {"b": "The second topic has these words.\n" * 9, "a": "A first topic " * 9}
    )
    with Workers(2) as workers:
        return collect_demo(workers, Progress(quiet=True), limit)


def test_order_duplicates_and_place(
    installation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = collect(installation, monkeypatch)
    assert [document.origin for document in corpus.listed] == [
        "language reference/a",
        "language reference/b",
        "standard library/alpha/core.py",
        "standard library/zeta.py",
        "site-packages/own.py",
    ]
    assert dict(corpus.collected.dropped) == {"duplicate": 1, "too short": 1}
    assert corpus.collected.duplicate_passages == 2
    assert corpus.listed[2].text.endswith("\n\nThe first module of the standard library speaks.")
    shutil.move(installation, tmp_path / "elsewhere")
    assert collect(tmp_path / "elsewhere", monkeypatch) == corpus


def test_size_is_bounded(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = collect(installation, monkeypatch, limit=200)
    assert [document.origin for document in corpus.listed] == ["language reference/a", "language reference/b"]
    assert corpus.total_bytes == sum(len(document.text) for document in corpus.listed)


def test_chunks_hold_the_documents_and_the_tally_once(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = collect(installation, monkeypatch)
    monkeypatch.setattr(listed, "CHUNK_BYTES", 200)
    chunks = list(corpus.chunks(0))
    assert len(chunks) > 1
    assert sum(chunk.num_bytes for chunk in chunks) == corpus.total_bytes
    intake = Intake()
    texts = [text for chunk in chunks for text in read_chunk(chunk, InputOptions(demo=True), intake)]
    assert texts == [document.text for document in corpus.listed]
    assert (intake.documents, dict(intake.dropped)) == (7, {"duplicate": 1, "too short": 1})
    assert intake.duplicate_passages == 2
