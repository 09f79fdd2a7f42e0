"""Datasets of the Hugging Face Hub, streamed by `datasets`; nothing is downloaded ahead.

The name, or the path of a local folder that is laid out like a dataset of the Hub. A segment is a shard of the
dataset, one or more of its files. The revision is looked up once, so that all of it is read from one commit.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import IterableDataset, load_dataset
from huggingface_hub import HfApi

from data_prep.documents import Intake
from data_prep.options import InputOptions
from data_prep.sources.chunks import CHUNK_BYTES, Chunk
from data_prep.sources.columnar import index_of, is_string, utf8_rows
from data_prep.sources.reading import read_chunk
from data_prep.sources.rows import Batch, row_chunks
from data_prep.sources.text_column import choose_column
from pretrain.errors import DataError, PretrainError, UsageError

_ROWS_PER_BATCH = 256
_SAMPLE_CHUNK_BYTES = 1 << 16
_MAX_SAMPLED_SHARDS = 16  # to open one takes a second or so over a network
_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class HubCorpus:
    """One split of a dataset. `revision` is its commit, None for a local folder."""

    dataset: IterableDataset
    options: InputOptions
    column: str
    revision: str | None

    @property
    def total_bytes(self) -> int:
        """As the dataset's card says, 0 where it does not."""
        splits = self.dataset.info.splits or {}
        split = splits.get(self.options.hub_split)
        return int(split.num_bytes or 0) if split is not None else 0

    @property
    def num_segments(self) -> int:
        return max(1, int(self.dataset.num_shards))

    def chunks(self, segment: int) -> Iterator[Chunk]:
        yield from self._chunks(segment, CHUNK_BYTES)

    def sample(self, limit_bytes: int) -> Iterator[str]:
        """The same share from the beginning of shards that are spread over the dataset."""
        num_sampled = min(self.num_segments, _MAX_SAMPLED_SHARDS)
        taken = 0
        for number in range(num_sampled):
            quota = limit_bytes * (number + 1) / num_sampled
            for text in self._texts(number * self.num_segments // num_sampled):
                if taken > quota:
                    break
                yield text
                taken += len(text)

    def describe(self) -> dict[str, Any]:
        options = self.options
        return {
            "hub": options.hub,
            "config": options.hub_config,
            "split": options.hub_split,
            "revision": self.revision,
            "shards": self.num_segments,
            "bytes": self.total_bytes,
            "text_column": self.column,
            "digest": self._digest(),
        }

    def _digest(self) -> str:
        """Changes with the commit; parts of one build must agree in it."""
        options = self.options
        named = (options.hub, options.hub_config, options.hub_split, self.revision, self.num_segments)
        return hashlib.sha256(repr(named).encode()).hexdigest()

    def _texts(self, segment: int) -> Iterator[str]:
        for chunk in self._chunks(segment, _SAMPLE_CHUNK_BYTES):
            yield from read_chunk(chunk, self.options, Intake())

    def _chunks(self, segment: int, chunk_bytes: int) -> Iterator[Chunk]:
        path = f"{self.options.hub}, shard {segment}"
        yield from row_chunks(self._batches(segment, path), path, self.options.on_bad_text, chunk_bytes)

    def _batches(self, segment: int, path: str) -> Iterator[Batch]:
        shard = self.dataset.shard(num_shards=self.num_segments, index=segment)
        try:
            for table in shard.with_format("arrow").iter(_ROWS_PER_BATCH):
                array = table.column(index_of(self.column, table.schema, path)).combine_chunks()
                rows = utf8_rows(array)
                yield Batch(rows, sum(len(row) for row in rows if row is not None))
        except DataError:
            raise
        except Exception as error:  # of the network, of any format that `datasets` reads
            raise PretrainError(
                f"{path} cannot be read on ({_first_line(error)}); start again with --resume."
            ) from None


def open_hub(options: InputOptions) -> HubCorpus:
    """Raises UsageError where the dataset cannot be reached or is not there, or its text column is not clear."""
    assert options.hub is not None
    revision = _commit(options.hub, options.hub_revision)
    # Streaming keeps nothing, but locks a folder for it.
    with tempfile.TemporaryDirectory() as cache:
        try:
            dataset = load_dataset(
                options.hub,
                options.hub_config,
                split=options.hub_split,
                revision=revision,
                streaming=True,
                cache_dir=cache,
            )
            columns = _columns(dataset)
        except Exception as error:  # `datasets` raises what its dozen of readers raise
            raise UsageError(
                f"--hub {options.hub} cannot be opened ({_first_line(error)}); check the name, --hub-config and "
                "--hub-split."
            ) from None
    column = options.text_column or choose_column(columns, options.hub)
    if column not in columns:
        found = ", ".join(map(repr, columns)) or "none"
        raise UsageError(
            f"--hub {options.hub} has no column {column!r}; it has {found}: choose one with --text-column."
        )
    return HubCorpus(dataset, options, column, revision)


def _commit(name: str, revision: str | None) -> str | None:
    """That of the revision; asked first because it fails at once where there is no network."""
    if Path(name).is_dir():
        if revision is not None:
            raise UsageError(f"--hub {name} is a local folder, which has no --hub-revision.")
        return None
    try:
        return HfApi().dataset_info(name, revision=revision, timeout=_TIMEOUT_SECONDS).sha
    except Exception as error:  # of the Hub, or of the HTTP library, which differs between versions
        raise UsageError(
            f"--hub {name} cannot be reached ({_first_line(error)}); check the name, the revision and the network, or "
            "download the dataset and give its files as --input."
        ) from None


def _columns(dataset: IterableDataset) -> dict[str, bool]:
    """Columns by name, and whether each holds strings; reads the first row where the card does not say."""
    if dataset.features is not None:
        return {field.name: is_string(field.type) for field in dataset.features.arrow_schema}
    for table in dataset.with_format("arrow").iter(1):
        return {field.name: is_string(field.type) for field in table.schema}
    return {}


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
