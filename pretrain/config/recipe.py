"""The recipe: what is computed. Every key with its type, range and default."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pretrain.config.batch_plan import BatchPlan

PositiveInt = Annotated[int, Field(gt=0)]
Pair = Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
Share = Annotated[float, Field(ge=0, le=1)]


def _normal(number: float) -> float:
    if number < 2.0**-126:
        raise ValueError(
            "input should be 1.18e-38 or more: a smaller one is no normal float32 and may become 0"
        )
    return number


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
    verify: bool = False  # True: every checksum of every store before the first step, not the sizes alone

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
    attention_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None  # None: as `dropout` says
    frozen: list[str] = []  # patterns over parameter names: what matches is not trained


class Phase(Section):
    """What a run begins with that was trained before: the master weights of a checkpoint, and perhaps its moments.

    Everything else begins anew: steps, rows, the schedule with its warm-up, the loss scale.
    """

    checkpoint: str | None = None  # a checkpoint, or a run folder, whose latest one it is
    moments: Literal["reset", "kept", "nvidia-kept"] = "reset"


class Train(Section):
    """How long, in which batches. `global_batch` counts rows of seq_len tokens per step over all ranks.

    The run ends at `steps`, `tokens` (real ones) or `hours`, whichever comes first.
    """

    steps: PositiveInt | None = 1000  # None: only where `tokens` is said and steps are not
    tokens: PositiveInt | None = None
    hours: Annotated[float, Field(gt=0)] | None = None  # of all starts of the run together
    global_batch: PositiveInt = 256
    batch_stages: list[Pair] = []  # before it: [steps, rows], ascending
    micro_batch: PositiveInt | Literal["auto"] = "auto"
    activation_checkpointing: Literal["none", "full"] | PositiveInt = "none"
    compile: bool = False
    deterministic: bool = False  # on a GPU too, by torch's deterministic algorithms
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the masked-token loss, in training only
    spike_factor: Annotated[float, Field(gt=1)] | None = (
        None  # None: no step is skipped for its gradient norm
    )
    spike_window: PositiveInt = 50
    stop_at_step: PositiveInt | None = None  # save and end with exit code 75 there, to be started again
    max_skipped_steps: PositiveInt = (
        20  # in a row that end the run: spikes; overflows at the lowest loss scale
    )

    @model_validator(mode="after")
    def _stages_ascend(self) -> Self:
        sizes = self.batch_plan.sizes
        if any(later <= earlier for earlier, later in pairwise(sizes)):
            raise ValueError(
                f"batch_stages and then global_batch take {', '.join(map(str, sizes))} rows: each must be more than "
                "the one before"
            )
        return self

    @property
    def batch_plan(self) -> BatchPlan:
        """The rows of every step."""
        return BatchPlan(self.global_batch, tuple((steps, rows) for steps, rows in self.batch_stages))


class Optimizer(Section):
    """LAMB, AdamW, SGD or Adafactor; which key belongs to which, `belonging` knows."""

    name: Literal["lamb", "adamw", "sgd", "adafactor"] = "lamb"
    variant: Literal["paper", "nvidia", "deepspeed"] = "paper"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    base_batch: PositiveInt | None = None  # samples per step at which `lr` was found
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    eps: Annotated[float, Field(gt=0), AfterValidator(_normal)] = 1e-6
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    decay_1d: bool = False
    trust_1d: bool = True
    gradient_clipping: Annotated[float, Field(ge=0)] = 1.0  # L2 norm over all parameters; 0 = none
    bias_correction: bool | None = None  # None: what the variant does
    min_trust: Annotated[float, Field(ge=0)] | None = None
    max_trust: Annotated[float, Field(gt=0)] | None = None


class ScheduleSection(Section):
    """The learning rate over the run. `warmup` and `decay_every` below 1 are shares of the run's steps, from 1 on
    counts of steps."""

    name: Literal[
        "linear", "polynomial", "nvidia-polynomial", "cosine", "step", "exponential", "constant"
    ] = "linear"
    warmup: Annotated[float, Field(ge=0)] = 0.1
    warmup_samples: PositiveInt | None = None
    warmup_shape: Literal["linear", "quadratic", "log"] = "linear"
    power: Annotated[float, Field(gt=0)] = 1.0
    end_lr: Annotated[float, Field(ge=0)] = 0.0
    end_share: Share | None = None  # of the peak, instead of end_lr
    decay_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    decay_every: Annotated[float, Field(gt=0)] | None = None


class Eval(Section):
    """Validation on the held-out split every `every` steps (0: only at the end), on at most `rows` rows.

    `patience` of them in a row without an improvement of the MLM loss by more than `min_improvement` end the run.
    """

    every: Annotated[int, Field(ge=0)] = 0
    rows: PositiveInt = 512
    patience: PositiveInt | None = None  # None: the run goes on to its end
    min_improvement: Annotated[float, Field(ge=0)] = 0.0  # in nats


class Checkpoint(Section):
    """A checkpoint every `every` steps (0: only at the end). The last `keep` stay, and for ever every `keep_every`-th
    step's; with `best` one is saved at each validation that is the best so far, and stays until the next of these."""

    every: Annotated[int, Field(ge=0)] = 0
    keep: PositiveInt = 3
    keep_every: Annotated[int, Field(ge=0)] = 0
    best: bool = False
    verify: bool = True  # checksums of what is loaded; that every element is there is always checked
    fall_back: bool = False  # from a damaged latest checkpoint to the newest older one that is whole


