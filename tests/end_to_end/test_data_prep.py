"""`python -m data_prep ...` as a user types it: the whole way, and what each bad input gets."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from data_prep.demo import build_demo_store
from pretrain.data.store import TokenStore, partial_path
from pretrain.errors import UsageError
from tests.worlds import ROOT, run_python

SMALL = ("--vocab-size", "300", "--workers", "1")

LINES = [f"Sentence {i} is about number {i * i % 97}. It has a sequel. So it goes." for i in range(200)]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "data_prep", *map(str, arguments)]


def data_prep(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Forked where the libraries are imported; a few commands below have an interpreter of their own."""
    return run_python("-m", "data_prep", *arguments, env={"COLUMNS": "200"}, cwd=cwd or ROOT, timeout=300)


def assert_fails(result: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """The exit code, and one sentence on stderr that has these parts; no traceback."""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert (result.returncode, len(errors)) == (code, 1), result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in errors[0]


def assert_nothing_left(folder: Path, *allowed: str) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(allowed)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a folder with .txt and .jsonl files."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "text").mkdir()
    (folder / "text" / "a.txt").write_text("\n\n".join(LINES[:100]))
    rows = [json.dumps({"id": i, "body": line}) for i, line in enumerate(LINES[100:])]
    (folder / "text" / "b.jsonl").write_text("\n".join(rows))
    result = data_prep(
        "build", "--input", "text", "--output", "store", "--text-column", "body", "--workers", "2", cwd=folder
    )
    assert result.returncode == 0, result.stderr
    assert "200 of 200" in result.stdout
    assert_nothing_left(folder, "text", "store")
    return folder / "store"


def test_own_text_build_verify_inspect(built: Path) -> None:
    verified = data_prep("verify", built)
    assert (verified.returncode, "whole" in verified.stdout) == (0, True), verified.stderr
    inspected = data_prep("inspect", built, "--samples", "2")
    assert inspected.returncode == 0, inspected.stderr
    assert TokenStore.open(built).fingerprint in inspected.stdout
    assert "it has a sequel." in inspected.stdout
    tokenizer = AutoTokenizer.from_pretrained(str(built / "tokenizer"))
    assert tokenizer.mask_token_id == 4


def test_the_tokenizer_command_and_a_store_made_with_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(LINES))
    trained = data_prep(
        "tokenizer",
        "--input",
        "a.txt",
        "--output",
        "tok",
        "--train-tokenizer",
        "wordpiece",
        *SMALL,
        cwd=tmp_path,
    )
    assert trained.returncode == 0, trained.stderr
    result = data_prep(
        "build",
        "--input",
        "a.txt",
        "--output",
        "store",
        "--tokenizer",
        "tok",
        "--documents",
        "line",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    own = (tmp_path / "store" / "tokenizer" / "tokenizer.json").read_bytes()
    assert own == (tmp_path / "tok" / "tokenizer.json").read_bytes()
    assert TokenStore.open(tmp_path / "store").manifest.splits["train"].documents > 150


def test_the_demo_store_is_built_once_and_reused(tmp_path: Path) -> None:
    """A small one, so that the test is quick; then by the function that a training run calls."""
    first = data_prep(
        "build", "--demo", "--demo-bytes", "400000", "--output", tmp_path / "store", "--workers", "2"
    )
    assert first.returncode == 0, first.stderr
    store = TokenStore.open(tmp_path / "store")
    assert store.split("train").num_documents > 20
    assert store.split("heldout").num_documents > 0
    with pytest.raises(UsageError):  # its size is not the demo store's
        build_demo_store(tmp_path / "store", workers=1)
    assert build_demo_store(tmp_path / "store", workers=1, num_bytes=400_000) == tmp_path / "store"
    assert TokenStore.open(tmp_path / "store").fingerprint == store.fingerprint


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--input", "missing.txt"), ["missing.txt does not exist"]),
        (("--input", "two.jsonl"), ["'title', 'body'", "--text-column"]),
        (("--input", "a.txt", "--overwrit"), ["build has no --overwrit"]),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], parts: list[str]) -> None:
    (tmp_path / "a.txt").write_text("Some text.")
    (tmp_path / "two.jsonl").write_text('{"title": "x", "body": "y"}')
    assert_fails(data_prep("build", "--output", "store", *arguments, cwd=tmp_path), 2, *parts)
    assert_nothing_left(tmp_path, "a.txt", "two.jsonl")


def test_an_unknown_option_is_wrong_usage(tmp_path: Path) -> None:
    result = data_prep("build", "--demo", "--output", "store", "--worker-count", "2", cwd=tmp_path)
    assert (result.returncode, "--worker-count" in result.stderr) == (2, True)


