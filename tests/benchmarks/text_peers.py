"""What others offer for turning text into ids, each in a process of its own.

`python -m tests.benchmarks.text_peers NAME TOKENIZER_FOLDER SCRATCH_FOLDER TEXT_FILE...` prints one JSON object:
the fields of a `Trial`. Only the work itself is timed: imports, loading the tokenizer and, for the bare
encoders, reading the files and splitting them into sentences come before it, and freeing results after it.
"""

import importlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.benchmarks.measure import NotRun, Trial
from tests.benchmarks.sentences import split_sentences
from tests.worlds import ROOT, environment

NUM_WORKERS = 2
MLM_SEQ_LEN = 512
# Where each was fastest, of calls of 2^17 to 2^23 characters.
_ENCODE_BATCH_FAST_CHARACTERS = 1 << 19
_GIGATOKEN_CHARACTERS = 1 << 23
_LAST_LINES = 3


def run_peer(name: str, tokenizer: Path, scratch: Path, texts: Sequence[Path]) -> Trial:
    """One trial of a peer of this module, in a process of its own; raises NotRun with its last words."""
    result = subprocess.run(
        [sys.executable, "-m", __name__, name, str(tokenizer), str(scratch), *map(str, texts)],
        cwd=ROOT,
        env=environment(
            {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise NotRun(last_words(result.stderr))
    return Trial(**json.loads(result.stdout.splitlines()[-1]))


def last_words(errors: str) -> str:
    """The last lines of an error output that say something."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return "\n".join(lines[-_LAST_LINES:]) or "it ended without a word"


def has_gigatoken() -> bool:
    return importlib.util.find_spec("gigatoken") is not None


def encode_batch_fast(tokenizer: Path, _: Path, texts: Sequence[Path]) -> Trial:
    """`Tokenizer.encode_batch_fast` of the tokenizers library, with its threads on."""
    encoder = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    encoder.encode_special_tokens = True

    def count(sentences: list[str], clock: _Clock) -> int:
        with clock:
            encodings = encoder.encode_batch_fast(sentences, add_special_tokens=False)
        return sum(len(encoding) for encoding in encodings)

    return _encode(texts, count, _ENCODE_BATCH_FAST_CHARACTERS)


def gigatoken(tokenizer: Path, _: Path, texts: Sequence[Path]) -> Trial:
    """`gigatoken.Tokenizer.encode_batch`, with its threads on."""
    encoder = importlib.import_module("gigatoken").Tokenizer(str(tokenizer / "tokenizer.json"))

    def count(sentences: list[str], clock: _Clock) -> int:
        with clock:
            ids = encoder.encode_batch(sentences, parallel=True)
        return len(ids.layout.content)

    return _encode(texts, count, _GIGATOKEN_CHARACTERS)


def run_mlm(tokenizer: Path, scratch: Path, texts: Sequence[Path]) -> Trial:
    """The way of Hugging Face's `run_mlm.py` without `--line_by_line`: load, map(tokenize), map(group_texts)."""
    encoder = AutoTokenizer.from_pretrained(str(tokenizer))
    encoder.model_max_length = sys.maxsize  # Its warning about long lines says nothing here.
    datasets.disable_progress_bars()

    def tokenize(examples: dict[str, list[str]]) -> Any:
        return encoder(examples["text"], return_special_tokens_mask=True)

    def group_texts(examples: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {name: list(chain(*column)) for name, column in examples.items()}
        total = len(next(iter(joined.values()))) // MLM_SEQ_LEN * MLM_SEQ_LEN
        return {
            name: [column[i : i + MLM_SEQ_LEN] for i in range(0, total, MLM_SEQ_LEN)]
            for name, column in joined.items()
        }

    clock = _Clock()
    with clock:
        raw = datasets.load_dataset(
            "text", data_files={"train": [str(path) for path in texts]}, cache_dir=str(scratch), split="train"
        )
        tokenized = raw.map(tokenize, batched=True, num_proc=NUM_WORKERS, remove_columns=["text"])
        grouped = tokenized.map(group_texts, batched=True, num_proc=NUM_WORKERS)
    return clock.trial(texts, len(grouped) * MLM_SEQ_LEN)


class _Clock:
    """Sums wall and CPU seconds over `with` blocks; of this process and of its children that have ended."""

    def __init__(self) -> None:
        self._seconds = self._cpu_seconds = 0.0

    def __enter__(self) -> None:
        self._seconds -= time.perf_counter()
        self._cpu_seconds -= _cpu_seconds()

    def __exit__(self, *_: object) -> None:
        self._seconds += time.perf_counter()
        self._cpu_seconds += _cpu_seconds()

    def trial(self, texts: Sequence[Path], num_tokens: int) -> Trial:
        """Of the whole of these files."""
        num_bytes = sum(path.stat().st_size for path in texts)
        return Trial(num_bytes, self._seconds, self._cpu_seconds, details={"tokens": num_tokens})


def _cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _encode(texts: Sequence[Path], count: Callable[[list[str], _Clock], int], call_characters: int) -> Trial:
    """All sentences of the files, so many characters a call; a first call outside the clock starts the threads."""
    sentences = [sentence for path in texts for sentence in split_sentences(path.read_text(encoding="utf-8"))]
    count(sentences[:1000], _Clock())
    clock = _Clock()
    num_tokens = sum(count(part, clock) for part in _calls(sentences, call_characters))
    return clock.trial(texts, num_tokens)


def _calls(sentences: list[str], num_characters: int) -> Iterator[list[str]]:
    """Consecutive sentences of about `num_characters` in all."""
    first = size = 0
    for last, sentence in enumerate(sentences, 1):
        size += len(sentence)
        if size >= num_characters or last == len(sentences):
            yield sentences[first:last]
            first, size = last, 0


def _main(name: str, tokenizer: str, scratch: str, *texts: str) -> None:
    peers = {"encode_batch_fast": encode_batch_fast, "gigatoken": gigatoken, "run_mlm": run_mlm}
    trial = peers[name](Path(tokenizer), Path(scratch), [Path(text) for text in texts])
    print(json.dumps(asdict(trial)), flush=True)
    # What is left is freeing memory.
    os._exit(0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
