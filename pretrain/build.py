"""From a configuration to a running training: the only module that knows every room.

1. the token store is opened, and the stream of rows over its training split made;
2. the model is built for the store, the optimizer for the model, and a backend puts both on the devices;
3. the newest checkpoint, if there is one and it is wanted, fills weights and moments and sets the cursor;
4. the loop trains; the last validation and the Hugging Face folder follow.
"""

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from pretrain import checkpoint, comm
from pretrain.backends.base import Backend, EngineOptions, Precision
from pretrain.checkpoint import RunState
from pretrain.comm import Placement
from pretrain.config import Recipe, RunConfig, batch_cut
from pretrain.data.loader import Loader, StepBatches
from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from pretrain.data.stream import RowStream
from pretrain.errors import UsageError
from pretrain.evaluate import Evaluator, unigram_entropy
from pretrain.loop import Loop, LoopOptions
from pretrain.metrics import MetricsWriter, Terminal
from pretrain.model import ModelOptions, PretrainingModel, build_model
from pretrain.optim import AdamWOptions, LambOptions, Schedule, ShardedOptimizer
from pretrain.run_folder import RunFolder
from pretrain.signals import StopRequest

BackendName = Literal["deepspeed", "fsdp"]


@dataclass(frozen=True)
class Request:
    """What the command line asks for, resolved."""

    config: RunConfig
    backend: BackendName
    store: Path
    output: Path
    resume: str  # auto, never, or a checkpoint's path
    place: Placement
    device: torch.device


def train(request: Request, stop: StopRequest) -> None:
    """Runs a training from start or checkpoint to its end; collective.

    Raises PretrainError with the exit code of the public contract; StoppedBySignal after saving.
    """
    place, recipe = request.place, request.config.recipe
    folder = RunFolder(request.output)
    terminal = Terminal(place.is_first, recipe.log.every)
    on_first_rank(place, folder.create)
    on_first_rank(place, lambda: folder.lock(comm.batch_job()))
    try:
        _train_locked(request, folder, terminal, stop)
    finally:
        terminal.end()
        if place.is_first:
            folder.unlock()


def on_first_rank(place: Placement, action: Callable[[], Any]) -> None:
    """Rank 0 acts; a user's mistake found there is raised on every rank."""
    problem: str | None = None
    if place.is_first:
        try:
            action()
        except UsageError as error:
            problem = str(error)
    problem = comm.broadcast_object(problem)
    if problem is not None:
        raise UsageError(problem)


def _train_locked(request: Request, folder: RunFolder, terminal: Terminal, stop: StopRequest) -> None:
    recipe, place = request.config.recipe, request.place
    engine = engine_options(request)
    store = TokenStore.open(request.store)
    sampling = sampling_options(recipe)
    stream = row_stream(store, "train", sampling, recipe.seed)
    model = build_model(
        ModelOptions(
            **recipe.model.model_dump(), activation_checkpointing=recipe.train.activation_checkpointing
        ),
        vocab_size=store.vocab_size,
        special_ids=store.special_ids,
        seq_len=recipe.data.seq_len,
        objective=recipe.data.objective,
        tokenizer_path=store.tokenizer_path,
        seed=recipe.seed,
    )
    backend = build_backend(request.backend, model, recipe, engine)
    state = _initial_state(request, engine, store, sampling, model)
    start = _resume(request, folder, backend, state, terminal)
    if start.step == recipe.train.steps and folder.model.exists():
        terminal.say(
            f"{folder.path} is finished: {start.step} steps, model in {folder.model}. Raise train.steps to go on."
        )
        return
    if place.is_first:
        folder.write_config(request.config.as_dict() | {"run": state.written_by, "store": str(request.store)})
    writer = None
    if place.is_first:
        writer = MetricsWriter(
            folder.metrics, folder.evaluations, folder.tensorboard, start.step, recipe.log.every
        )
    evaluator = build_evaluator(request, store, sampling, engine)
    loader = Loader(
        stream,
        Cursor.from_list(start.cursor),
        recipe.train.global_batch,
        engine.micro_batch,
        place.rank,
        place.world_size,
    )
    save = _saver(folder, backend, state, recipe.checkpoint.keep, place.rank)
    with loader:
        _loop(request, engine, loader, backend, evaluator, save, model, writer, terminal, stop).run(
            start.step
        )
    _finish(folder, store, backend, evaluator, writer, terminal, place, recipe.train.steps)


