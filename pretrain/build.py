"""From a configuration to the objects of a run: stream of rows, model, optimizer in its engine, schedule.

With `run`, which puts them to work, the only module that knows every room.
"""

import os
import platform
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from pretrain import comm
from pretrain.backends.base import Backend, EngineOptions
from pretrain.backends.carried import BackendName, check_carried, choose_precision
from pretrain.checkpoint import RunState, SavedStore
from pretrain.comm import Placement
from pretrain.config import Recipe, RunConfig, batch_cut
from pretrain.data.blend import BlendCursor, BlendStream, RowPattern
from pretrain.data.corpus import Corpus
from pretrain.data.loader import Loader
from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from pretrain.data.stream import RowStream
from pretrain.diagnosis import Diagnosis
from pretrain.errors import UsageError
from pretrain.evaluate import ENTROPY_TOKENS, Evaluator, HeldoutRows, token_shares
from pretrain.model import ModelOptions, PretrainingModel, build_model
from pretrain.noise import NoiseProbe, check_measurable
from pretrain.optim import (
    AdafactorOptions,
    AdamWOptions,
    LambOptions,
    NoiseScale,
    Rule,
    SgdOptions,
    ShardedOptimizer,
    SpikeRule,
)
from pretrain.secrets import without_secrets
from pretrain.watch import Activity, Watch

MEASURED_ROWS = 4096  # of which the samples are counted, at most


@dataclass(frozen=True)
class Request:
    """What the command line asks for, resolved."""

    config: RunConfig
    backend: BackendName
    store: Path | None  # None: the stores of data.blend
    output: Path
    resume: str  # auto, never, or a checkpoint's path
    place: Placement
    device: torch.device


def engine_options(request: Request) -> EngineOptions:
    """Precision and batch cut of this run. Raises UsageError where they cannot be honoured."""
    config = request.config
    micro_batch, accumulation = batch_cut(config, request.place.world_size)
    engine, ranks, device = config.engine, request.place.world_size, request.device
    if config.recipe.log.noise_every:
        check_measurable(min(config.recipe.train.batch_plan.sizes), micro_batch)
    check_carried(engine, request.backend, ranks)
    precision, compiled = choose_precision(engine, request.backend, device), config.recipe.train.compile
    missing = comm.missing_for_compiling(device) if compiled else None
    if missing is not None:
        raise UsageError(
            f"train.compile needs {missing} on every machine of the run: install it, or say false."
        )
    return EngineOptions(engine, precision, micro_batch, accumulation, ranks, device, compiled)


def sampling_options(recipe: Recipe) -> SamplingOptions:
    """How samples are made: of the `data` section all but which stores, and how they are looked at."""
    return SamplingOptions(**recipe.data.model_dump(exclude={"store", "blend", "verify"}))


def open_corpus(request: Request) -> Corpus:
    """The store of the command line, or those of data.blend."""
    blend = request.config.recipe.data.blend
    if request.store is not None:
        return Corpus.open([str(request.store)], [1.0], "weight")
    kind: Literal["weight", "epochs"] = "weight" if blend[0].weight is not None else "epochs"
    shares = [each.weight or each.epochs or 0.0 for each in blend]
    return Corpus.open([each.store for each in blend], shares, kind)


def verify_corpus(corpus: Corpus, activity: Activity) -> None:
    """Rank 0 reads every store once; collective. Raises DataError, on every rank, where one is damaged."""
    workers = len(os.sched_getaffinity(0))
    comm.on_first_rank(lambda: corpus.verify(workers, lambda _: activity.advance()))


def row_stream(store: TokenStore, split: str, options: SamplingOptions, seed: int) -> RowStream:
    """The stream of rows over one split of a store."""
    return RowStream(
        store.split(split), store.special_ids, store.all_special_ids, store.vocab_size, options, seed
    )


def build_encoder(recipe: Recipe, store: TokenStore, on_meta: bool = False) -> PretrainingModel:
    """The model for the store, in fp32 on the CPU; or its shapes alone, on torch's meta device."""
    return build_model(
        ModelOptions(
            **recipe.model.model_dump(),
            activation_checkpointing=recipe.train.activation_checkpointing,
            label_smoothing=recipe.train.label_smoothing,
        ),
        vocab_size=store.vocab_size,
        special_ids=store.special_ids,
        seq_len=recipe.data.seq_len,
        objective=recipe.data.objective,
        tokenizer_path=store.tokenizer_path,
        seed=recipe.seed,
        on_meta=on_meta,
    )


