"""What a worker process does with a chunk of the corpus.

Workers import this module and what it needs, nothing else: they start fast and stay small.
"""

from dataclasses import dataclass

from data_prep.clock import CpuClock
from data_prep.documents import Intake
from data_prep.encode import EncodedDocuments, EncoderSettings, encode_documents
from data_prep.options import InputOptions
from data_prep.position import Position
from data_prep.sources.chunks import Chunk
from data_prep.sources.reading import read_chunk


@dataclass(frozen=True)
class Task:
    """A chunk, and where it stands in the corpus."""

    position: Position
    chunk: Chunk

    def __str__(self) -> str:
        offset = self.chunk.offset
        where = f"row {offset + 1:,}" if self.chunk.kind == "rows" else f"byte {offset:,}"
        return f"{self.chunk.path} (from {where} on)"


@dataclass(frozen=True)
class Encoded:
    """A chunk's documents, what was met on the way, and the CPU seconds of each stage."""

    position: Position
    num_bytes: int
    documents: EncodedDocuments
    intake: Intake
    cpu_seconds: dict[str, float]


def encode_chunk(settings: EncoderSettings, options: InputOptions, task: Task) -> Encoded:
    """The result depends on the arguments alone."""
    clock, intake = CpuClock(), Intake()
    with clock.timed("read"):
        texts = list(read_chunk(task.chunk, options, intake))
    with clock.timed("other encoding"):
        documents = encode_documents(settings, texts, clock)
    return Encoded(task.position, task.chunk.num_bytes, documents, intake, dict(clock.seconds))
