"""From Megatron's files to a store that holds the same text."""

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers

from data_prep.megatron import MegatronOptions, import_megatron
from data_prep.progress import Progress
from data_prep.report import print_report
from pretrain.data.store import TokenStore, verify_store
from pretrain.errors import DataError, UsageError
from tests.data_prep.megatron.datasets import (
    SPECIAL,
    WORDS,
    Document,
    make_tokenizer,
    save_tokenizer,
    write_dataset,
)

SEP = 3
FIRST, LAST = 5, 14
QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"), make_tokenizer())


def made_up(count: int) -> list[Document]:
    draw = random.Random(1)
    return [
        [[draw.randint(FIRST, LAST) for _ in range(draw.randint(1, 9))] for _ in range(draw.randint(1, 5))]
        for _ in range(count)
    ]


def joined(document: Document) -> list[int]:
    return [token for sequence in document for token in sequence]


def stored(store: TokenStore, name: str) -> list[Document]:
    documents: list[Document] = []
    split = store.split(name)
    for index in range(split.num_blocks):
        block = split.block(index)
        sentences = [part.tolist() for part in np.split(block.tokens, np.cumsum(block.sentence_lengths)[:-1])]
        for length in block.document_lengths.tolist():
            documents.append(sentences[:length])
            sentences = sentences[length:]
    return documents


def test_all_documents_are_there_once_and_the_store_is_whole(tmp_path: Path, tokenizer: Path) -> None:
    first, second = made_up(400), made_up(500)[400:]
    with_ends = [[*document[:-1], [*document[-1], SEP]] for document in first]  # --append-eod
    write_dataset(tmp_path / "a", with_ends)
    write_dataset(tmp_path / "b", second, "int32")
    prefixes = (str(tmp_path / "a"), str(tmp_path / "b"))
    options = MegatronOptions(prefixes, str(tokenizer), heldout=0.2, block_tokens=500, shard_tokens=2000)
    report = import_megatron(options, tmp_path / "store", QUIET, overwrite=False)

    store = TokenStore.open(tmp_path / "store")
    assert not verify_store(store.path, full=True)
    train, heldout = stored(store, "train"), stored(store, "heldout")
    assert sorted(train + heldout) == sorted(first + second)
    in_order = iter(first + second)
    assert all(document in in_order for document in train)
    assert 50 < len(heldout) < 150
    assert not {str(joined(each)) for each in train} & {str(joined(each)) for each in heldout}
    assert report["markers_stripped"] == 400
    assert report["documents"]["read"] == report["documents"]["kept"] == 500
    assert any("400 special tokens" in note for note in report["notes"])
    assert not any("--split-sentences" in note for note in report["notes"])
    print_report(report, "store", Console(quiet=True))


def test_word_starts_are_those_of_the_names(tmp_path: Path, tokenizer: Path) -> None:
    # "walk ##ing dog ##s ." and, at the start of a sentence, "##s"
    write_dataset(tmp_path / "a", [[[14, 13, 12, 8, 11], [8, 5]]])
    options = MegatronOptions((str(tmp_path / "a"),), str(tokenizer), heldout=0)
    import_megatron(options, tmp_path / "store", QUIET, overwrite=False)
    block = TokenStore.open(tmp_path / "store").split("train").block(0)
    assert block.word_starts().tolist() == [True, False, True, False, True, True, True]


def test_tokens_that_do_not_say_where_words_begin(tmp_path: Path) -> None:
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *WORDS))}
    by_word = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    by_word.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = save_tokenizer(tmp_path / "tokenizer", by_word)
    write_dataset(tmp_path / "a", [[[5, 6, 7]]])
    options = MegatronOptions((str(tmp_path / "a"),), str(folder), heldout=0)
    report = import_megatron(options, tmp_path / "store", QUIET, overwrite=False)
    block = TokenStore.open(tmp_path / "store").split("train").block(0)
    assert block.word_starts().all()
    assert any("where words begin" in note for note in report["notes"])


def test_whole_documents_are_one_sentence_each_with_a_warning(tmp_path: Path, tokenizer: Path) -> None:
    documents: list[Document] = [[joined(document)] for document in made_up(50)]
    write_dataset(tmp_path / "a", documents)
    options = MegatronOptions((str(tmp_path / "a"),), str(tokenizer), heldout=0.1)
    report = import_megatron(options, tmp_path / "store", QUIET, overwrite=False)
    store = TokenStore.open(tmp_path / "store")
    assert sorted(stored(store, "train") + stored(store, "heldout")) == sorted(documents)
    assert any("--split-sentences" in note for note in report["notes"])