def build_backend(
    name: BackendName, model: PretrainingModel, recipe: Recipe, engine: EngineOptions
) -> Backend:
    """The engine with the model and an exact optimizer in it."""
    optimizer = ShardedOptimizer(
        [parameter for parameter in model.encoder.parameters() if parameter.requires_grad],
        optimizer_rule(recipe),
        weight_decay=recipe.optimizer.weight_decay,
        max_grad_norm=recipe.optimizer.gradient_clipping,
        decay_1d=recipe.optimizer.decay_1d,
        spikes=spike_rule(recipe),
    )
    # Imported by choice: each engine takes seconds to import, and one may not be installed.
    if name == "deepspeed":
        from pretrain.backends.deepspeed import DeepSpeedBackend

        return DeepSpeedBackend(model, optimizer, engine)
    from pretrain.backends.fsdp import FsdpBackend

    return FsdpBackend(model, optimizer, engine)


def spike_rule(recipe: Recipe) -> SpikeRule | None:
    """Which steps are skipped for their gradient norm, if any."""
    factor = recipe.train.spike_factor
    return None if factor is None else SpikeRule(factor, recipe.train.spike_window)


def optimizer_rule(recipe: Recipe) -> Rule:
    """The update rule with its hyper-parameters; what the recipe leaves open is the variant's.

    Raises UsageError where the bounds of LAMB's trust ratio leave nothing between them.
    """
    section = recipe.optimizer
    if section.name == "sgd":
        return SgdOptions(section.momentum, section.nesterov)
    if section.name == "adafactor":
        return AdafactorOptions()
    names = ("bias_correction", "min_trust", "max_trust") if section.name == "lamb" else ("bias_correction",)
    said: dict[str, Any] = {name: value for name in names if (value := getattr(section, name)) is not None}
    if section.name == "lamb":
        lamb = LambOptions.variant(section.variant, beta1=section.beta1, beta2=section.beta2, eps=section.eps)
        rule = replace(lamb, trust_1d=section.trust_1d, **said)
        if rule.min_trust > rule.max_trust:
            raise UsageError(
                f"LAMB's trust ratio would be at least {rule.min_trust:g} and at most {rule.max_trust:g}: set "
                "optimizer.min_trust no higher than optimizer.max_trust (min_coeff and max_coeff in a ds_config); "
                f"what is not said is that of optimizer.variant {section.variant}."
            )
        return rule
    return replace(AdamWOptions(section.beta1, section.beta2, section.eps), **said)


def build_loader(
    request: Request, corpus: Corpus, sampling: SamplingOptions, engine: EngineOptions, start: RunState
) -> Loader:
    """This rank's micro-batches from `start` on. Raises DataError for a cursor of another corpus."""
    recipe, place, cursor = request.config.recipe, request.place, start.cursor
    rows = recipe.train.batch_plan.rows_from(start.step)
    cut = (rows, engine.micro_batch, place.rank, place.world_size)
    streams = [row_stream(store, "train", sampling, recipe.seed) for store in corpus.stores]
    name_samples = recipe.log.samples and place.is_first
    if not corpus.is_blend:
        return Loader(
            streams[0], Cursor.from_list(cursor), *cut, name_samples=name_samples, device=request.device
        )
    blend = BlendStream(streams, corpus.weights, sampling.seq_len)
    position = BlendCursor.from_list(cursor, len(streams))
    return Loader(blend, position, *cut, name_samples=name_samples, device=request.device)


def build_evaluator(
    request: Request, corpus: Corpus, sampling: SamplingOptions, engine: EngineOptions, watch: Watch
) -> Evaluator | None:
    """Validation on the held-out splits; None where no store has enough of it. The rows are shared out by the
    weights of the stores, and each of them gives one at least."""
    recipe, place = request.config.recipe, request.place
    names, stores, weights = heldout_stores(corpus, recipe.data.objective)
    if not stores:
        return None
    spare = recipe.eval.rows - len(stores)
    if spare < 0:
        raise UsageError(
            f"eval.rows is {recipe.eval.rows}, but {len(stores)} stores have held-out text: give each a row at least."
        )
    parts = []
    for name, store, more in zip(names, stores, RowPattern(weights).counts(spare), strict=True):
        rows = row_stream(store, "heldout", sampling, recipe.seed).epoch_rows(0, 1 + more)
        heldout, limit = store.split("heldout"), ENTROPY_TOKENS // len(stores)
        parts.append(
            HeldoutRows(
                name if corpus.is_blend else None, rows, token_shares(heldout, store.vocab_size, limit)
            )
        )
    return Evaluator(
        parts=tuple(parts),
        micro_batch=engine.micro_batch,
        rank=place.rank,
        world_size=place.world_size,
        device=request.device,
        seed=recipe.seed,
        stop=watch.stop,
        activity=watch.activity,
    )


