"""What an inspection is asked to show."""

from dataclasses import dataclass

from pretrain.errors import UsageError


@dataclass(frozen=True)
class InspectOptions:
    """`num_samples` samples of rows of `seq_len` tokens for `objective` (None: "nsp", or "mlm" in a store of one
    document), as a run with `seed` makes them first. `full`: every block is read, not only some. `as_json`: the
    figures as one JSON object."""

    num_samples: int = 3
    seq_len: int = 128
    objective: str | None = None
    full: bool = False
    as_json: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError; `seq_len` and `objective` are judged where samples are made."""
        if self.num_samples < 0:
            raise UsageError(f"--samples is {self.num_samples}; it must not be negative.")
