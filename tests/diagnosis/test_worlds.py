"""A fault on one rank of two, under the engines: all ranks end by the same sentence, which names it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain.backends.base import Backend
from pretrain.build import row_stream
from pretrain.data.batches import Batch
from pretrain.data.loader import Loader, StepBatches
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from pretrain.diagnosis import Diagnosis
from pretrain.errors import PretrainError
from pretrain.faults.tiny import write_tiny_store
from pretrain.loop import Loop, LoopOptions
from pretrain.metrics import Terminal
from pretrain.optim import Progress, RunLength, Schedule
from pretrain.signals import StopRequest
from tests.numerics.cells import SUB_GROUPS, Cell, in_one_process
from tests.numerics.courses import SavesNothing, enter, make_backend
from tests.numerics.recipe import GLOBAL_BATCH, SEED
from tests.worlds import run_ranks

pytestmark = pytest.mark.slow
LAYER = "bert.encoder.layer.1.intermediate.dense"
BAD_STEP, BAD_RANK, BAD_MICRO_BATCH = 2, 1, 1
Where = Literal["forward", "backward", "parameter", "once", "weights"]
SAID: dict[str, str] = {
    "forward": f"in the output of {LAYER} in the forward pass (after",
    "backward": f"in the gradient of the output of {LAYER} in the backward pass (after",
    "parameter": f"in the gradient of {LAYER}.weight in the backward pass (after",
}
CELLS = (
    Cell("fsdp", 2, precision="bf16", checkpointing="full"),
    Cell("deepspeed", 1, precision="bf16"),
    Cell("deepspeed", 3, zero=SUB_GROUPS),
    # In full only.
    Cell("fsdp", 0),
    Cell("fsdp", 3),
    Cell("deepspeed", 0),
    Cell("deepspeed", 2, checkpointing="full"),
)
SAMPLE = 3


@dataclass
class Fault:
    """NaN at one place whenever one micro-batch comes by, or only the first time."""

    where: Where
    backend: Backend
    batch: Tensor | None = None  # the input ids of that micro-batch, once they are known
    is_here: bool = False
    times: int = 0
    names: list[str] = field(default_factory=list)

    def lie_in_wait(self) -> None:
        self.backend.model.register_forward_pre_hook(self._look)
        module = self.backend.model.encoder.get_submodule(LAYER)
        if self.where == "parameter":
            module.register_forward_pre_hook(self._strike_weight)
        else:
            module.register_forward_hook(self._strike)

    def _look(self, module: nn.Module, inputs: tuple[Batch]) -> None:
        self.is_here = self.batch is not None and torch.equal(inputs[0].input_ids, self.batch)

    def _strike(self, module: Any, inputs: Any, output: Tensor) -> Tensor | None:
        if not self.is_here or (self.where == "once" and self.times):
            return None
        self.times += 1
        if self.where in ("forward", "once"):
            return output * torch.nan
        output.register_hook(lambda gradient: gradient * torch.nan)
        return None

    def _strike_weight(self, module: nn.Module, inputs: Any) -> None:
        if self.is_here:
            self.is_here = False  # recomputation of activations comes by again

            def spoil(gradient: Tensor) -> Tensor:
                handle.remove()  # an engine uses the same parameter in every pass
                return gradient * torch.nan

            handle = module.get_parameter("weight").register_hook(spoil)


class _Told:
    """A loader that tells the fault what its micro-batch is."""

    def __init__(self, loader: Loader, fault: Fault) -> None:
        self.loader, self.fault, self.steps = loader, fault, 0

    def __next__(self) -> StepBatches:
        batches = next(self.loader)
        self.steps += 1
        if self.steps == BAD_STEP and dist.get_rank() == BAD_RANK:
            self.fault.batch = batches.micro_batches[BAD_MICRO_BATCH].input_ids
        if self.steps == BAD_STEP:
            self.fault.names = [name for row in batches.rows.names_by_row() for name in row]
            if self.fault.where == "weights":
                shard = self.fault.backend.layout.shards[-1]
                shard.views(shard.tensor.detach())[0][0] = torch.inf
                self.fault.backend.refresh_weights()
        return batches


def ends(folder: Path, cells: list[Cell], faults: list[Where]) -> list[tuple[str, list[str]]]:
    """On a rank: the message of each run, and the names of the samples of its last step."""
    enter()
    found = []
    for cell in cells:
        for where in faults:
            found.append(end_of(folder, cell, where))
    return found


def end_of(folder: Path, cell: Cell, where: Where) -> tuple[str, list[str]]:
    store, rank, device = TokenStore.open(folder / "store"), dist.get_rank(), torch.device("cpu")
    backend = make_backend(cell, store, folder)
    fault = Fault(where, backend)
    fault.lie_in_wait()
    output = folder / f"{cell}-{where}"
    output.mkdir(exist_ok=True)
    stream = row_stream(store, "train", cell.setting(4).sampling, SEED)
    with Loader(stream, Cursor(0, 0, 0), GLOBAL_BATCH, cell.micro_batch, rank, cell.ranks) as loader:
        told: Any = _Told(loader, fault)
        saves_nothing: Any = SavesNothing()
        never: Any = None
        loop = Loop(
            LoopOptions(RunLength(4, 4), None, 0, 0, SEED, rank, device, None),
            told,
            backend,
            Schedule("linear", 0.001, 4, 1),
            None,
            saves_nothing,
            never,
            lambda batches: 0.0,
            None,
            Terminal(False, 1),
            StopRequest(),
            diagnosis=Diagnosis(output, SEED, rank, device, {"store_fingerprint": store.fingerprint}),
        )
        try:
            loop.run(Progress())
        except PretrainError as error:
            assert error.exit_code == 1
            return str(error), fault.names
    return "it ran to its end", []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("not-finite")
    write_tiny_store(path / "store", num_documents=100)
    return path


def test_a_fault_on_one_rank_is_named_by_all(folder: Path, in_full: bool) -> None:
    cells = sorted(CELLS if in_full else CELLS[:SAMPLE], key=in_one_process)
    faults: list[Where] = ["forward", "backward", "parameter", "once", "weights"]
    ranks = run_ranks(ends, 2, folder, cells, faults, timeout=400.0)
    assert ranks[0] == ranks[1]
    messages = iter(ranks[0])
    for cell in cells:
        for where in faults:
            message, names = next(messages)
            print(cell, where, message)
            check(folder / f"{cell}-{where}", cell, where, message, names)


def check(output: Path, cell: Cell, where: Where, message: str, names: list[str]) -> None:
    details = json.loads((output / f"not-finite-step-{BAD_STEP:08d}.json").read_text())
    assert message.startswith(f"Step {BAD_STEP} is not finite (loss "), message
    assert "nothing was updated" in message
    assert f"cursor {details['cursor']}" in message and str(output) in message
    assert (
        details["rows"] == GLOBAL_BATCH
        and details["seed"] == SEED
        and len(details["store_fingerprint"]) == 64
    )
    assert [name for name in flat(details["samples"], cell.accumulation)] == names
    if where == "weights":
        # One element of each rank's last shard, which hold slices of one parameter or of two.
        assert "hold values that are not finite, and did so before step 2" in message
        assert details["master_weights_not_finite"] and details["findings"] == []
        assert f"the weights of {details['master_weights_not_finite'][0]} " in message
        return
    assert details["master_weights_not_finite"] == []
    if where == "once":
        assert (
            f"did not come again when the step was repeated: suspect the hardware of rank {BAD_RANK} ("
            in message
        )
        assert details["came_again"] is False and details["findings"] == []
        assert "nan" in details["ranks"][BAD_RANK]["loss_sums"]
        assert "nan" not in details["ranks"][BAD_RANK]["repeated_loss_sums"]
        return
    assert f"micro-batch {BAD_MICRO_BATCH}, {SAID[where]}" in message, message
    assert f"it began on rank {BAD_RANK} (" in message
    assert [(each["rank"], each["micro_batch"]) for each in details["findings"]] == [
        (BAD_RANK, BAD_MICRO_BATCH)
    ]
    assert f"samples {details['samples'][BAD_RANK][BAD_MICRO_BATCH][0]}" in message


def flat(samples: list[list[list[str]]], accumulation: int) -> list[str]:
    """In the order of the rows: the g-th micro-batch of rank k is the (g * ranks + k)-th of all."""
    return [name for index in range(accumulation) for rank in samples for name in rank[index]]
