"""What Triton makes of the kernels for GPUs that need not be here: `python -m tests.optim.compiled_passes`.

Prints JSON: by compute capability and kernel, the 16-byte reads and writes of global memory in its code, registers for
each thread, and bytes spilled.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.knobs import nvidia

from pretrain.kernels import triton_norms
from pretrain.optim import triton_passes

_ADDRESSES, _FLOAT, _DOUBLES, _INT = "*i64", "fp32", "*fp64", "i32"
_OF_SLICES = {"rows": _ADDRESSES, "starts": (_ADDRESSES,) * 4, "owners": _ADDRESSES}
_COEFFICIENTS = (_FLOAT,) * 7
# The types of a kernel's arguments, as a launch gives them, and then its one constant.
KERNELS: tuple[tuple[Any, dict[str, Any], tuple[str, int]], ...] = (
    (
        triton_norms._squares_of_blocks,
        {"rows": _ADDRESSES, "starts": _ADDRESSES, "sums": _DOUBLES},
        ("CHUNK", 2 * triton_norms.CHUNK),
    ),
    (
        triton_norms._sums_of_runs,
        {
            "runs": _ADDRESSES,
            "per_block": _DOUBLES,
            "sums": _DOUBLES,
            "num_blocks": _INT,
            "num_parameters": _INT,
        },
        ("BLOCK", 1024),
    ),
    (
        triton_passes._write_updates,
        _OF_SLICES
        | {"decays": _DOUBLES, "sums": _DOUBLES, "num_blocks": _INT, "coefficients": _COEFFICIENTS},
        ("CHUNK", triton_norms.CHUNK),
    ),
    (
        triton_passes._subtract_updates,
        _OF_SLICES | {"starts": (_ADDRESSES,) * 2, "rates": _DOUBLES},
        ("CHUNK", triton_norms.CHUNK),
    ),
    (
        triton_passes._adamw_step,
        _OF_SLICES | {"kept": _DOUBLES, "rate": _FLOAT, "coefficients": _COEFFICIENTS},
        ("CHUNK", triton_norms.CHUNK),
    ),
)


def compiled(
    kernel: Any, types: dict[str, Any], constant: tuple[str, int], capability: int
) -> dict[str, Any]:
    name, value = constant
    source = ASTSource(kernel, {**types, name: "constexpr"}, {(len(types),): value})
    options = {"num_warps": triton_norms.WARPS, "enable_fp_fusion": False}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    code = made.asm["ptx"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(code)
        target = re.search(r"\.target (\w+)", code)
        assert target is not None
        command = [nvidia.ptxas.path, "-v", f"-arch={target[1]}", path, "-o", path.with_suffix(".cubin")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, spilled = (
        re.search(r"Used (\d+) registers", said),
        re.search(r"(\d+) bytes spill stores", said),
    )
    return {
        "moved": [len(re.findall(rf"{kind}\.global[.\w:]*\.v4", code)) for kind in ("ld", "st")],
        "registers": int(registers[1]) if registers else None,
        "spilled_bytes": int(spilled[1]) if spilled else None,
    }


def main() -> None:
    found = {
        capability: {each[0].fn.__name__: compiled(*each, capability) for each in KERNELS}
        for capability in (80, 90)
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