@pytest.mark.parametrize("output", ["a.txt/store", "/proc/nowhere/store", "a.txt"])
def test_an_output_that_cannot_be_written(tmp_path: Path, output: str) -> None:
    (tmp_path / "a.txt").write_text("Some text.")
    result = data_prep("build", "--input", "a.txt", "--output", output, *SMALL, cwd=tmp_path)
    assert_fails(result, 2, "--output", output)
    assert "File exists" not in result.stderr
    assert ("a.txt is a file" in result.stderr) == output.startswith("a.txt")
    assert_nothing_left(tmp_path, "a.txt")


def test_a_note_is_shown_once_and_a_short_build_has_no_rate(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(LINES))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789."]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n")
    arguments = ("build", "--input", "a.txt", "--tokenizer", "vocab.txt", "--output", "store")
    result = data_prep(*arguments, "--workers", "1", "--timings", "t.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    note = "no entry has a capital letter"
    assert (result.stderr.count(note), result.stdout.count(note)) == (1, 0)
    assert "seconds: encoding" in result.stdout
    assert "steady rate" not in result.stdout
    assert json.loads((tmp_path / "t.json").read_text())["mb_per_second"] is None
    # An accepted store has not said it on the way.
    again = data_prep(*arguments, "--resume", cwd=tmp_path)
    assert (again.stderr.count(note), again.stdout.count(note)) == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "is_group"), [("SIGTERM", False), ("SIGINT", True)])
def test_a_signal_stops_a_build_with_a_sentence(
    tmp_path: Path, built: Path, name: str, is_group: bool
) -> None:
    """First while the tokenizer is trained, when there is nothing to keep, then while text is encoded."""
    (tmp_path / "a.txt").write_text("\n\n".join(LINES * 4_000))
    arguments = ("build", "--input", "a.txt", "--output", "store", "--workers", "1", "--save-every", "0.05")
    trained = built / "tokenizer"
    for phase, tokenizer, says in (
        (
            "training the tokenizer ...",
            ("--vocab-size", "300"),
            ["nothing was kept, start the same command again."],
        ),
        ("tokenizing ...", ("--tokenizer", trained), ["again with --resume to go on", "kept"]),
    ):
        process = subprocess.Popen(
            command(*arguments, *tokenizer),
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stderr is not None
        seen = ""
        while phase not in seen:
            line = process.stderr.readline()
            assert line, seen
            seen += line
        children = children_of(process.pid)
        (os.killpg if is_group else os.kill)(process.pid, getattr(signal, name))
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 75, errors
        assert errors.count("error: ") == 1
        assert "Traceback" not in errors
        for part in [f"stopped by {name}", *says]:
            assert part.lower() in errors.lower()
        assert ("--resume" in errors) == (phase == "tokenizing ...")
        deadline = time.monotonic() + 10
        while any(map(is_alive, children)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.txt", b"", ["corpus is empty"]),
        ("a.txt", b"Good text.\n\nBad \xff text.", ["a.txt is not valid UTF-8 at byte 16", "--on-bad-text"]),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"body": "y", "id": 1}\n',
            ["a.jsonl:2 has no column 'text'", "'body', 'id'"],
        ),
        ("a.jsonl", b'{"text": "x"}\n{"text": "y"\n', ["a.jsonl:2 is not valid JSON"]),
        ("a.jsonl", b'{"text": "x"}\n{"text": 7}\n', ["a.jsonl:2", "'text' holds a number"]),
        ("a.jsonl", b'{"text": "x\xff"}\n', ["a.jsonl is not valid UTF-8 at byte 11"]),
    ],
)
def test_bad_text(tmp_path: Path, name: str, content: bytes, parts: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    assert_fails(data_prep("build", "--input", name, "--output", "store", *SMALL, cwd=tmp_path), 3, *parts)
    assert_nothing_left(tmp_path, name)


@pytest.mark.parametrize(("choice", "kept"), [("replace", 3), ("skip", 2)])
def test_bad_text_replaced_or_skipped(tmp_path: Path, choice: str, kept: int) -> None:
    (tmp_path / "a.txt").write_bytes(b"Good text one.\n\nBad \xff text.\n\nGood text two.\n")
    result = data_prep(
        "build", "--input", "a.txt", "--output", "store", "--on-bad-text", choice, *SMALL, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "store" / "report.json").read_text())
    assert report["documents"]["kept"] == kept
    assert report["documents"]["dropped"] == ({} if choice == "replace" else {"invalid UTF-8": 1})


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_one_endless_line_takes_bounded_memory(tmp_path: Path, name: str) -> None:
    """A tokenizer takes some 200 bytes for each byte of a single text, which would be 1.6 GB here."""
    text = "words without any end to their sentence " * 200_000
    (tmp_path / name).write_text(text if name == "a.txt" else json.dumps({"text": text}))
    sample = ("--tokenizer-sample-bytes", "200000", "--shard-tokens", "1000000")
    arguments = ("build", "--input", name, "--output", "store", *sample, *SMALL)
    # A process begins with the peak memory of the one it was forked from: a small one in between.
    measure = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    result = subprocess.run(
        [sys.executable, "-c", measure, *map(str, command(*arguments))],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=True,
        stdout=subprocess.PIPE,
    )
    assert int(result.stdout) < 500_000  # KiB, the largest of the main process and its workers
    report = json.loads((tmp_path / "store" / "report.json").read_text())
    assert report["documents"]["cuts_because_long"] >= 7
    assert report["splits"]["train"]["tokens"] + report["splits"]["heldout"]["tokens"] >= 7 * 200_000