def test_a_document_of_more_than_a_million_tokens_is_cut(tmp_path: Path, tokenizer: Path) -> None:
    write_dataset(tmp_path / "a", [[[5] * 600_000, [6] * 600_000, [7] * 1_100_000], [[8]]])
    options = MegatronOptions((str(tmp_path / "a"),), str(tokenizer), heldout=0)
    report = import_megatron(options, tmp_path / "store", QUIET, overwrite=False)
    sizes = [
        [len(each) for each in document] for document in stored(TokenStore.open(tmp_path / "store"), "train")
    ]
    assert sizes == [[600_000], [600_000], [1 << 20], [1_100_000 - (1 << 20)], [1]]
    assert report["documents"]["cuts_because_long"] == 3


def test_a_failed_import_leaves_nothing_and_an_old_store_stays(tmp_path: Path, tokenizer: Path) -> None:
    out = tmp_path / "out"
    write_dataset(tmp_path / "good", made_up(20))
    write_dataset(tmp_path / "bad", [*made_up(20), [[LAST + 1]]])
    good = MegatronOptions((str(tmp_path / "good"),), str(tokenizer))
    bad = dataclasses.replace(good, prefixes=(*good.prefixes, str(tmp_path / "bad")))
    with pytest.raises(DataError, match=r"bad\.bin has the id 15"):
        import_megatron(bad, out / "store", QUIET, overwrite=False)
    assert not out.exists()
    import_megatron(good, out / "store", QUIET, overwrite=False)
    before = TokenStore.open(out / "store").fingerprint
    with pytest.raises(UsageError, match="is a token store already"):
        import_megatron(good, out / "store", QUIET, overwrite=False)
    with pytest.raises(DataError):
        import_megatron(bad, out / "store", QUIET, overwrite=True)
    assert TokenStore.open(out / "store").fingerprint == before
    assert [path.name for path in out.iterdir()] == ["store"]


@pytest.mark.parametrize(
    ("eod_id", "note"),
    [
        (15, ""),
        (SEP, "--eod-id 3 occurs nowhere in the datasets: if"),
        (16, "--eod-id 16 occurs nowhere in the datasets and lies beyond the vocabulary of 15: if"),
    ],
)
def test_an_end_of_document_that_occurs_nowhere_is_said(
    tmp_path: Path, tokenizer: Path, eod_id: int, note: str
) -> None:
    end = 15 if eod_id == 15 else 2
    write_dataset(tmp_path / "a", [[[5, 6], [7, end]], [[8, end]]])
    options = MegatronOptions((str(tmp_path / "a"),), str(tokenizer), eod_id=eod_id)
    notes = import_megatron(options, tmp_path / "store", QUIET, overwrite=False)["notes"]
    assert [each.startswith(note) for each in notes if "--eod-id" in each] == ([True] if note else [])


def test_an_end_of_document_that_no_file_can_hold_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    write_dataset(tmp_path / "a", made_up(3), "uint16")
    write_dataset(tmp_path / "b", made_up(3), "int16")
    prefixes = (str(tmp_path / "b"), str(tmp_path / "a"))
    options = MegatronOptions(prefixes, str(tokenizer), eod_id=65_536)
    with pytest.raises(UsageError, match="--eod-id is 65,536, and the ids of the datasets go up to 65,535 "):
        import_megatron(options, tmp_path / "store", QUIET, overwrite=False)
    assert not (tmp_path / "store").exists()


def test_an_empty_dataset_makes_no_store(tmp_path: Path, tokenizer: Path) -> None:
    write_dataset(tmp_path / "a", [[[SEP]], []])
    with pytest.raises(DataError, match="datasets are empty"):
        import_megatron(
            MegatronOptions((str(tmp_path / "a"),), str(tokenizer)),
            tmp_path / "store",
            QUIET,
            overwrite=False,
        )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prefixes": ()}, "--input"),
        ({"heldout": 1.0}, "--heldout"),
        ({"block_tokens": 0}, "--block-tokens"),
        ({"eod_id": -1}, "--eod-id"),
    ],
)
def test_options_that_cannot_be_honoured(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        MegatronOptions(**({"prefixes": ("a",), "tokenizer": "t"} | change))  # type: ignore[arg-type]
