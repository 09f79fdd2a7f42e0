"""A corpus: documents in a fixed order, and a bounded sample of them for training a tokenizer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from data_prep.documents import Document, Intake
from data_prep.options import InputOptions
from data_prep.sources.files import InputFile, InputFiles
from data_prep.sources.jsonl import read_jsonl
from data_prep.sources.text import read_text
from pretrain.errors import UsageError


class Corpus(Protocol):
    """What a build reads from."""

    @property
    def total_bytes(self) -> int:
        """What `Intake.bytes_read` will be at the end."""

    def documents(self, intake: Intake) -> Iterator[Document]:
        """All documents, each time in the same order."""

    def sample(self, limit_bytes: int) -> Iterator[str]:
        """Texts of about `limit_bytes` in all, the same ones each time."""

    def describe(self) -> dict[str, Any]:
        """What report.json says about the input."""


@dataclass(frozen=True)
class FileCorpus:
    """The documents of files; its sample takes the same share from the beginning of each file."""

    inputs: InputFiles
    options: InputOptions

    @property
    def total_bytes(self) -> int:
        return self.inputs.total_bytes

    def documents(self, intake: Intake) -> Iterator[Document]:
        for file in self.inputs.files:
            yield from self._read(file, intake)

    def sample(self, limit_bytes: int) -> Iterator[str]:
        share = min(1.0, limit_bytes / max(1, self.total_bytes))
        taken, passed = 0, 0
        for file in self.inputs.files:
            passed += file.bytes
            # Many small files: those after which the share is already met are left out whole.
            if taken > share * passed:
                continue
            for document in self._read(file, Intake()):
                yield document.text
                taken += len(document.text)
                if taken > share * passed:
                    break

    def describe(self) -> dict[str, Any]:
        return {
            "files": len(self.inputs.files),
            "bytes": self.total_bytes,
            "digest": self.inputs.digest(),
            "ignored_files_by_suffix": self.inputs.ignored,
        }

    def _read(self, file: InputFile, intake: Intake) -> Iterator[Document]:
        options = self.options
        try:
            if file.format == "jsonl":
                yield from read_jsonl(file.path, options.text_column, options.on_bad_text, intake)
            else:
                yield from read_text(file.path, options.documents, options.on_bad_text, intake)
        except OSError as error:
            raise UsageError(f"{file.path} cannot be read: {error.strerror or error}.") from None


@dataclass(frozen=True)
class ListedCorpus:
    """Documents that are in memory already (the demo corpus), with the intake of their collection."""

    listed: tuple[Document, ...]
    collected: Intake

    @property
    def total_bytes(self) -> int:
        return sum(len(document.text) for document in self.listed)

    def documents(self, intake: Intake) -> Iterator[Document]:
        intake.dropped.update(self.collected.dropped)
        intake.documents += self.collected.documents
        intake.duplicate_passages += self.collected.duplicate_passages
        for document in self.listed:
            intake.bytes_read += len(document.text)
            yield document

    def sample(self, limit_bytes: int) -> Iterator[str]:
        taken = 0
        for document in self.listed:
            if taken > limit_bytes:
                return
            taken += len(document.text)
            yield document.text

    def describe(self) -> dict[str, Any]:
        return {"documents": len(self.listed), "bytes": self.total_bytes}
