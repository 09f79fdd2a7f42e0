"""A corpus that is in memory already."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from data_prep.documents import Intake
from data_prep.sources.chunks import CHUNK_BYTES, Chunk
from data_prep.sources.rows import Batch, row_chunks


@dataclass(frozen=True, slots=True)
class Document:
    """One document, and where it was found."""

    origin: str
    text: str


@dataclass(frozen=True)
class ListedCorpus:
    """Documents, and the intake of their collection, in one segment; messages call it `name`."""

    listed: tuple[Document, ...]
    collected: Intake
    name: str

    @property
    def total_bytes(self) -> int:
        return sum(len(document.text) for document in self.listed)

    @property
    def num_segments(self) -> int:
        return 1

    def chunks(self, segment: int) -> Iterator[Chunk]:
        """Rows; what the collection met travels with the first."""
        batches = (Batch([document.text.encode()], len(document.text)) for document in self.listed)
        met: Intake | None = self.collected
        for chunk in row_chunks(batches, self.name, "error", CHUNK_BYTES):
            yield replace(chunk, intake=met)
            met = None

    def sample(self, limit_bytes: int) -> Iterator[str]:
        """Documents from the beginning."""
        taken = 0
        for document in self.listed:
            if taken > limit_bytes:
                return
            taken += len(document.text)
            yield document.text

    def describe(self) -> dict[str, Any]:
        return {"documents": len(self.listed), "bytes": self.total_bytes}