def engine_options(request: Request) -> EngineOptions:
    """Precision and batch cut of this run. Raises UsageError where they cannot be honoured."""
    config = request.config
    micro_batch, accumulation = batch_cut(config, request.place.world_size)
    enabled = config.engine.bf16.enabled
    bf16 = comm.has_fast_bf16(request.device) if enabled == "auto" else enabled
    precision: Precision = "bf16" if bf16 else "fp32"
    return EngineOptions(
        config.engine, precision, micro_batch, accumulation, request.place.world_size, request.device
    )


def sampling_options(recipe: Recipe) -> SamplingOptions:
    """The `data` section without the store."""
    return SamplingOptions(**recipe.data.model_dump(exclude={"store"}))


def row_stream(store: TokenStore, split: str, options: SamplingOptions, seed: int) -> RowStream:
    """The stream of rows over one split of a store."""
    return RowStream(
        store.split(split), store.special_ids, store.all_special_ids, store.vocab_size, options, seed
    )


def build_backend(
    name: BackendName, model: PretrainingModel, recipe: Recipe, engine: EngineOptions
) -> Backend:
    """The engine with the model and an exact optimizer in it."""
    optimizer = ShardedOptimizer(
        model.encoder.parameters(),
        optimizer_rule(recipe),
        weight_decay=recipe.optimizer.weight_decay,
        max_grad_norm=recipe.optimizer.gradient_clipping,
    )
    # Imported by choice: each engine takes seconds to import, and one may not be installed.
    if name == "deepspeed":
        from pretrain.backends.deepspeed import DeepSpeedBackend

        return DeepSpeedBackend(model, optimizer, engine)
    from pretrain.backends.fsdp import FsdpBackend

    return FsdpBackend(model, optimizer, engine)


def optimizer_rule(recipe: Recipe) -> LambOptions | AdamWOptions:
    """The update rule with its hyper-parameters; what the recipe leaves open is the variant's."""
    section = recipe.optimizer
    betas: dict[str, float] = {"beta1": section.beta1, "beta2": section.beta2, "eps": section.eps}
    said = {
        name: getattr(section, name)
        for name in ("bias_correction", "min_trust", "max_trust")
        if getattr(section, name) is not None
    }
    if section.name == "lamb":
        return replace(LambOptions.variant(section.variant, **betas), **said)
    if "min_trust" in said or "max_trust" in said:
        raise UsageError(
            "optimizer.min_trust and optimizer.max_trust belong to lamb; adamw has no trust ratio."
        )
    return replace(AdamWOptions(**betas), **said)


def build_evaluator(
    request: Request, store: TokenStore, sampling: SamplingOptions, engine: EngineOptions
) -> Evaluator | None:
    """Validation on the held-out split; None where the store has too little of it."""
    recipe, place = request.config.recipe, request.place
    heldout = store.split("heldout")
    if heldout.num_documents < (2 if recipe.data.objective == "nsp" else 1):
        return None
    rows = row_stream(store, "heldout", sampling, recipe.seed).epoch_rows(0, recipe.eval.rows)
    entropy = unigram_entropy(heldout, store.vocab_size)
    return Evaluator(
        rows, entropy, engine.micro_batch, place.rank, place.world_size, request.device, recipe.seed
    )


def _initial_state(
    request: Request,
    engine: EngineOptions,
    store: TokenStore,
    sampling: SamplingOptions,
    model: PretrainingModel,
) -> RunState:
    """The state before the first step."""
    return RunState(
        step=0,
        cursor=[0, 0, 0],
        applied_steps=0,
        seed=request.config.recipe.seed,
        store_fingerprint=store.fingerprint,
        sampling=asdict(sampling),
        model_class=type(model.encoder).__name__,
        model_config_json=model.encoder.config.to_json_string(),
        written_by={
            "backend": request.backend,
            "stage": engine.config.stage,
            "ranks": engine.world_size,
            "micro_batch": engine.micro_batch,
            "accumulation": engine.accumulation,
            "precision": engine.precision,
            "device": torch.cuda.get_device_name() if engine.device.type == "cuda" else platform.machine(),
            "threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in ("torch", "transformers", "deepspeed", "numpy")},
        },
        run_config=request.config.as_dict(),
    )


