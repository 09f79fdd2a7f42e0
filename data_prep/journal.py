"""What a killed build needs to go on: how far it had come, and the state of everything at that point.

The journal lies beside the store that is being built, and is written anew every few seconds: first the shard
files are made durable (`StoreWriter.snapshot`), then the journal replaces the one before, in one step. Going on
from it cuts the files back to what it says; since chunks, sentences and ids are pure functions of the input and
the options, the rest comes out as it would have.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from data_prep.position import Position
from data_prep.report import Ledger
from pretrain.data.store import TOKENIZER_FOLDER, WriterState, write_atomically

_ON_BAD_TEXT = "input.on_bad_text"


class Journal(BaseModel):
    """`inputs` is what the input was known by, `tokenizer` the report's section on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[2] = 2
    options: dict[str, Any]
    inputs: str
    part: str | None
    tokenizer: dict[str, Any]
    position: Position
    bytes_done: int
    bytes_total: int
    ledger: Ledger
    writer: WriterState

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """None where there is none that can be read: the build then begins anew."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    def save(self, path: Path) -> None:
        write_atomically(path, self.model_dump_json().encode())

    @property
    def tokenizer_sha256(self) -> str:
        """Of the tokenizer.json that the ids are made with."""
        return self.writer.files[f"{TOKENIZER_FOLDER}/tokenizer.json"].sha256

    def difference(self, options: dict[str, Any], inputs: str, part: str | None) -> str | None:
        """What keeps a build of these options and this input from going on from here; None if nothing does.

        A build that stops at bad text has met none so far: what it has is what one that replaces or skips it would
        have.
        """
        before, now = self.options | {"part": self.part}, options | {"part": part}
        if before.get(_ON_BAD_TEXT) == "error":
            before[_ON_BAD_TEXT] = now.get(_ON_BAD_TEXT)
        for name in before | now:
            if before.get(name) != now.get(name):
                return f"{name} = {before.get(name)!r}, now it is {now.get(name)!r}"
        return None if self.inputs == inputs else "other or older files"
