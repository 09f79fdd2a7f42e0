"""A checkpoint read as its format page says, with nothing but the standard library: no module of ours, no torch."""

import json
import struct
from pathlib import Path
from typing import Any


def read_tensors(path: Path) -> dict[str, tuple[list[int], bytes]]:
    """Shape and little-endian fp32 bytes of every tensor of a safetensors file."""
    content = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", content[:8])
    header: dict[str, Any] = json.loads(content[8 : 8 + header_bytes])
    header.pop("__metadata__", None)
    data = content[8 + header_bytes :]
    assert all(entry["dtype"] == "F32" for entry in header.values())
    return {name: (entry["shape"], data[slice(*entry["data_offsets"])]) for name, entry in header.items()}


def read_parameters(checkpoint: Path) -> dict[str, bytes]:
    """The whole parameters, "<kind> <parameter>": their fp32 bytes, put together from the slices."""
    manifest = json.loads((checkpoint / "manifest.json").read_bytes())
    whole: dict[str, dict[int, bytes]] = {}
    for file in manifest["files"]:
        tensors = read_tensors(checkpoint / file["name"])
        for piece in file["slices"]:
            for kind in manifest["kinds"]:
                shape, values = tensors[f"{kind}:{piece['parameter']}:{piece['start']}"]
                assert shape == [piece["numel"]]
                whole.setdefault(f"{kind} {piece['parameter']}", {})[piece["start"]] = values
    found = {}
    for name, pieces in whole.items():
        found[name] = b"".join(pieces[start] for start in sorted(pieces))
        count = 1
        for size in manifest["parameters"][name.partition(" ")[2]]:
            count *= size
        assert len(found[name]) == 4 * count, name
    return found