def _resume(
    request: Request, folder: RunFolder, backend: Backend, state: RunState, terminal: Terminal
) -> RunState:
    """Fills the backend from the checkpoint to continue from, if any; the state to start at."""
    newest = checkpoint.find_checkpoint(folder.checkpoints)
    if request.resume == "never":
        if newest is not None:
            raise UsageError(
                f"--output {folder.path} already holds a run ({newest.name}): choose another folder, or leave out "
                "--resume never to continue it."
            )
        return state
    path = newest if request.resume == "auto" else Path(request.resume)
    if path is None:
        return state
    place = request.place
    saved = checkpoint.CheckpointManifest.read(path).state
    checkpoint.check_same_course(path, saved, state, request.config.recipe.train.steps)
    checkpoint.load_checkpoint(path, backend.optimizer, place.rank, place.world_size)
    backend.refresh_weights()
    how = (
        "bit for bit"
        if checkpoint.is_bitwise(saved, state)
        else "within rounding: the machine, cut or versions differ"
    )
    terminal.say(f"Continuing {path} after step {saved.step}, {how}.")
    for difference in checkpoint.differences(saved.run_config["recipe"], state.run_config["recipe"]):
        terminal.say(f"  changed since: {difference}")
    return saved


def _saver(
    folder: RunFolder, backend: Backend, state: RunState, keep: int, rank: int
) -> Callable[[int, Cursor], Path]:
    """How the loop saves: (finished steps, first row of the next step) -> the checkpoint's path."""

    def save(step: int, cursor: Cursor) -> Path:
        applied = backend.optimizer.applied_steps
        now = state.model_copy(update={"step": step, "cursor": cursor.as_list(), "applied_steps": applied})
        return checkpoint.save_checkpoint(folder.checkpoints, backend.optimizer, now, keep, rank)

    return save


def _loop(
    request: Request,
    engine: EngineOptions,
    loader: Loader,
    backend: Backend,
    evaluator: Evaluator | None,
    save: Callable[[int, Cursor], Path],
    model: PretrainingModel,
    writer: MetricsWriter | None,
    terminal: Terminal,
    stop: StopRequest,
) -> Loop:
    recipe, place = request.config.recipe, request.place
    schedule = Schedule(
        recipe.schedule.name,
        recipe.optimizer.lr,
        recipe.train.steps,
        recipe.warmup_steps,
        recipe.schedule.power,
        recipe.schedule.end_lr,
    )
    peak = comm.peak_flops(request.device)
    flops = model.flops

    def step_flops(batches: StepBatches) -> float:
        mean_length = batches.num_tokens / batches.num_samples
        return flops.step(batches.num_tokens, batches.num_masked, mean_length, batches.num_pairs)

    options = LoopOptions(
        total_steps=recipe.train.steps,
        stop_at_step=recipe.train.stop_at_step,
        eval_every=recipe.eval.every,
        checkpoint_every=recipe.checkpoint.every,
        seed=recipe.seed,
        rank=place.rank,
        device=request.device,
        peak_flops=None if peak is None else peak * place.world_size,
    )
    terminal.say(
        f"{request.backend} stage {engine.config.stage}, {engine.precision}, {place.world_size} rank(s) on "
        f"{request.device.type}: global batch {recipe.train.global_batch} rows = {engine.micro_batch} x "
        f"{place.world_size} ranks x {engine.accumulation}; {model.encoder.num_parameters():,} parameters; output "
        f"{request.output}"
    )
    if request.backend == "fsdp" and request.config.unused_hints():
        terminal.say(f"  no counterpart in FSDP: {', '.join(request.config.unused_hints())}")
    return Loop(options, loader, backend, schedule, evaluator, save, step_flops, writer, terminal, stop)


def _finish(
    folder: RunFolder,
    store: TokenStore,
    backend: Backend,
    evaluator: Evaluator | None,
    writer: MetricsWriter | None,
    terminal: Terminal,
    place: Placement,
    steps: int,
) -> None:
    """The last validation, with the shuffled context, and the model folder."""
    terminal.end()
    if evaluator is None:
        terminal.say("No validation: the store's held-out split has too few documents.")
    else:
        record = evaluator.run(backend, steps, shuffled=True)
        terminal.summary(record)
        if writer is not None:
            writer.evaluation(record)
    newest = checkpoint.find_checkpoint(folder.checkpoints)
    if writer is not None and newest is not None:
        checkpoint.export_model(newest, store.tokenizer_path, folder.model)
        writer.close()
        terminal.say(f"Done: {steps} steps. Hugging Face model: {folder.model}")
