"""Stores opened together: their shares, their fingerprint, and what they must have in common."""

import hashlib
import shutil
from pathlib import Path

import pytest

from pretrain.data.corpus import Corpus
from pretrain.data.store import MANIFEST_NAME, Manifest, SpecialIds, verified_bytes
from pretrain.errors import DataError, UsageError
from pretrain.faults.tiny import write_tiny_store


@pytest.fixture
def stores(tmp_path: Path) -> list[str]:
    """Three stores of different text by the same tokenizer."""
    for number in range(3):
        write_tiny_store(tmp_path / f"store{number}", 20 + 8 * number, seed=number)
    return [str(tmp_path / f"store{number}") for number in range(3)]


@pytest.mark.parametrize(
    ("shares", "weights"),
    [
        ((3.0, 1.0, 1.0), (3, 1, 1)),
        ((6.0, 2.0, 2.0), (3, 1, 1)),
        ((0.7, 0.2, 0.1), (7, 2, 1)),
        ((1e-3, 2.5, 1.0), (1, 2500, 1000)),
    ],
)
def test_weights_are_what_was_written(
    stores: list[str], shares: tuple[float, ...], weights: tuple[int, ...]
) -> None:
    assert Corpus.open(stores, shares, "weight").weights == weights


def test_epochs_weigh_by_the_tokens_of_the_training_text(stores: list[str]) -> None:
    corpus = Corpus.open(stores, (1.0, 0.5, 3.0), "epochs")
    tokens = [split.num_tokens for split in corpus.splits("train")]
    one, two, three = corpus.weights
    assert len(set(tokens)) == 3
    assert one * tokens[1] == 2 * two * tokens[0]
    assert one * 3 * tokens[2] == three * tokens[0]


def test_a_corpus_of_one_store_is_that_store(stores: list[str]) -> None:
    corpus = Corpus.open(stores[:1], [0.3], "weight")
    assert not corpus.is_blend
    assert (corpus.weights, corpus.fingerprint) == ((1,), corpus.first.fingerprint)


def test_the_fingerprint_is_of_stores_and_shares(stores: list[str]) -> None:
    corpus = Corpus.open(stores, (3.0, 1.0, 1.0), "weight")
    lines = [
        f"{store.fingerprint} {weight}\n" for store, weight in zip(corpus.stores, (3, 1, 1), strict=True)
    ]
    assert corpus.fingerprint == hashlib.sha256("".join(lines).encode()).hexdigest()
    same = Corpus.open(stores, (0.6, 0.2, 0.2), "weight")
    others = [
        Corpus.open(stores, (3.0, 1.0, 2.0), "weight"),
        Corpus.open(stores[::-1], (3.0, 1.0, 1.0), "weight"),
        Corpus.open(stores[:2], (3.0, 1.0), "weight"),
    ]
    assert same.fingerprint == corpus.fingerprint
    assert len({other.fingerprint for other in [corpus, *others]}) == 4


def test_a_store_named_twice_is_refused_wherever_it_lies(stores: list[str], tmp_path: Path) -> None:
    shutil.copytree(stores[1], tmp_path / "copy")
    for again in (stores[1], str(tmp_path / "copy")):
        with pytest.raises(
            UsageError, match=f"same store twice, as {stores[1]} and as {again}: name it once"
        ):
            Corpus.open([*stores, again], [1.0] * 4, "weight")


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"tokenizer_sha256": "f" * 64}, "tokenizers (tokenizer.json "),
        ({"vocab_size": 302}, "vocabulary sizes (301 and 302)"),
        ({"special_ids": SpecialIds(pad=1, unk=0, cls=2, sep=3, mask=4)}, "special ids ({'pad': 0, "),
        ({"all_special_ids": (0, 1, 2, 3, 4, 6)}, "special ids ([0, 1, 2, 3, 4] and [0, 1, 2, 3, 4, 6])"),
    ],
)
def test_stores_of_different_tokenizers_are_refused(
    stores: list[str], change: dict[str, object], difference: str
) -> None:
    path = Path(stores[2]) / MANIFEST_NAME
    Manifest.from_file(path).model_copy(update=change).write(path)
    with pytest.raises(UsageError) as error:
        Corpus.open(stores, [1.0] * 3, "weight")
    assert str(error.value).startswith(f"data.blend: {stores[0]} and {stores[2]} have different {difference}")
    assert "\n" not in str(error.value)


def test_verifying_names_the_file_and_tells_how_far_it_is(stores: list[str]) -> None:
    corpus, done = Corpus.open(stores, (1.0, 1.0, 1.0), "weight"), list[int]()
    corpus.verify(1, done.append)
    total = sum(verified_bytes(store.manifest, full=True) for store in corpus.stores)
    assert sum(done) == total
    path = Path(stores[1]) / "train-00000.tokens"
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(DataError, match=f"{path} has changed: its sha256 is not the manifest's"):
        corpus.verify(1, done.append)
