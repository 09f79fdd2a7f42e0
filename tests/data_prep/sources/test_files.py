"""Which files are read, in which order, and files that are not what they were when the build began."""

import os
from pathlib import Path

import pytest

from data_prep.options import Format, InputOptions
from data_prep.sources.corpus import open_files
from data_prep.sources.files import find_files
from pretrain.errors import DataError, UsageError
from tests.data_prep.sources.reading import read_files


def test_folders_are_sorted_and_hidden_and_unknown_files_left_out(tmp_path: Path) -> None:
    names = "b/z.txt b/a.jsonl.zst a.txt c.csv .hidden.txt .git/x.txt b/wiki_00.bz2 d.pdf e.pdf f.parquet.gz G.TSV h.z"
    for name in names.split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = find_files((str(tmp_path),), "auto")
    assert [
        (file.path.relative_to(tmp_path).as_posix(), file.format, file.compression) for file in found.files
    ] == [
        ("G.TSV", "csv", None),
        ("a.txt", "text", None),
        ("b/a.jsonl.zst", "jsonl", "zst"),
        ("b/wiki_00.bz2", "text", "bz2"),
        ("b/z.txt", "text", None),
        ("c.csv", "csv", None),
    ]
    assert found.ignored == {".parquet.gz": 1, ".pdf": 2, ".z": 1}


def test_a_file_named_twice_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "link.txt").symlink_to("a.txt")
    monkeypatch.chdir(tmp_path)
    found = find_files(("*.txt", str(tmp_path / "a.txt"), "./a.txt", "."), "auto")
    assert [file.path for file in found.files] == [Path("a.txt")]


@pytest.mark.parametrize("chosen", ["text", "jsonl"])
def test_a_chosen_format_is_that_of_all_files(tmp_path: Path, chosen: Format) -> None:
    for name in ("a.dat", "b.json", "c.txt.gz"):
        (tmp_path / name).write_text("x")
    found = find_files((str(tmp_path),), chosen)
    assert [(file.format, file.compression) for file in found.files] == [
        (chosen, None),
        (chosen, None),
        (chosen, "gz"),
    ]


@pytest.mark.parametrize(
    "name", ["missing", "missing/*.txt", "table.xls", "a.parquet.gz", "empty", "pipe", "p*", "unknown"]
)
def test_paths_that_cannot_be_read_are_usage_errors(tmp_path: Path, name: str) -> None:
    (tmp_path / "table.xls").write_text("x")
    (tmp_path / "a.parquet.gz").write_text("x")
    (tmp_path / "unknown").mkdir()
    (tmp_path / "unknown" / "a.pdf").write_text("x")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError):
        find_files((str(tmp_path / name),), "auto")


def test_pipes_below_a_folder_are_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "a.txt").write_text("some words")
    assert read_files(tmp_path)[0] == ["some words"]


@pytest.mark.parametrize("change", ["grown", "rewritten", "replaced", "removed"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_a_file_that_changes_is_an_error(tmp_path: Path, change: str, when: str, name: str) -> None:
    path = tmp_path / name
    content = {"a.txt": "Some words.\n\n", "a.jsonl": '{"text": "Some words."}\n', "a.csv": "text\n"}[name]
    path.write_text(content * 200_000)
    status = path.stat()
    chunks = open_files(InputOptions(paths=(str(path),))).chunks(0)
    if when == "meanwhile":
        next(chunks)
    if change == "grown":
        with path.open("a") as file:
            file.write(content)
    elif change == "rewritten":
        path.write_text(content.upper() * 200_000)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "replaced":
        (tmp_path / "new").write_text("new")
        (tmp_path / "new").rename(path)
    else:
        path.unlink()
    expected = (
        "was there when the build began and is gone" if change == "removed" else "changed while it was read"
    )
    with pytest.raises(DataError, match=rf"{name} {expected}.* start again"):
        list(chunks)


def test_a_file_that_may_not_be_read_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    corpus = open_files(InputOptions(paths=(str(path),)))
    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    with pytest.raises(UsageError, match=r"a\.txt cannot be read: Permission denied"):
        list(corpus.chunks(0))


def test_links_are_followed_and_lead_around_once(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b.txt").write_text("two")
    (tmp_path / "corpus/a.txt").write_text("one")
    (tmp_path / "corpus/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "corpus")
    files = find_files((str(tmp_path / "corpus"),), "auto").files
    assert [file.path.name for file in files] == ["a.txt", "b.txt"]


def test_what_a_folder_cannot_give_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"gone\.txt is a link to nothing"):
        find_files((str(tmp_path),), "auto")
    (tmp_path / "gone.txt").unlink()

    def closed(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", closed)  # as root, nothing is closed
    with pytest.raises(UsageError, match="cannot be read: Permission denied; what is in it would be missing"):
        find_files((str(tmp_path),), "auto")


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(UsageError, match="empty path"):
        find_files(("",), "auto")