def heldout_stores(corpus: Corpus, objective: str) -> tuple[list[str], list[TokenStore], list[int]]:
    """Names, stores and weights of those that have enough held-out documents for the objective."""
    enough = 2 if objective == "nsp" else 1
    entries = zip(corpus.names, corpus.stores, corpus.weights, strict=True)
    found = [each for each in entries if each[1].split("heldout").num_documents >= enough]
    return (
        [name for name, _, _ in found],
        [store for _, store, _ in found],
        [weight for _, _, weight in found],
    )


def noise_probe(request: Request) -> NoiseProbe:
    """What measures the gradient noise scale, if the recipe asks for it."""
    recipe, place = request.config.recipe, request.place
    every = recipe.log.noise_every
    return NoiseProbe(NoiseScale(), every, recipe.seed, place.rank, place.world_size, request.device)


def diagnosis(request: Request, folder: Path, initial: RunState) -> Diagnosis:
    """What looks into a step that is not finite."""
    recipe, place = request.config.recipe, request.place
    kept = {"store_fingerprint", "blend", "sampling", "written_by"}
    about = initial.model_dump(mode="json", include=kept)
    return Diagnosis(folder, recipe.seed, place.rank, request.device, about)


def samples_per_step(corpus: Corpus, recipe: Recipe) -> float:
    """How many samples the rows of a global batch hold, by the first rows of the run.

    Published batch sizes count samples, and a packed row holds more than one. The figure is a function of stores,
    seed and sampling options alone: no restart and no number of ranks changes it.
    """
    sampling, rows = sampling_options(recipe), min(recipe.train.global_batch, MEASURED_ROWS)
    streams = [row_stream(store, "train", sampling, recipe.seed) for store in corpus.stores]
    if corpus.is_blend:
        blend = BlendStream(streams, corpus.weights, sampling.seq_len)
        samples = blend.step(BlendCursor.start(len(streams)), rows).num_samples
    else:
        samples = streams[0].step(Cursor(0, 0, 0), rows).num_samples
    return samples / rows * recipe.train.global_batch


def initial_state(
    request: Request,
    engine: EngineOptions,
    corpus: Corpus,
    sampling: SamplingOptions,
    model: PretrainingModel,
) -> RunState:
    """The state before the first step, with all that the further course depends on."""
    cuda, zero = engine.device.type == "cuda", engine.config.zero_optimization
    return RunState(
        step=0,
        cursor=(BlendCursor.start(len(corpus.stores)) if corpus.is_blend else Cursor(0, 0, 0)).as_list(),
        applied_steps=0,
        seed=request.config.recipe.seed,
        store_fingerprint=corpus.fingerprint,
        tokenizer_sha256=corpus.first.manifest.tokenizer_sha256,
        blend=saved_stores(corpus) if corpus.is_blend else [],
        sampling=asdict(sampling),
        model_class=type(model.encoder).__name__,
        model_config_json=model.encoder.config.to_json_string(),
        written_by={
            "backend": request.backend,
            "stage": engine.config.stage,
            "shard_group": zero.shard_group,
            "offload": zero.offloads_optimizer or zero.offloads_parameters,
            "ranks": engine.world_size,
            "micro_batch": engine.micro_batch,
            "accumulation": engine.accumulation,
            "precision": engine.precision,
            "device": torch.cuda.get_device_name() if cuda else platform.machine(),
            "threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in ("torch", "transformers", "deepspeed", "numpy")},
        },
        run_config=without_secrets(request.config.as_dict(), comm.environment_secrets()),
    )


def saved_stores(corpus: Corpus) -> list[SavedStore]:
    """The stores of a run as its checkpoints and its config.json name them."""
    secrets = comm.environment_secrets()
    return [
        SavedStore(name=without_secrets(name, secrets), fingerprint=store.fingerprint, weight=weight)
        for name, store, weight in zip(corpus.names, corpus.stores, corpus.weights, strict=True)
    ]
