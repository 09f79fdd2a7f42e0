"""Where a build stands in its corpus."""

from pydantic import BaseModel, ConfigDict


class Position(BaseModel):
    """A chunk: its segment, and its number in the segment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    segment: int
    chunk: int
