"""Finding out where a step whose loss or gradient is not finite went wrong, and writing down what makes it again.

1. every rank looks at its master weights: where one is not finite the step is not to blame, and is not repeated;
2. else all ranks run the step's micro-batches again, dropout included, under finite checks (`hooks`), and throw the
   gradient away;
3. they exchange what they found, so that all say the same: rank, micro-batch, module or parameter, samples. What does
   not come again was not in weights, text or seed, which are the same: the hardware is suspected then;
4. rank 0 writes all of it, with what it takes to make the batch again, into the run folder.
"""

import json
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pretrain import comm
from pretrain.backends.base import Backend, LossWeights
from pretrain.data.loader import StepBatches
from pretrain.diagnosis.hooks import Finding, FiniteChecks
from pretrain.rng import key
from pretrain.sharding import ShardLayout

_NAMES_SHOWN = 3


class Place(NamedTuple):
    """A micro-batch of a rank, counted from 0, and what was found in it."""

    micro_batch: int
    rank: int
    finding: Finding


class _Seen(NamedTuple):
    """What one rank has to say; plain data, to be exchanged."""

    host: str
    losses: list[float]  # sums of the step itself, MLM and NSP
    repeated: list[float]
    findings: list[tuple[int, tuple[Any, ...]]]  # micro-batch and Finding


@dataclass(frozen=True)
class Diagnosis:
    """How a run looks into a step that is not finite; `about`: what its batches depend on besides cursor and seed."""

    folder: Path
    seed: int
    rank: int
    device: torch.device
    about: Mapping[str, Any] = field(default_factory=dict)

    def of(
        self,
        backend: Backend,
        batches: StepBatches,
        step: int,
        figures: Mapping[str, float],
        sums: torch.Tensor,
    ) -> str:
        """What was wrong and what to do, as the end of a sentence; collective, and the same on every rank.

        `figures`: loss and gradient norm as all ranks know them; `sums`: this rank's loss sums in the step, [2].
        """
        bad = {name for each in comm.all_gather_objects(bad_weights(backend.layout)) for name in each}
        every = [info.name for part in backend.layout.with_frozen() for info in part.parameters]
        weights = [name for name in every if name in bad]
        if weights:
            said, seen = _of_weights(weights, step), []
        else:
            seen = [
                _Seen(*each) for each in comm.all_gather_objects(self._repeated(backend, batches, step, sums))
            ]
            places = _places(seen)
            said = _of_places(places, seen, self._names(batches, places)) if places else _of_hardware(seen)
        written = comm.broadcast_object(
            self._write(batches, step, figures, weights, seen) if self.rank == 0 else ""
        )
        return f"{said} (cursor {batches.cursor.as_list()}; {written})"

    def _repeated(
        self, backend: Backend, batches: StepBatches, step: int, sums: torch.Tensor
    ) -> tuple[Any, ...]:
        """The step again, its gradient thrown away. Nothing but that changes."""
        weights = LossWeights.of_means(batches.num_masked, batches.num_pairs)
        repeated, findings = torch.zeros_like(sums), []
        for index, batch in enumerate(batches.micro_batches):
            torch.manual_seed(key(self.seed, "dropout", step, index, self.rank))
            last = index == len(batches.micro_batches) - 1
            with FiniteChecks(backend.model) as checks:
                repeated += backend.train_micro_batch(batch.to(self.device), weights, last=last)
            if checks.first is not None:
                findings.append((index, tuple(checks.first)))
        backend.measure_gradient()
        return socket.gethostname(), sums.tolist(), repeated.tolist(), findings

    def _names(self, batches: StepBatches, places: Sequence[Place]) -> list[str]:
        """The samples of the first place. Every rank knows the rows of all."""
        first = places[0]
        return names_of(batches, comm.world_size())[first.rank][first.micro_batch]

    def _write(
        self,
        batches: StepBatches,
        step: int,
        figures: Mapping[str, float],
        weights: Sequence[str],
        seen: Sequence[_Seen],
    ) -> str:
        """Where the details are, or why not."""
        content = {
            "step": step,
            **{name: _readable(value) for name, value in figures.items()},
            "cursor": batches.cursor.as_list(),
            "next_cursor": batches.next_cursor.as_list(),
            "rows": batches.num_rows,
            "seed": self.seed,
            **self.about,
            "master_weights_not_finite": list(weights),
            "came_again": bool(_places(seen)) if seen else None,
            "findings": [
                {"rank": place.rank, "micro_batch": place.micro_batch, **place.finding._asdict()}
                for place in _places(seen)
            ],
            "ranks": [
                {
                    "host": each.host,
                    "loss_sums": [_readable(value) for value in each.losses],
                    "repeated_loss_sums": [_readable(value) for value in each.repeated],
                }
                for each in seen
            ],
            # By rank, then micro-batch.
            "samples": names_of(batches, comm.world_size()),
        }
        path = self.folder / f"not-finite-step-{step:08d}.json"
        try:
            path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        except OSError as error:
            return f"{path} with the samples could not be written: {error.strerror or error}"
        return f"what makes the batch again is in {path}"


