"""What fits into a rank's memory, by the plan's own figures: `python -m pretrain plan --fits`. Nothing is measured.

1. for each stage and each way of activation checkpointing the most rows of a micro-batch: activations are affine in
   rows, but for counts that are rounded, so that a secant through two traced sizes leads near, and tracing there and
   one row further shows that it is the most;
2. for each stage the largest model of a ladder that fits with one row and full activation checkpointing. The ladder
   is the presets and, above them, the layers and widths of larger published encoders, each as a BERT: heads of 64, a
   feed-forward layer of four times the width, the store's vocabulary. They are DeBERTa V2 xlarge and xxlarge (He et
   al. 2020, arXiv 2006.03654), Megatron's BERTs (Shoeybi et al. 2019, arXiv 1909.08053) and XLM-R XL and XXL (Goyal et
   al. 2021, arXiv 2105.00572).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Literal

from pretrain import build
from pretrain.config import Recipe
from pretrain.data.corpus import Corpus
from pretrain.model import ModelOptions, PretrainingModel, build_model
from pretrain.model.presets import PRESETS, Preset
from pretrain.plan.parameters import Shapes
from pretrain.plan.planning import STAGES, MemoryModel, Plan, StageMemory, Way

Checkpointing = Literal["none", "full"] | int
_WAYS_TO_CHECKPOINT: tuple[Checkpointing, ...] = ("none", 2, "full")
MOST_ROWS = 1 << 20  # that are looked for
_SECOND_POINT = 64  # rows; of the first secant
_SECANTS = 6  # before the search halves what is left
# Beyond bert-large, by parameters.
_LARGER: Mapping[str, Preset] = MappingProxyType(
    {
        "24 x 1536": Preset(24, 1536),
        "24 x 2048": Preset(24, 2048),
        "48 x 1536": Preset(48, 1536),
        "36 x 2560": Preset(36, 2560),
        "48 x 2560": Preset(48, 2560),
        "48 x 4096": Preset(48, 4096),
    }
)
LADDER: Mapping[str, Preset] = MappingProxyType({**PRESETS, **_LARGER})


@dataclass(frozen=True)
class FittingRows:
    """The largest micro-batch; 0 rows where one is too many. `peak_bytes`: a rank's with it, or with one row."""

    checkpointing: Checkpointing
    rows: int
    peak_bytes: int


@dataclass(frozen=True)
class FittingModel:
    """`name`: a preset's, or layers x width."""

    name: str
    parameters: int
    peak_bytes: int


@dataclass(frozen=True)
class StageFits:
    """Under one stage. `model`: None where not even the smallest fits."""

    stage: int
    is_chosen: bool
    micro_batches: tuple[FittingRows, ...]
    model: FittingModel | None


def checkpointing_ways(recipe: Recipe) -> tuple[Checkpointing, ...]:
    """None, every second layer, all of them; and the recipe's own."""
    own = recipe.train.activation_checkpointing
    return (*_WAYS_TO_CHECKPOINT, *(() if own in (*_WAYS_TO_CHECKPOINT, 1) else (own,)))


def with_checkpointing(recipe: Recipe, checkpointing: Checkpointing) -> Recipe:
    """The same run with other layers recomputed."""
    train = recipe.train.model_copy(update={"activation_checkpointing": checkpointing})
    return recipe.model_copy(update={"train": train})


def what_fits(plan: Plan, corpus: Corpus, memory_bytes: int) -> tuple[StageFits, ...]:
    """By stage, into so many bytes of a rank."""
    recipe, ways = plan.asked.config.recipe, checkpointing_ways(plan.asked.config.recipe)
    memories = {}
    for checkpointing in ways:
        changed = with_checkpointing(recipe, checkpointing)
        model = build.build_encoder(changed, corpus.first, on_meta=True)
        memories[checkpointing] = replace(plan.memory_model, model=model)

    @cache  # stages that compute in the same way share what is traced
    def activations(checkpointing: Checkpointing, way: Way, rows: int) -> int:
        return memories[checkpointing].activations(way, rows)

    def fitting_rows(stage: int, checkpointing: Checkpointing) -> FittingRows:
        memory = memories[checkpointing]

        def peak(rows: int) -> int:
            traced = activations(checkpointing, memory.way(stage), rows)
            return peak_with(memory, stage, traced, rows, plan.libraries).peak

        rows = most_rows(peak, memory_bytes)
        return FittingRows(checkpointing, rows, peak(max(rows, 1)))

    models = _largest_models(plan, corpus, memory_bytes)
    return tuple(
        StageFits(
            stage,
            each.is_chosen,
            tuple(fitting_rows(stage, checkpointing) for checkpointing in ways),
            models[stage],
        )
        for stage, each in zip(STAGES, plan.memory, strict=True)
    )


