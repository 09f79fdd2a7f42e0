"""Distinct text of any size, for measuring: no cache of words or sentences is flattered by repetition.

1. the sentences of the demo corpus (documentation of the installed Python packages) make a pool;
2. the pool is put into a new random order as often as it takes, and cut into paragraphs (one line each) and
   documents (separated by a blank line);
3. about one word in a hundred has one letter changed;
4. the same documents are written as plain text and as JSON Lines, in parts.

A pure function of the installed packages, the seed and the sizes. Written once; `corpus.json` comes last.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_prep.progress import Progress
from data_prep.sources.demo import collect_demo
from data_prep.workers import Workers
from tests.benchmarks.sentences import split_sentences

POOL_BYTES = 28_000_000
ALTERED_WORD_SHARE = 0.01
_PARAGRAPH_END_SHARE = 0.25  # after so many of the sentences
_DOCUMENT_END_SHARE = 0.05
_NEWLINE, _SPACE = 10, 32
_LETTERS_IN_ALPHABET = 26


@dataclass(frozen=True)
class CorpusOptions:
    """`num_bytes` of text in parts of about `part_bytes`, from the first `pool_bytes` of the demo corpus."""

    num_bytes: int
    part_bytes: int
    pool_bytes: int = POOL_BYTES
    seed: int = 0


@dataclass(frozen=True)
class Corpus:
    """The parts, as plain text and as JSON Lines (`{"text": ...}`), with the same documents in each pair."""

    text: tuple[Path, ...]
    jsonl: tuple[Path, ...]
    num_bytes: int
    num_documents: int
    digest: str

    def text_bytes(self, num_parts: int) -> int:
        """Bytes of the first `num_parts` of the plain text."""
        return sum(path.stat().st_size for path in self.text[:num_parts])


@dataclass(frozen=True)
class SentencePool:
    """UTF-8 sentences end to end in `text` [bytes] uint8, two spaces after each; `starts`, `lengths` [n] int64,
    the spaces left out."""

    text: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, sentences: list[bytes]) -> "SentencePool":
        lengths = np.array([len(sentence) for sentence in sentences], dtype=np.int64)
        text = np.frombuffer(b"".join(sentence + b"  " for sentence in sentences), dtype=np.uint8)
        return cls(text, np.cumsum(lengths + 2) - lengths - 2, lengths)


def open_corpus(folder: Path, options: CorpusOptions) -> Corpus:
    """The corpus in `folder`, made if it is not there yet or was made with other options."""
    record = folder / "corpus.json"
    if not record.exists() or json.loads(record.read_text())["options"] != asdict(options):
        _write(folder, options)
    made = json.loads(record.read_text())
    num_parts = made["parts"]
    return Corpus(
        text=tuple(_part(folder, index, "txt") for index in range(num_parts)),
        jsonl=tuple(_part(folder, index, "jsonl") for index in range(num_parts)),
        num_bytes=made["bytes"],
        num_documents=made["documents"],
        digest=made["digest"],
    )


def collect_pool(pool_bytes: int) -> SentencePool:
    """The distinct sentences of the demo corpus, in its order."""
    with Workers(2) as workers:
        texts = list(collect_demo(workers, Progress(quiet=True), pool_bytes).sample(pool_bytes))
    sentences = dict.fromkeys(sentence for text in texts for sentence in split_sentences(text))
    return SentencePool.of([sentence.encode() for sentence in sentences])


def make_parts(pool: SentencePool, options: CorpusOptions) -> Iterator[bytes]:
    """Plain text, part by part; each begins and ends with a document."""
    order, done = np.zeros(0, dtype=np.int64), 0
    num_passes = num_parts = 0
    while done < options.num_bytes:
        while pool.lengths[order].sum() < options.part_bytes:
            again = np.random.default_rng([options.seed, 0, num_passes]).permutation(len(pool.lengths))
            order = np.concatenate([order, again])
            num_passes += 1
        wanted = min(options.part_bytes, options.num_bytes - done)
        count = int(np.searchsorted(np.cumsum(pool.lengths[order] + 1), wanted)) + 1
        draw = np.random.default_rng([options.seed, 1, num_parts])
        part = _alter_words(_join(pool, order[:count], draw), draw).tobytes()
        order = order[count:]
        num_parts += 1
        done += len(part)
        yield part


def _join(pool: SentencePool, order: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Sentences in this order, with a space, a line's end or a blank line after each: [bytes] uint8."""
    fate = draw.random(len(order))
    ends_document = fate < _DOCUMENT_END_SHARE
    ends_document[-1] = True
    taken = pool.lengths[order] + 1 + ends_document
    ends = np.cumsum(taken)
    # Bytes are copied by their place in the pool: the same distance for all bytes of a sentence.
    places = np.repeat(pool.starts[order] - (ends - taken), taken)
    places += np.arange(len(places))
    text = pool.text[places]
    text[ends[ends_document | (fate < _PARAGRAPH_END_SHARE)] - 1] = _NEWLINE
    text[ends[ends_document] - 2] = _NEWLINE
    return text


def _alter_words(text: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Another letter of the same case in about `ALTERED_WORD_SHARE` of the words."""
    text = text.copy()
    num_words = int(((text[:-1] <= _SPACE) & (text[1:] > _SPACE)).sum()) + 1
    letters = np.flatnonzero(((text | 32) >= ord("a")) & ((text | 32) <= ord("z")))
    chosen = np.unique(draw.choice(letters, round(ALTERED_WORD_SHARE * num_words)))
    case, letter = text[chosen] & 32, (text[chosen] | 32) - ord("a")
    shift = draw.integers(1, _LETTERS_IN_ALPHABET, len(chosen))
    text[chosen] = ((letter + shift) % _LETTERS_IN_ALPHABET + ord("A")).astype(np.uint8) | case
    return text


def _part(folder: Path, index: int, suffix: str) -> Path:
    return folder / suffix / f"part-{index:03d}.{suffix}"


def _write(folder: Path, options: CorpusOptions) -> None:
    record = folder / "corpus.json"
    record.unlink(missing_ok=True)
    for suffix in ("txt", "jsonl"):
        (folder / suffix).mkdir(parents=True, exist_ok=True)
        for left_over in (folder / suffix).iterdir():
            left_over.unlink()
    digest = hashlib.sha256()
    num_parts = num_bytes = num_documents = 0
    for text in make_parts(collect_pool(options.pool_bytes), options):
        documents = text.decode().split("\n\n")[:-1]
        _part(folder, num_parts, "txt").write_bytes(text)
        lines = (json.dumps({"text": document}, ensure_ascii=False) + "\n" for document in documents)
        _part(folder, num_parts, "jsonl").write_text("".join(lines), encoding="utf-8")
        digest.update(text)
        num_parts, num_bytes = num_parts + 1, num_bytes + len(text)
        num_documents += len(documents)
    made = {"parts": num_parts, "bytes": num_bytes, "documents": num_documents, "digest": digest.hexdigest()}
    record.write_text(json.dumps({"options": asdict(options), **made}, indent=1) + "\n")
