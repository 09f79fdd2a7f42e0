"""One run from its first or next step to the model folder.

1. the run folder is made and locked; store, model and backend are built;
2. the newest checkpoint, if there is one and it is wanted, fills weights and moments and sets the cursor;
3. the loop trains; the last validation and the Hugging Face folder follow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain import build, checkpoint, comm
from pretrain.backends.base import Backend, EngineOptions
from pretrain.build import Request
from pretrain.checkpoint import RunState
from pretrain.comm import Placement
from pretrain.data.corpus import Corpus
from pretrain.data.loader import StepBatches
from pretrain.errors import UsageError
from pretrain.evaluate import Evaluator
from pretrain.loop import Loop, LoopOptions
from pretrain.metrics import MetricsWriter, Terminal
from pretrain.model.flops import TrainingFlops
from pretrain.noise import NoiseProbe
from pretrain.optim import Progress, RunLength
from pretrain.pace import build_schedule, run_length
from pretrain.run_folder import RunFolder
from pretrain.signals import StopRequest


def train(request: Request, stop: StopRequest) -> None:
    """Runs a training from start or checkpoint to its end; collective.

    Raises PretrainError with the exit code of the public contract; StoppedBySignal after saving.
    """
    place = request.place
    folder = RunFolder(request.output)
    terminal = Terminal(place.is_first, request.config.recipe.log.every)
    _on_first_rank(place, folder.create)
    _on_first_rank(place, lambda: folder.lock(comm.batch_job()))
    try:
        run = _prepare(request, folder, terminal)
        start = run.resume()
        if run.has_ended(start) and start.step == folder.finished_steps():
            terminal.say(f"{folder.path} is finished: {start.step} steps, model in {folder.model}.")
            return
        run.train(start, stop)
    finally:
        terminal.end()
        if place.is_first:
            folder.unlock()


@dataclass(frozen=True)
class Run:
    """The objects of one run."""

    request: Request
    folder: RunFolder
    terminal: Terminal
    corpus: Corpus
    engine: EngineOptions
    backend: Backend
    flops: TrainingFlops
    initial: RunState
    noise: NoiseProbe

    @property
    def length(self) -> RunLength:
        return run_length(self.request.config.recipe)

    def has_ended(self, state: RunState) -> bool:
        """Whether a limit of the run is reached."""
        return self.length.reached(_progress_of(state)) is not None

    def resume(self) -> RunState:
        """Fills the backend from the checkpoint to continue from, if any; the state to start at.

        Raises UsageError or DataError where the run cannot go on from it.
        """
        path = self._checkpoint_to_continue()
        if path is None:
            self._begin_phase()
            return self.initial
        place = self.request.place
        saved = checkpoint.CheckpointManifest.read(path).state
        checkpoint.check_same_course(path, saved, self.initial, self.length.steps)
        checkpoint.load_checkpoint(path, self.backend.optimizer, place.rank, place.world_size)
        self.backend.refresh_weights()
        self.backend.loss_scaler.restore(saved.loss_scale)
        self.noise.scale.restore(saved.noise)
        changes = checkpoint.recipe_changes(saved.run_config["recipe"], self.initial.run_config["recipe"])
        if saved.written_by.get("precision") == self.engine.precision == "fp16":
            before, after = (each.run_config["ds_config"]["fp16"] for each in (saved, self.initial))
            changes += checkpoint.differences(before, after, "fp16.")
        how = "bit for bit" if checkpoint.is_same_course(changes) else "with another recipe or loss scale"
        if not checkpoint.is_bitwise(saved, self.initial):
            how = "within rounding: the machine, the cut or the versions differ"
        self.terminal.say(f"Continuing {path} after step {saved.step}, {how}.")
        for change in changes:
            self.terminal.say(f"  changed since: {change}")
        return saved

    def _begin_phase(self) -> None:
        """Weights, and by choice moments, of the earlier run that the recipe names, if any."""
        phase, place = self.request.config.recipe.phase, self.request.place
        if phase.checkpoint is None:
            return
        path = Path(phase.checkpoint)
        if (path / "checkpoints").is_dir():
            path = checkpoint.find_checkpoint(path / "checkpoints") or path
        saved = checkpoint.begin_phase(
            path, self.backend.optimizer, phase.moments, place.rank, place.world_size
        ).state
        self.backend.refresh_weights()
        self.terminal.say(
            f"Beginning with the weights of {path}, step {saved.step}; moments {phase.moments}."
        )
        if saved.store_fingerprint != self.initial.store_fingerprint:
            self.terminal.say("  it was trained on another store: both must have the same tokenizer")

    def _checkpoint_to_continue(self) -> Path | None:
        """What `--resume` means for this folder; an older checkpoint of it becomes the latest first."""
        choice, own = self.request.resume, self.folder.checkpoints
        if choice == "auto":
            return checkpoint.find_checkpoint(own)
        if choice == "never" or Path(choice).resolve().parent != own.resolve():
            newest = max((path.name for path in own.glob("step-*")), default=None)
            if newest is not None:
                raise UsageError(
                    f"--output {self.folder.path} already holds a run ({newest}): choose another folder, or "
                    f"leave out --resume {choice} to continue it."
                )
            return None if choice == "never" else Path(choice)
        checkpoint.CheckpointManifest.read(Path(choice))
        # Otherwise a run that is killed before its first save would come back to the steps it has left.
        _on_first_rank(self.request.place, lambda: checkpoint.point_latest(own, Path(choice).name))
        return Path(choice)

    def train(self, start: RunState, stop: StopRequest) -> None:
        """All remaining steps, the last validation and the export."""
        recipe = self.request.config.recipe
        sampling = build.sampling_options(recipe)
        # Both look at the corpus: what it cannot give is said before anything is written.
        loader = build.build_loader(self.request, self.corpus, sampling, self.engine, start)
        evaluator = build.build_evaluator(self.request, self.corpus, sampling, self.engine)
        schedule, resolved_schedule = build_schedule(
            recipe, lambda: build.samples_per_step(self.corpus, recipe)
        )
        writer = self._open_writer(start.step, resolved_schedule)
        self._say_what()
        loop = Loop(
            options=self._loop_options(),
            loader=loader,
            backend=self.backend,
            schedule=schedule,
            evaluator=evaluator,
            save=lambda done, cursor: self.save(done, cursor.as_list()),
            step_flops=self._step_flops,
            writer=writer,
            terminal=self.terminal,
            stop=stop,
            noise=self.noise,
            diagnosis=build.diagnosis(self.request, self.folder.path, self.initial),
        )
        try:
            with loader:
                done = loop.run(_progress_of(start))
            if self.has_ended(start):
                # The checkpoint may be another folder's; the export reads this one's.
                self.save(done, start.cursor)
            self._finish(evaluator, writer, done)
        finally:
            if writer is not None:
                writer.close()

    def save(self, done: Progress, cursor: list[int]) -> Path:
        """A checkpoint of what is done; `cursor` is the first row of the next step. Collective."""
        recipe, optimizer = self.request.config.recipe, self.backend.optimizer
        scale = self.backend.loss_scaler.state if self.engine.precision == "fp16" else None
        update: dict[str, Any] = {"step": done.steps, "tokens": done.tokens, "seconds": done.seconds}
        update |= {"cursor": cursor, "applied_steps": optimizer.applied_steps, "loss_scale": scale}
        update |= {"recent_norms": optimizer.recent_norms, "spikes_in_row": optimizer.spikes_in_row}
        update |= {"skipped_tokens": done.skipped_tokens, "earlier_steps": optimizer.earlier_steps}
        update |= {"noise": self.noise.scale.state}
        state = self.initial.model_copy(update=update)
        return checkpoint.save_checkpoint(
            self.folder.checkpoints,
            self.backend.optimizer,
            state,
            recipe.checkpoint.keep,
            self.request.place.rank,
        )

    def _open_writer(self, finished_steps: int, schedule: dict[str, Any]) -> MetricsWriter | None:
        """On rank 0, config.json and the files of metrics."""
        if not self.request.place.is_first:
            return None
        config = self.request.config.as_dict()
        stores = [store.model_dump() for store in build.saved_stores(self.corpus)]
        data: dict[str, Any] = {"blend": stores} if self.corpus.is_blend else {"store": stores[0]["name"]}
        data["store_fingerprint"] = self.corpus.fingerprint
        self.folder.write_config(config | {"schedule": schedule, "run": self.initial.written_by} | data)
        return MetricsWriter(
            self.folder.metrics,
            self.folder.evaluations,
            self.folder.samples,
            self.folder.tensorboard,
            finished_steps,
            self.request.config.recipe.log.every,
        )

    def _loop_options(self) -> LoopOptions:
        recipe, place = self.request.config.recipe, self.request.place
        peak = comm.peak_flops(self.request.device)
        return LoopOptions(
            length=self.length,
            stop_at_step=recipe.train.stop_at_step,
            eval_every=recipe.eval.every,
            checkpoint_every=recipe.checkpoint.every,
            parameters_every=recipe.log.parameters_every,
            list_graph_breaks=recipe.log.graph_breaks,
            global_batch=recipe.train.global_batch,
            lr_scaling=recipe.optimizer.lr_scaling,
            seed=recipe.seed,
            rank=place.rank,
            device=self.request.device,
            peak_flops=None if peak is None else peak * place.world_size,
            max_skipped_steps=recipe.train.max_skipped_steps,
        )

    def _step_flops(self, batches: StepBatches) -> float:
        mean_length = batches.num_tokens / batches.num_samples
        return self.flops.step(batches.num_tokens, batches.num_masked, mean_length, batches.num_pairs)

    def _say_what(self) -> None:
        """One line about what begins, and one about keys that this backend has no use for."""
        request, engine = self.request, self.engine
        numels = [sum(info.numel for info in part.parameters) for part in self.backend.layout.with_frozen()]
        frozen = f", {numels[1]:,} of them frozen" if len(numels) > 1 else ""
        self.terminal.say(
            f"{request.backend} stage {engine.config.stage}, {engine.precision}, {engine.world_size} rank(s) on "
            f"{request.device.type}; {sum(numels):,} parameters{frozen}; global batch of {engine.micro_batch} x "
            f"{engine.world_size} ranks x {engine.accumulation} rows; output {request.output}"
        )
        for steps, rows in request.config.recipe.train.batch_stages:
            self.terminal.say(f"  before that: {steps} steps of {rows} rows")
        if self.corpus.is_blend:
            self._say_blend()
        if request.backend == "fsdp" and request.config.unused_hints():
            self.terminal.say(f"  no counterpart in FSDP: {', '.join(request.config.unused_hints())}")

    def _say_blend(self) -> None:
        """The shares of the stores, and which of them validation leaves out."""
        shares = zip(self.corpus.names, self.corpus.weights, strict=True)
        parts = [f"{weight / sum(self.corpus.weights):.2%} from {name}" for name, weight in shares]
        self.terminal.say(f"  rows: {', '.join(parts)}")
        scored, _, _ = build.heldout_stores(self.corpus, self.request.config.recipe.data.objective)
        for name in self.corpus.names:
            if scored and name not in scored:
                self.terminal.say(f"  warning: {name} has too little held-out text: validation leaves it out")

    def _finish(self, evaluator: Evaluator | None, writer: MetricsWriter | None, done: Progress) -> None:
        """The last validation, with the context shuffled too, and the model folder."""
        self.terminal.end()
        if evaluator is None:
            self.terminal.say("No validation: the store's held-out split has too few documents.")
        else:
            record = evaluator.run(self.backend, done.steps, shuffled=True)
            self.terminal.summary(record)
            if writer is not None:
                writer.evaluation(record)
        newest = checkpoint.find_checkpoint(self.folder.checkpoints)
        if writer is not None and newest is not None:
            checkpoint.export_model(newest, self.corpus.first.tokenizer_path, self.folder.model)
            self.folder.mark_finished(done.steps)
            limit = self.length.reached(done)
            self.terminal.say(
                f"Done: {done.steps} steps, by {limit}. Hugging Face model: {self.folder.model}"
            )


def _progress_of(state: RunState) -> Progress:
    return Progress(state.step, state.tokens, state.seconds, state.skipped_tokens)


def _prepare(request: Request, folder: RunFolder, terminal: Terminal) -> Run:
    """Store, model and engine."""
    recipe = request.config.recipe
    engine = build.engine_options(request)
    corpus = build.open_corpus(request)
    model = build.build_encoder(recipe, corpus.first)
    flops = model.flops
    initial = build.initial_state(request, engine, corpus, build.sampling_options(recipe), model)
    backend = build.build_backend(request.backend, model, recipe, engine)
    return Run(request, folder, terminal, corpus, engine, backend, flops, initial, build.noise_probe(request))


def _on_first_rank(place: Placement, action: Callable[[], Any]) -> None:
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
