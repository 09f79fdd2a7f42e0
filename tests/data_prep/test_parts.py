"""A build in parts, merged: the blocks of one build, and what does not belong together is not merged."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.build import Job, build
from data_prep.options import BuildOptions, InputOptions, TokenizerOptions
from data_prep.output import read_report
from data_prep.parts import Part, merge
from data_prep.progress import Progress
from data_prep.tokenizer import train_tokenizer
from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore, verify_store
from pretrain.data.stream import RowStream
from pretrain.errors import UsageError
from tests.data_prep.test_resume import WORDS, make_corpus

QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> BuildOptions:
    folder = tmp_path_factory.mktemp("parts")
    make_corpus(folder / "corpus", 4_000)
    train_tokenizer("wordpiece", [" ".join(WORDS)] * 50, 120, lowercase=True).save(folder / "tokenizer")
    return BuildOptions(
        input=InputOptions(paths=(str(folder / "corpus"),), segment_bytes=150_000),
        tokenizer=TokenizerOptions(path=str(folder / "tokenizer")),
        block_tokens=5_000,
        shard_tokens=70_000,
    )


def build_part(options: BuildOptions, output: Path, number: int, count: int, **job: Any) -> None:
    build(options, output, Job(1, QUIET, part=Part(number, count), **job))


@pytest.fixture(scope="module")
def stores(options: BuildOptions, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(in one piece, merged of three parts)."""
    folder = tmp_path_factory.mktemp("stores")
    build(options, folder / "one", Job(1, QUIET))
    for number in (2, 3, 1):
        build_part(options, folder / "merged", number, 3)
    merge(folder / "merged", QUIET)
    return folder / "one", folder / "merged"


def test_a_merged_store_has_the_same_blocks_in_the_same_order(stores: tuple[Path, Path]) -> None:
    one, merged = map(TokenStore.open, stores)
    assert verify_store(merged.path, full=True) == []
    for name in ("train", "heldout"):
        before, after = one.split(name), merged.split(name)
        assert before.num_blocks == after.num_blocks > 2
        for index in range(before.num_blocks):
            a, b = before.block(index), after.block(index)
            for field in ("tokens", "sentence_lengths", "document_lengths"):
                assert np.array_equal(getattr(a, field), getattr(b, field))
            assert np.array_equal(a.word_starts(), b.word_starts())


@pytest.mark.parametrize("objective", ["nsp", "mlm"])
def test_training_sees_the_same_samples(stores: tuple[Path, Path], objective: Any) -> None:
    sampling = SamplingOptions(seq_len=64, objective=objective, packing=True, window_blocks=4)
    steps = []
    for path in stores:
        store = TokenStore.open(path)
        stream = RowStream(
            store.split("train"), store.special_ids, store.all_special_ids, store.vocab_size, sampling, seed=3
        )
        steps.append(stream.step(Cursor(0, 0, 0), 500))
    one, merged = steps
    assert one.sample_names() == merged.sample_names()
    assert one.batch(0, 500).input_ids.equal(merged.batch(0, 500).input_ids)
    assert one.batch(0, 500).masked_positions.equal(merged.batch(0, 500).masked_positions)


def test_the_report_is_the_sum_of_the_parts(stores: tuple[Path, Path], options: BuildOptions) -> None:
    again = build(options, stores[0], Job(1, QUIET, resume=True))
    merged = merge(stores[1], QUIET)  # merged already: stays as it is
    assert merged is not None
    for name in ("options", "input", "tokenizer", "documents", "splits", "unknown_tokens"):
        assert merged[name] == again[name]
    assert merged["parts"] == [f"part-0000{number}-of-00003" for number in (1, 2, 3)]


def test_missing_parts_are_named(options: BuildOptions, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished part"):
        tmp_path.joinpath("empty").mkdir()
        merge(tmp_path / "empty", QUIET)
    assert merge(tmp_path / "empty", QUIET, if_complete=True) is None
    with pytest.raises(UsageError, match="There is no folder"):
        merge(tmp_path / "nothing", QUIET)
    build_part(options, tmp_path / "store", 2, 3)
    assert merge(tmp_path / "store", QUIET, if_complete=True) is None
    with pytest.raises(UsageError, match="lacks part-00001-of-00003, part-00003-of-00003"):
        merge(tmp_path / "store", QUIET)
    build_part(options, tmp_path / "store", 1, 2)
    with pytest.raises(UsageError, match="parts of 2 and 3"):
        merge(tmp_path / "store", QUIET)


def test_merging_what_is_whole_says_so(stores: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for store, why in zip(stores, ("it was not built in parts", "its parts are merged"), strict=True):
        before = everything_below(store)
        assert merge(store, Progress()) == read_report(store)
        assert f"is a whole store already ({why})" in capsys.readouterr().err
        assert everything_below(store) == before


def test_parts_of_other_options_are_refused_by_name(options: BuildOptions, tmp_path: Path) -> None:
    build_part(options, tmp_path / "store", 1, 2)
    build_part(replace(options, heldout=0.25), tmp_path / "store", 2, 2)
    with pytest.raises(UsageError, match=r"heldout = 0\.25, part-00001-of-00002 with 0\.01"):
        merge(tmp_path / "store", QUIET)


def test_parts_of_other_input_are_refused(options: BuildOptions, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(options.input.paths[0], corpus)
    here = replace(options, input=replace(options.input, paths=(str(corpus),)))
    build_part(here, tmp_path / "store", 1, 2)
    (corpus / "0.txt").write_text("Something else altogether.\n")
    build_part(here, tmp_path / "store", 2, 2)
    with pytest.raises(UsageError, match="other files"):
        merge(tmp_path / "store", QUIET)


def test_a_corpus_too_small_for_parts_is_refused(options: BuildOptions, tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 8)
    small = InputOptions(paths=(str(tmp_path / "corpus"),), segment_bytes=200)
    for number in (1, 2):
        build_part(replace(options, input=small, heldout=1e-9), tmp_path / "store", number, 2)
    with pytest.raises(UsageError, match="in one piece"):
        merge(tmp_path / "store", QUIET)
    with pytest.raises(UsageError, match="use at most"):
        build_part(options, tmp_path / "other" / "deeper", 1, 900)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_part_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="--part is"):
        Part.parse(text)
    assert Part.parse("3/3") == Part(3, 3)
    with pytest.raises(UsageError, match="at most 99,999 parts"):
        Part.parse("1/100000")


def test_parts_need_a_tokenizer_that_is_there(options: BuildOptions, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs files as --input and a --tokenizer"):
        build_part(replace(options, tokenizer=TokenizerOptions()), tmp_path / "store", 1, 2)


def test_every_segment_is_in_one_part() -> None:
    for num_segments in (7, 12, 100):
        for count in (1, 3, 7):
            shares = [Part(number, count).segments(num_segments, 1) for number in range(1, count + 1)]
            assert [segment for share in shares for segment in share] == list(range(num_segments))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def everything_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_part_that_is_merged_already_is_left_as_it_is(
    stores: tuple[Path, Path], options: BuildOptions
) -> None:
    """The array job of a merged store, submitted once more."""
    _, merged = stores
    before = everything_below(merged)
    job = Job(1, QUIET, part=Part(2, 3), resume=True)
    assert build(options, merged, job) == read_report(merged / "part-00002-of-00003")
    assert everything_below(merged) == before
    with pytest.raises(UsageError, match="is a token store already"):
        build(options, merged, replace(job, part=Part(2, 4)))
    with pytest.raises(UsageError, match="is a token store already"):
        build(options, merged, replace(job, resume=False))
