"""The recipe: what is computed. Every key with its type, range and default."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the recipe: unknown keys and wrong types are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class BlendedStore(Section):
    """One store of a blend and its share of the rows: `weight`, or as often as `epochs` says.

    Weights are relative to each other. With `epochs` a store's share is epochs * tokens of its training text.
    """

    store: str
    weight: Annotated[float, Field(gt=0)] | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one_share(self) -> Self:
        if (self.weight is None) == (self.epochs is None):
            raise ValueError("give it either a weight or epochs")
        return self


class Data(Section):
    """Which text, and how samples are made of it."""

    store: str | None = None  # None: the demo store
    blend: list[BlendedStore] = []  # several stores instead, each with its share
    seq_len: Annotated[int, Field(ge=8)] = 128
    objective: Literal["nsp", "sop", "mlm"] = "nsp"
    packing: bool = True
    mask_probability: Annotated[float, Field(gt=0, le=1)] = 0.15
    mask_token_share: Share = 0.8
    random_token_share: Share = 0.1
    whole_words: bool = False
    short_sample_probability: Share = 0.1
    window_blocks: PositiveInt = 64
    static_epochs: Annotated[int, Field(ge=0)] = 0  # 0: new pairs and masks every epoch

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.mask_token_share + self.random_token_share > 1:
            raise ValueError("mask_token_share and random_token_share together exceed 1")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.store is not None and self.blend:
            raise ValueError("store and blend exclude each other: name one store or several")
        if len({each.weight is None for each in self.blend}) > 1:
            raise ValueError("blend has weights and epochs: give every store a weight, or every store epochs")
        return self


class Model(Section):
    """Which encoder: exactly one of preset, config (a Hugging Face config JSON) and pretrained (a folder)."""

    preset: str | None = None
    config: str | None = None
    pretrained: str | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None  # None: what the model's own config says


class Train(Section):
    """How long, in which batches. `global_batch` counts rows of seq_len tokens per step over all ranks."""

    steps: PositiveInt = 1000
    global_batch: PositiveInt = 256
    micro_batch: PositiveInt | Literal["auto"] = "auto"
    activation_checkpointing: Literal["none", "full"] | PositiveInt = "none"
    spike_factor: Annotated[float, Field(gt=1)] | None = (
        None  # None: no step is skipped for its gradient norm
    )
    spike_window: PositiveInt = 50
    stop_at_step: PositiveInt | None = None  # save and end with exit code 75 there, to be started again


class Optimizer(Section):
    """LAMB or AdamW. `variant` and the bounds of the trust ratio belong to LAMB."""

    name: Literal["lamb", "adamw"] = "lamb"
    variant: Literal["paper", "nvidia", "deepspeed"] = "paper"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    eps: Annotated[float, Field(gt=0)] = 1e-6
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    gradient_clipping: Annotated[float, Field(ge=0)] = 1.0  # L2 norm over all parameters; 0 = none
    bias_correction: bool | None = None  # None: what the variant does
    min_trust: Annotated[float, Field(ge=0)] | None = None
    max_trust: Annotated[float, Field(gt=0)] | None = None


class ScheduleSection(Section):
    """The learning rate over the run. `warmup` below 1 is a share of train.steps, from 1 on a count of steps."""

    name: Literal["linear", "polynomial", "nvidia-polynomial"] = "linear"
    warmup: Annotated[float, Field(ge=0)] = 0.1
    power: Annotated[float, Field(gt=0)] = 1.0
    end_lr: Annotated[float, Field(ge=0)] = 0.0


class Eval(Section):
    """Validation on the held-out split every `every` steps (0: only at the end), on at most `rows` rows."""

    every: Annotated[int, Field(ge=0)] = 0
    rows: PositiveInt = 512


class Checkpoint(Section):
    """A checkpoint every `every` steps (0: only at the end); the last `keep` are kept."""

    every: Annotated[int, Field(ge=0)] = 0
    keep: PositiveInt = 3


class Log(Section):
    """Console and TensorBoard every `every` steps; metrics.jsonl has every step, and with `samples`
    samples.jsonl the names of all samples of every step."""

    every: PositiveInt = 10
    samples: bool = False
    parameters_every: Annotated[int, Field(ge=0)] = 0  # trust ratios and norms of each parameter; 0: never


class Recipe(Section):
    """A whole recipe."""

    seed: Annotated[int, Field(ge=0)] = 42
    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    optimizer: Optimizer = Optimizer()
    schedule: ScheduleSection = ScheduleSection()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up."""
        warmup = self.schedule.warmup
        return round(warmup * self.train.steps) if warmup < 1 else round(warmup)