def names_of(batches: StepBatches, ranks: int) -> list[list[list[str]]]:
    """The names of the samples of a global batch, by rank and micro-batch."""
    by_row = batches.rows.names_by_row()
    size = len(by_row) // (ranks * len(batches.micro_batches))
    parts = [
        [name for names in by_row[first : first + size] for name in names]
        for first in range(0, len(by_row), size)
    ]
    return [parts[rank::ranks] for rank in range(ranks)]


def bad_weights(layout: ShardLayout) -> list[str]:
    """Names of the parameters of which this rank holds a master weight that is not finite, frozen ones too."""
    return [
        part.parameters[piece.parameter].name
        for part in layout.with_frozen()
        for shard in part.shards
        for piece, values in zip(shard.slices, shard.views(shard.tensor.detach()), strict=True)
        if not torch.isfinite(values).all()
    ]


def _places(seen: Sequence[_Seen]) -> list[Place]:
    """Everything found, in the order of micro-batches; what goes wrong forward is told first."""
    places = [
        Place(index, rank, Finding(*finding))
        for rank, each in enumerate(seen)
        for index, finding in each.findings
    ]
    return sorted(
        places, key=lambda place: (place.finding.passage != "forward", place.micro_batch, place.rank)
    )


def _of_weights(names: Sequence[str], step: int) -> str:
    more = f" and {len(names) - 1} more parameters" if len(names) > 1 else ""
    return (
        f"the weights of {names[0]}{more} hold values that are not finite, and did so before step {step}: start again "
        "from an earlier checkpoint, with a lower optimizer.lr if this comes again"
    )


def _of_places(places: Sequence[Place], seen: Sequence[_Seen], names: Sequence[str]) -> str:
    first = places[0]
    ranks = len({place.rank for place in places})
    more = f" ({len(places) - 1} more such micro-batches on {ranks} ranks)" if len(places) > 1 else ""
    shown = ", ".join(names[:_NAMES_SHOWN])
    rest = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return (
        f"it began on rank {first.rank} ({seen[first.rank].host}), micro-batch {first.micro_batch}, {first.finding}"
        f"{more}, samples {shown}{rest}: lower optimizer.lr or lengthen schedule.warmup, and start again from the last "
        "checkpoint"
    )


def _of_hardware(seen: Sequence[_Seen]) -> str:
    """Of the rank whose loss was not finite, or came out otherwise; where none did, of all."""
    suspects = [rank for rank, each in enumerate(seen) if not all(map(math.isfinite, each.losses))]
    suspects = suspects or [rank for rank, each in enumerate(seen) if each.losses != each.repeated]
    shown = ", ".join(f"rank {rank} ({seen[rank].host})" for rank in suspects)
    hosts = ", ".join(sorted({each.host for each in seen}))
    return (
        f"it did not come again when the step was repeated: suspect the hardware of {shown or hosts}, and start again "
        "from the last checkpoint"
    )


def _readable(value: float) -> float | str:
    """JSON has no word for what is not finite."""
    return value if math.isfinite(value) else str(value)
