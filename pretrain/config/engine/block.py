"""What every JSON object of a ds_config has in common, and the kinds of its values."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _whole(count: float) -> float:
    if not float(count).is_integer():
        raise ValueError("input should be a whole number")
    return count


Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int | float, Field(ge=0), AfterValidator(_whole)]  # DeepSpeed's own examples write 5e8


class Block(BaseModel):
    """A JSON object of the ds_config; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
