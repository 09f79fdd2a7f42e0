"""The figures of a store against hand-made counts, their JSON and their print-out."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from data_prep.inspection import InspectOptions, inspect_store, print_store
from data_prep.inspection.scan import MAX_BLOCKS, spread
from data_prep.progress import Progress
from pretrain.data.store import TokenStore, merge_parts
from pretrain.errors import DataError
from tests.data_prep.inspection.stores import make_tokenizer, write_store

GERMAN = "Die Katze sitzt auf der Matte und schaut aus dem Fenster in den Garten hinaus ."
ENGLISH = "The cat sits on the mat and looks out of the window into the green garden ."
REPORT: dict[str, object] = {
    "documents": {"read": 99, "kept": 90, "dropped": {"too short": 7, "empty": 2}},
    "special_ids_replaced": 5,
    "notes": ["Something to know."],
}
QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Five documents of one sentence or two, one of them three times; the held-out ones: one known, one not."""
    documents = [[ENGLISH, ENGLISH], [ENGLISH], [GERMAN], [GERMAN], [GERMAN]]
    tokenizer = make_tokenizer("wordpiece", [ENGLISH, GERMAN])
    heldout = [[GERMAN], [GERMAN, "The ☃ sits"]]
    return write_store(
        tmp_path_factory.mktemp("made") / "store", documents, tokenizer, heldout=heldout, report=REPORT
    )


def figures_of(store: TokenStore, **options: Any) -> dict[str, Any]:
    return inspect_store(store, InspectOptions(**options), QUIET)


def test_counts_and_shares(store: TokenStore) -> None:
    figures = figures_of(store, seq_len=64)
    train, heldout = figures["splits"]["train"], figures["splits"]["heldout"]
    assert (train["documents"], train["sentences"], train["blocks"]) == (5, 6, 1)
    assert (train["documents_read"], train["tokens_read"]) == (5, train["tokens"])
    assert train["sentences_per_document"]["histogram"] == [[1, 1, 4], [2, 2, 1]]
    assert train["repeated_documents"] == {"share": 2 / 5, "one_hash_in": 1, "extent": "exact"}
    assert train["unknown_share"] == 0
    assert heldout["unknown_share"] == 1 / heldout["tokens"]
    assert figures["heldout_documents_in_train"] == {"share": 1 / 2, "extent": "exact"}
    assert figures["build"] == REPORT


def test_the_languages_are_found(store: TokenStore) -> None:
    assert figures_of(store)["languages"] == {"documents": 5, "shares": {"de": 3 / 5, "en": 2 / 5}}


def test_packing_is_what_the_rows_hold(tmp_path: Path) -> None:
    """Documents of 62 tokens: with two special ones each, two of them fill a row of 128."""
    tokenizer = make_tokenizer("wordpiece", ["a b"])
    store = write_store(tmp_path / "store", [["a " * 31, "b " * 31]] * 20, tokenizer)
    found = {(row["objective"], row["seq_len"]): row for row in figures_of(store)["packing"]}
    assert {objective for objective, _ in found} >= {"nsp", "mlm"}
    row = found["mlm", 128]
    assert (row["samples"], row["tokens_per_sample"]) == (20, 64)
    assert (row["real_share_packed"], row["real_share_padded"]) == (1, 0.5)
    assert (row["truncated_share"], row["dropped_share"]) == (0, 0)
    assert found["mlm", 512]["real_share_padded"] == 64 / 512
    pairs = found["nsp", 512]
    shown_or_lost = pairs["truncated_share"] + pairs["dropped_share"]
    assert 0 <= shown_or_lost < 0.3 and pairs["real_share_packed"] > 0.5


@pytest.mark.parametrize("full", [False, True])
def test_a_store_of_many_blocks(tmp_path: Path, full: bool) -> None:
    """Each block one document, all alike: not reading all of them, the share is a lower bound."""
    tokenizer = make_tokenizer("wordpiece", [ENGLISH])
    store = write_store(tmp_path / "store", [[ENGLISH]] * 100, tokenizer, block_tokens=1)
    train = figures_of(store, full=full, num_samples=0)["splits"]["train"]
    number = 100 if full else MAX_BLOCKS
    assert (train["blocks"], train["blocks_read"]) == (100, number)
    extent = "exact" if full else "lower bound"
    assert train["repeated_documents"] == {"share": (number - 1) / number, "one_hash_in": 1, "extent": extent}


def test_a_store_in_parts_is_inspected_as_a_whole(tmp_path: Path) -> None:
    """The same blocks in one store and in three parts."""
    tokenizer = make_tokenizer("wordpiece", [ENGLISH, GERMAN])
    documents = [[ENGLISH], [GERMAN, ENGLISH], [GERMAN], [ENGLISH], [ENGLISH, GERMAN]]
    whole = write_store(tmp_path / "one", documents, tokenizer, block_tokens=1)
    (tmp_path / "merged").mkdir()
    slices = (documents[:2], documents[2:3], documents[3:])
    names = [tmp_path / "merged" / f"part-{number}" for number in range(3)]
    for name, part in zip(names, slices, strict=True):
        write_store(name, part, tokenizer, block_tokens=1)
    merge_parts(tmp_path / "merged", names, {})
    merged = TokenStore.open(tmp_path / "merged")
    one, other = (figures_of(store, seq_len=64) for store in (whole, merged))
    differing = {name for name in one if one[name] != other[name]}
    assert differing == {"store", "fingerprint"}
    assert one["splits"]["train"]["repeated_documents"]["share"] == 1 / 5


def test_blocks_are_spread() -> None:
    assert spread(3, 10) == [0, 1, 2]
    assert spread(1, 5) == [0]
    chosen = spread(1000, 32)
    assert len(chosen) == 32 and (chosen[0], chosen[-1]) == (0, 999)
    assert set(np.diff(chosen)) <= {32, 33}


def printed(store: TokenStore, **options: Any) -> str:
    text = io.StringIO()
    print_store(store, Console(file=text, width=120), InspectOptions(**options))
    return text.getvalue()


def test_json_is_the_figures(store: TokenStore) -> None:
    assert json.loads(printed(store, as_json=True)) == json.loads(json.dumps(figures_of(store)))


def test_the_print_out_says_it_all(store: TokenStore) -> None:
    text = printed(store, num_samples=2, seq_len=64)
    for part in (
        store.fingerprint,
        "90 of 99 documents kept; dropped: 2 empty, 7 too short",
        "5 special tokens found in text",
        "Something to know.",
        "train: 40.00% of documents repeat another, token for token (all compared)",
        "heldout: 50.00% of documents are in train too",
        "languages: de 60%, en 40% (guessed for 5 documents)",
        "nsp, 128",
        "mlm, 512",
        "[CLS]",
        "to predict",
    ):
        assert part in text
    assert text.count("\nsample 0:0:") == 2


def test_a_tokenizer_that_cannot_be_read(store: TokenStore, tmp_path: Path) -> None:
    tokenizer = make_tokenizer("wordpiece", [ENGLISH])
    damaged = write_store(tmp_path / "store", [[ENGLISH]] * 2, tokenizer)
    (damaged.tokenizer_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json holds no tokenizer"):
        figures_of(damaged)


def test_the_command_line_does_not_load_torch() -> None:
    code = "import data_prep.inspection, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0
