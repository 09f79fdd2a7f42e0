"""Datasets of the Hub, from a local folder that is laid out like one; no network is needed."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.options import InputOptions
from data_prep.sources import hub
from data_prep.sources.hub import open_hub
from pretrain.errors import PretrainError, UsageError
from tests.data_prep.sources.reading import read_corpus

CARD = """---
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*.parquet}
  - {split: test, path: data/test-*.parquet}
- config_name: lines
  data_files: lines/*.parquet
---
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    (folder / "lines").mkdir()
    (folder / "README.md").write_text(CARD)
    for number in range(3):
        texts = [f"train {number}.{row}" for row in range(1000)] + [None]
        table = pa.table({"id": range(1001), "text": texts})
        pq.write_table(table, folder / "data" / f"train-{number}.parquet", row_group_size=300)
    pq.write_table(pa.table({"id": [1], "text": ["test"]}), folder / "data" / "test-0.parquet")
    table = pa.table({"id": range(5), "body": [f"line {number}" for number in range(5)]})
    pq.write_table(table, folder / "lines" / "a.parquet")
    return folder


def test_a_split_is_read_by_shards(repository: Path) -> None:
    options = InputOptions(hub=str(repository))
    corpus = open_hub(options)
    assert (corpus.num_segments, corpus.column) == (3, "text")
    texts, intake = read_corpus(corpus, options)
    assert texts == [f"train {number}.{row}" for number in range(3) for row in range(1000)]
    assert dict(intake.dropped) == {"null text": 3}
    assert corpus.describe()["revision"] is None
    options = InputOptions(hub=str(repository), hub_split="test")
    assert read_corpus(open_hub(options), options)[0] == ["test"]


def test_another_config_and_its_only_column_of_strings(repository: Path) -> None:
    options = InputOptions(hub=str(repository), hub_config="lines")
    corpus = open_hub(options)
    assert corpus.describe()["text_column"] == "body"
    assert read_corpus(corpus, options)[0] == [f"line {number}" for number in range(5)]
    with pytest.raises(UsageError, match=r"^--hub .* has no column 'text'; it has 'id', 'body'"):
        open_hub(InputOptions(hub=str(repository), hub_config="lines", text_column="text"))


def test_the_sample_is_spread_over_shards(repository: Path) -> None:
    corpus = open_hub(InputOptions(hub=str(repository)))
    sample = list(corpus.sample(600))
    assert sample == list(corpus.sample(600))
    assert {text[:7] for text in sample} == {"train 0", "train 1", "train 2"}
    assert 600 <= sum(map(len, sample)) <= 650


@pytest.mark.parametrize("wrong", [{"hub_config": "nowhere"}, {"hub_split": "dev"}, {"hub_revision": "main"}])
def test_what_is_not_there_is_a_usage_error(repository: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"^--hub .*repository .*(--hub-|local folder)"):
        open_hub(InputOptions(hub=str(repository), **wrong))  # type: ignore[arg-type]


def test_without_a_network_one_sentence_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known\nand more lines")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    with pytest.raises(
        UsageError, match=r"^--hub some/name cannot be reached \(Name or service not known\); check"
    ):
        open_hub(InputOptions(hub="some/name"))


def test_the_commit_is_looked_up_once_and_recorded(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    class Answer:
        sha = "0123abcd"

    def dataset_info(_: object, name: str, *, revision: str | None, timeout: float) -> Answer:
        asked.append((name, revision))
        return Answer()

    def load(name: str, config: str | None, **settings: object) -> object:
        asked.append((name, settings["revision"]))
        return original(str(repository), config, split=settings["split"], streaming=True)

    original = hub.load_dataset
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(hub, "load_dataset", load)
    corpus = open_hub(InputOptions(hub="some/name", hub_revision="v1"))
    assert asked == [("some/name", "v1"), ("some/name", "0123abcd")]
    described = corpus.describe()
    assert described["revision"] == "0123abcd"
    Answer.sha = "4567"
    assert (
        open_hub(InputOptions(hub="some/name", hub_revision="v1")).describe()["digest"] != described["digest"]
    )


def test_a_network_that_ends_meanwhile_is_a_sentence(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = open_hub(InputOptions(hub=str(repository)))

    def breaks_off(*_: object) -> Iterator[pa.Table]:
        yield pa.table({"text": ["fine"]})
        raise TimeoutError("The read operation timed out")

    monkeypatch.setattr(type(corpus.dataset), "iter", breaks_off)
    with pytest.raises(PretrainError, match=r"shard 1 cannot be read on \(The read operation timed out\)"):
        list(corpus.chunks(1))
