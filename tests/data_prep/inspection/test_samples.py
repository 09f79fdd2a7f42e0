"""Samples shown are those that training makes, whatever the tokenizer."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from data_prep.inspection.options import InspectOptions
from data_prep.inspection.samples import first_samples, sampling_options
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from pretrain.data.stream import RowStream
from pretrain.errors import UsageError
from tests.data_prep.inspection.stores import CLS, KINDS, MASK, SEP, TEXT, make_tokenizer, write_store

WORDS = TEXT.replace(".", " .").split()
DOCUMENTS = [
    [" ".join(WORDS[(start + shift) % 15 : (start + shift) % 15 + 5]) for shift in range(6)]
    for start in range(40)
]
OPTIONS = InspectOptions(num_samples=5, seq_len=48, seed=3)


@pytest.fixture(params=KINDS, scope="module")
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    path = tmp_path_factory.mktemp(request.param) / "store"
    return write_store(path, DOCUMENTS, make_tokenizer(request.param), block_tokens=300)


def shown(store: TokenStore, options: InspectOptions) -> list[dict[str, object]]:
    tokenizer = Tokenizer.from_file(str(store.tokenizer_path / "tokenizer.json"))
    return first_samples(store, store.split("train"), tokenizer, options)


@pytest.mark.parametrize("objective", ["nsp", "sop", "mlm"])
def test_they_are_the_first_rows_of_a_run(store: TokenStore, objective: str) -> None:
    options = dataclasses.replace(OPTIONS, objective=objective)
    split = store.split("train")
    stream = RowStream(
        split,
        store.special_ids,
        store.all_special_ids,
        store.vocab_size,
        sampling_options(split, options),
        options.seed,
    )
    rows = stream.step(Cursor(0, 0, 0), 8)
    batch = rows.batch(0, 8)
    samples = shown(store, options)
    assert [sample["sample"] for sample in samples] == rows.sample_names()[:5]
    assert len({sample["sample"] for sample in samples}) == 5

    tokenizer = Tokenizer.from_file(str(store.tokenizer_path / "tokenizer.json"))
    flat, starts = batch.input_ids.flatten().tolist(), batch.cls_positions.tolist()
    selected = sorted(batch.masked_positions[: batch.num_masked].tolist())
    assert any("[MASK]" in str(sample["seen"]) for sample in samples)
    for number, sample in enumerate(samples):
        start, end = starts[number], starts[number] + int(str(sample["num_tokens"]))
        names = Counter(tokenizer.id_to_token(token) for token in flat[start:end])
        seen = str(sample["seen"])
        assert seen.startswith("[CLS]") and seen.endswith("[SEP]")
        assert seen.count("[MASK]") == names["[MASK]"]
        assert seen.count("[SEP]") == names["[SEP]"] == (1 if objective == "mlm" else 2)
        positions = [each["position"] for each in sample["to_predict"]]  # type: ignore[attr-defined]
        assert positions == [place - start for place in selected if start <= place < end]
        label = batch.nsp_labels[number].item()
        assert sample["label"] == (None if objective == "mlm" else label)


def test_texts_are_sentences_of_the_store(store: TokenStore) -> None:
    corpus = [" ".join(document).replace(" ", "") for document in DOCUMENTS]
    for sample in shown(store, OPTIONS):
        for text in (str(sample["a"]), str(sample["b"])):
            assert any(text.replace(" ", "") in document for document in corpus)
        # Putting back what is to be predicted gives both texts.
        seen = str(sample["seen"]).replace("[CLS]", "").replace("[SEP]", "").replace(" ", "")
        if all(each["is_mask"] for each in sample["to_predict"]):  # type: ignore[attr-defined]
            for each in sample["to_predict"]:  # type: ignore[attr-defined]
                seen = seen.replace("[MASK]", each["token"].strip("▁Ġ"), 1)
            assert seen == f"{sample['a']}{sample['b']}".replace(" ", "")


def test_row_and_place_in_it(store: TokenStore) -> None:
    samples = shown(store, dataclasses.replace(OPTIONS, objective="mlm", num_samples=30, seq_len=256))
    places = [(sample["row"], sample["number_in_row"]) for sample in samples]
    sizes = {sample["row"]: sample["samples_in_row"] for sample in samples}
    expected = [(row, number + 1) for row, size in sizes.items() for number in range(int(str(size)))]
    assert places == expected[: len(places)]
    assert max(int(str(size)) for size in sizes.values()) > 1


def test_no_more_than_there_are(store: TokenStore) -> None:
    few = shown(store, dataclasses.replace(OPTIONS, objective="mlm", num_samples=10_000))
    assert 0 < len(few) < 1000


def test_mlm_where_there_is_one_document(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", DOCUMENTS[:1], make_tokenizer("wordpiece"))
    samples = shown(store, OPTIONS)
    assert {sample["objective"] for sample in samples} == {"mlm"}
    assert {sample["b"] for sample in samples} == {None}


def test_what_there_is_not_is_refused(store: TokenStore) -> None:
    with pytest.raises(UsageError, match="objective"):
        shown(store, dataclasses.replace(OPTIONS, objective="lm"))
    with pytest.raises(UsageError, match="seq_len"):
        shown(store, dataclasses.replace(OPTIONS, seq_len=4))
    with pytest.raises(UsageError, match="--samples"):
        InspectOptions(num_samples=-1)


def test_special_ids_of_the_helper() -> None:
    tokenizer = make_tokenizer("wordpiece")
    assert [tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", "[MASK]")] == [CLS, SEP, MASK]
