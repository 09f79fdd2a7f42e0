"""Reading one file of a checkpoint: flat fp32 tensors in the safetensors format.

The file is read, not mapped as the safetensors library does: a mapping ends the process by SIGBUS where the file is cut
short or its file system goes away, a read says which file it was. And a rank reads the elements it wants, no more.
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError
from torch import Tensor

from pretrain.errors import DataError, misfit
from pretrain.files import kind_problem, read_items

MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
_LENGTH_DTYPE = np.dtype("<u8")
_BYTE_DTYPE = np.dtype(np.uint8)
_VALUE_DTYPE = np.dtype("<f4")

_Offset = Annotated[int, Field(ge=0, lt=1 << 63)]


class _Entry(BaseModel):
    """What a header says of one tensor."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dtype: Literal["F32"]
    shape: Annotated[list[_Offset], Field(min_length=1, max_length=1)]
    data_offsets: Annotated[list[_Offset], Field(min_length=2, max_length=2)]


class _Header(RootModel[dict[str, _Entry | dict[str, str]]]):
    """Tensors by key, and free text under `__metadata__`."""


@dataclass(frozen=True)
class TensorFile:
    """The tensors of a file: elements and first byte of each, by key."""

    path: Path
    places: Mapping[str, tuple[int, int]]

    @classmethod
    def open(cls, path: Path) -> "TensorFile":
        """Reads the header. Raises DataError where the file is no safetensors file of flat fp32 tensors."""
        problem = kind_problem(str(path), stat.S_ISREG, "regular file")
        if problem is not None:
            raise DataError(problem)
        num_bytes = path.stat().st_size
        (header_bytes,) = read_items(str(path), _LENGTH_DTYPE, 0, 1).tolist()
        first = _LENGTH_DTYPE.itemsize
        if header_bytes > min(MAX_HEADER_BYTES, num_bytes - first):
            raise DataError(f"{path} is no safetensors file: its header would have {header_bytes} bytes.")
        try:
            content = read_items(str(path), _BYTE_DTYPE, first, header_bytes).tobytes()
            header = _Header.model_validate_json(content).root
        except ValidationError as error:
            problem = misfit(error.errors(include_url=False)[0])
            raise DataError(f"{path} is no safetensors file of flat fp32 tensors: {problem}.") from None
        places = {}
        for key, entry in header.items():
            if not isinstance(entry, _Entry):
                continue
            begin, end = entry.data_offsets
            if (
                end - begin != entry.shape[0] * _VALUE_DTYPE.itemsize
                or first + header_bytes + end > num_bytes
            ):
                raise DataError(f"{path}: the bytes of {key} are not where they can be.")
            places[key] = (entry.shape[0], first + header_bytes + begin)
        return cls(path, places)

    def read(self, key: str, start: int, numel: int) -> Tensor:
        """[numel] fp32, the elements of that tensor from `start` on. Raises DataError where they are not there."""
        elements, first_byte = self.places.get(key, (0, 0))
        if key not in self.places or start + numel > elements:
            raise DataError(f"{self.path} holds {elements} of {start + numel} elements of {key}.")
        return torch.from_numpy(read_items(str(self.path), _VALUE_DTYPE, start, numel, first_byte))

    def problem(self, expected: Mapping[str, int | None]) -> str | None:
        """A sentence unless it holds these tensors and no other; None stands for any number of elements."""
        for key in sorted(expected.keys() | self.places.keys()):
            found, wanted = self.places.get(key), expected.get(key)
            if key not in expected or found is None:
                what = "a tensor that the manifest does not name" if found else "no tensor of that name"
                return f"{self.path}: {key}: the file holds {what}."
            if wanted is not None and found[0] != wanted:
                return f"{self.path}: {key}: the file holds {found[0]} elements, the manifest says {wanted}."
        return None
