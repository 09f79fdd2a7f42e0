"""One process of the examination, and the run that it is asked about."""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import time

import torch

from pretrain.build import Request
from pretrain.data.corpus import Corpus
from pretrain.placement import Placement
from pretrain.plan import Asked, Plan, make_plan, open_corpus


@dataclass(frozen=True)
class Here:
    """`place` is None where the launcher's variables contradict each other.

    `asked.store` is None where there is a blend; `has_store` is False where the run will build the demo store first.
    `seconds`: the limit of a check. `clock`: seconds since the epoch.
    """

    place: Placement | None
    variables: Mapping[str, str]
    asked: Asked
    has_store: bool
    output: Path
    verify: bool
    seconds: float
    resume: str = "auto"  # or never, or a checkpoint's path
    clock: Callable[[], float] = time

    @property
    def node(self) -> str:
        """This machine, in SLURM's word or its own."""
        return self.variables.get("SLURMD_NODENAME") or socket.gethostname()

    @property
    def rank(self) -> int:
        return 0 if self.place is None else self.place.rank

    @property
    def ranks(self) -> int:
        return 1 if self.place is None else self.place.world_size

    @property
    def ranks_per_node(self) -> int:
        return 1 if self.place is None else self.place.local_world_size

    @property
    def speaks_for_node(self) -> bool:
        """One process of each machine looks at what is the machine's."""
        return self.place is None or self.place.local_rank == 0

    @property
    def device_type(self) -> str:
        return self.asked.device

    def request(self, device: torch.device) -> Request:
        """What `launch/pretrain.py` would make of the same arguments."""
        asked, place = self.asked, self.place or Placement(0, 0, 1, 1)
        return Request(asked.config, asked.backend, asked.store, self.output, self.resume, place, device)

    @cached_property
    def corpus(self) -> Corpus:
        """Raises PretrainError where a store cannot be opened."""
        return open_corpus(self.asked)

    @cached_property
    def plan(self) -> Plan:
        """What `python -m pretrain plan` says of this run. Raises PretrainError for what a run refuses."""
        return make_plan(self.asked, self.corpus)