def test_a_truncated_store(built: Path, tmp_path: Path) -> None:
    store = copy_of(built, tmp_path)
    os.truncate(store / "train-00000.tokens", 100)
    for arguments in (("verify", store), ("verify", "--quick", store), ("inspect", store)):
        result = data_prep(*arguments)
        assert_fails(result, 3)
        assert "train-00000.tokens has 100 bytes" in result.stderr


def test_a_changed_byte_is_found_by_the_full_verification_alone(built: Path, tmp_path: Path) -> None:
    store = copy_of(built, tmp_path)
    with (store / "heldout-00000.tokens").open("r+b") as file:
        file.write(b"\x07")
    assert data_prep("verify", "--quick", store).returncode == 0
    result = data_prep("verify", store)
    assert_fails(result, 3, "1 problem")
    assert "heldout-00000.tokens has changed" in result.stderr


def test_a_store_of_another_version(built: Path, tmp_path: Path) -> None:
    store = copy_of(built, tmp_path)
    manifest = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps(manifest | {"version": 3}))
    for command_name in ("verify", "inspect"):
        result = data_prep(command_name, store)
        assert_fails(result, 3)
        assert "version 3" in result.stderr


def test_what_is_not_a_store(tmp_path: Path) -> None:
    assert_fails(data_prep("verify", tmp_path), 3, "has no manifest.json")
    assert_fails(data_prep("inspect", tmp_path / "missing"), 2, "no token store")


def test_a_finished_store_is_not_built_again(built: Path) -> None:
    arguments = ("build", "--input", built.parent / "text", "--text-column", "body", "--output", built)
    assert_fails(data_prep(*arguments), 2, "is a token store already", "--overwrite")


def test_a_killed_build_leaves_no_store_and_no_process(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(LINES * 80))
    arguments = ("build", "--input", "a.txt", "--output", "store", *SMALL)
    process = subprocess.Popen(
        command(*arguments),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    tokens = partial_path(tmp_path / "store") / "train-00000.tokens"
    deadline = time.monotonic() + 60
    while not (tokens.exists() and children_of(process.pid)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    children = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "store").exists()
    assert_fails(data_prep("verify", tmp_path / "store"), 2, "no token store")
    while any(map(is_alive, children)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    again = data_prep(*arguments, "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "interrupted" in again.stderr
    assert_nothing_left(tmp_path, "a.txt", "store")


def test_a_build_on_several_machines(tmp_path: Path) -> None:
    """As the tasks of an array job do it: each builds its part and merges if all are there."""
    (tmp_path / "a.txt").write_text("\n\n".join(LINES * 5))
    source = ("--input", "a.txt", "--segment-bytes", "8000")
    data_prep("tokenizer", *source, "--output", "tok", *SMALL, cwd=tmp_path)
    outcomes = []
    for part in ("1/2", "2/2"):
        build = ("build", *source, "--tokenizer", "tok", "--output", "store", "--part", part, "--resume")
        assert data_prep(*build, "--workers", "1", cwd=tmp_path).returncode == 0
        merged = data_prep("merge", "store", "--if-complete", cwd=tmp_path)
        assert merged.returncode == 0, merged.stderr
        outcomes.append("documents kept" in merged.stdout)
    assert outcomes == [False, True]
    assert TokenStore.open(tmp_path / "store").split("train").num_documents > 900
    assert data_prep("verify", "store", cwd=tmp_path).returncode == 0


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Neither gone nor a zombie that nobody reaps."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def copy_of(store: Path, folder: Path) -> Path:
    """A copy that may be damaged."""
    for path in store.rglob("*"):
        if path.is_file():
            target = folder / "copy" / path.relative_to(store)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder / "copy"