class Log(Section):
    """Console and TensorBoard every `every` steps; metrics.jsonl has every step, and with `samples`
    samples.jsonl the names of all samples of every step."""

    every: PositiveInt = 10
    samples: bool = False
    graph_breaks: bool = False
    parameters_every: Annotated[int, Field(ge=0)] = 0  # trust ratios and norms of each parameter; 0: never
    noise_every: Annotated[int, Field(ge=0)] = 0  # the gradient noise scale; 0: never
    peak_tflops: Annotated[float, Field(gt=0)] | None = (
        None  # of one device, for MFU; None: where it is known here
    )


class Profile(Section):
    """A trace of `steps` steps from `from_step` on (None: none), of each of these ranks."""

    from_step: PositiveInt | None = None
    steps: PositiveInt = 3
    ranks: list[Annotated[int, Field(ge=0)]] = [0]
    record_shapes: bool = False


class WatchSection(Section):
    """So many seconds in which no rank does anything new end the run; 0: never. Until the first step is done there is
    more to wait for."""

    seconds: Annotated[float, Field(ge=0)] = 600.0
    start_seconds: Annotated[float, Field(ge=0)] = 1800.0


class Recipe(Section):
    """A whole recipe."""

    seed: Annotated[int, Field(ge=0)] = 42
    data: Data = Data()
    model: Model = Model()
    phase: Phase = Phase()
    train: Train = Train()
    optimizer: Optimizer = Optimizer()
    schedule: ScheduleSection = ScheduleSection()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    profile: Profile = Profile()
    watch: WatchSection = WatchSection()

    @property
    def looks_for_best(self) -> bool:
        """Whether the checkpoint that validates best is kept; a run that ends by validation needs it."""
        return self.checkpoint.best or self.eval.patience is not None

    @property
    def planned_steps(self) -> int:
        """Of `train.steps` and `train.tokens`, what is reached first if rows are full."""
        limits = [] if self.train.steps is None else [self.train.steps]
        if self.train.tokens is not None:
            limits.append(self.train.batch_plan.steps_for(self.train.tokens / self.data.seq_len))
        return min(limits)

    @property
    def warmup_steps(self) -> int:
        """Steps of warm-up, as `schedule.warmup` says them."""
        return self._steps(self.schedule.warmup)

    @property
    def decay_steps(self) -> int:
        """Steps between two decays of the schedules `step` and `exponential`; 1 for the others."""
        return max(1, self._steps(self.schedule.decay_every or 1.0))

    def _steps(self, steps_or_share: float) -> int:
        return round(steps_or_share * self.planned_steps) if steps_or_share < 1 else round(steps_or_share)