def peak_with(
    memory: MemoryModel, stage: int, activations: int, rows: int, libraries: int | None
) -> StageMemory:
    """A rank whose micro-batch of so many rows has these bytes of activations; of a step it has as many at least."""
    wide = replace(memory, rows_of_rank=max(memory.rows_of_rank, rows))
    return wide.of_stage(stage, memory.live_with(stage, activations), libraries)


def most_rows(peak: Callable[[int], int], limit: int) -> int:
    """The rows with peak(rows) <= limit < peak(rows + 1), 0 where one row is over it; at most MOST_ROWS. `peak` is
    about affine and never falls."""
    low, high = 1, MOST_ROWS + 1  # what fits; what does not, or is not looked at
    low_peak = peak(1)
    if low_peak > limit:
        return 0
    other, other_peak = _SECOND_POINT, peak(_SECOND_POINT)
    tries = 0
    while True:
        if other_peak <= limit and other > low:
            low, low_peak, other, other_peak = other, other_peak, low, low_peak
        elif other_peak > limit:
            high = min(high, other)
        if high - low <= 1:
            return low
        tries += 1
        slope = (other_peak - low_peak) / (other - low)
        near = low + int((limit - low_peak) / slope) if slope > 0 else high
        if tries > _SECANTS:
            near = (low + high) // 2
        elif near == low:  # so one row more should be too many
            near = low + 1
        following = min(max(near, low + 1), high - 1)
        other, other_peak = following, peak(following)


def _largest_models(plan: Plan, corpus: Corpus, memory_bytes: int) -> dict[int, FittingModel | None]:
    """By stage. The largest first, and one after another: of two models the one with more parameters may need less.
    Where states alone are too large nothing is traced."""
    found: dict[int, FittingModel | None] = dict.fromkeys(STAGES)
    for name, sizes in reversed(tuple(LADDER.items())):
        missing = [stage for stage in STAGES if found[stage] is None]
        if not missing:
            break
        model = _bert(sizes, plan.asked.config.recipe, corpus)
        memory = replace(plan.memory_model, model=model, shapes=Shapes.of(model))

        def peak(stage: int, activations: int, memory: MemoryModel = memory) -> int:
            return peak_with(memory, stage, activations, 1, plan.libraries).peak

        open_stages = [stage for stage in missing if peak(stage, 0) <= memory_bytes]
        traced = {way: memory.activations(way, 1) for way in {memory.way(stage) for stage in open_stages}}
        for stage in open_stages:
            taken = peak(stage, traced[memory.way(stage)])
            if taken <= memory_bytes:
                found[stage] = FittingModel(name, memory.shapes.numel, taken)
    return found


def _bert(sizes: Preset, recipe: Recipe, corpus: Corpus) -> PretrainingModel:
    """On the meta device, with all layers recomputed; positions as many as a row has tokens, 512 at least."""
    store, seq_len = corpus.first, recipe.data.seq_len
    return build_model(
        ModelOptions(
            preset=replace(sizes, num_positions=max(sizes.num_positions, seq_len)),
            dropout=recipe.model.dropout,
            activation_checkpointing="full",
            label_smoothing=recipe.train.label_smoothing,
        ),
        vocab_size=store.vocab_size,
        special_ids=store.special_ids,
        seq_len=seq_len,
        objective=recipe.data.objective,
        tokenizer_path=store.tokenizer_path,
        seed=recipe.seed,
        on_meta=True,
    )
