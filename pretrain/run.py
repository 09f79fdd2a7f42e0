"""One run from its first or next step to the model folder.

1. the run folder is made and locked; store, model and backend are built;
2. the newest checkpoint, if there is one and it is wanted, fills weights and moments and sets the cursor;
3. the loop trains; the last validation and the Hugging Face folder follow.
"""

import os
import socket
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from pretrain import build, checkpoint, comm, cores, heap
from pretrain.backends.base import Backend, EngineOptions
from pretrain.build import Request
from pretrain.checkpoint import Retention, RunState, Saver
from pretrain.data.corpus import Corpus
from pretrain.data.loader import StepBatches
from pretrain.ending import Ending
from pretrain.errors import UsageError
from pretrain.events import RunEvents
from pretrain.loop import Loop, LoopOptions
from pretrain.metrics import MetricsWriter, Terminal
from pretrain.model.flops import TrainingFlops
from pretrain.noise import NoiseProbe
from pretrain.opening import say_what
from pretrain.optim import Progress, RunLength, Validations
from pretrain.pace import build_schedule, run_length
from pretrain.resume import Resumption
from pretrain.run_folder import RunFolder
from pretrain.said import Said
from pretrain.secrets import without_secrets
from pretrain.signals import StopRequest
from pretrain.timing import Profile, ProfileOptions, Timing
from pretrain.watch import Watch


def train(request: Request, stop: StopRequest, watch: Watch | None = None, said: Said | None = None) -> None:
    """Runs a training from start or checkpoint to its end; collective.

    Raises PretrainError with the exit code of the public contract; StoppedBySignal after saving.
    """
    place, watch = request.place, watch or Watch(request.place, stop)
    folder = RunFolder(request.output)
    terminal = Terminal(place.is_first, request.config.recipe.log.every)
    comm.on_first_rank(folder.create)
    comm.on_first_rank(lambda: folder.lock(comm.batch_job()))
    comm.on_first_rank(RunEvents(folder, comm.environment_secrets()).keep_fault)  # another start's
    watch.report_into(folder.path)
    try:
        if place.is_first:
            watch.before_end(folder.unlock)
        watch.activity.now("building model and engine")
        run = _prepare(request, folder, terminal, watch, said or Said())
        watch.activity.now("loading the checkpoint")
        start = run.resume()
        if run.has_ended(start) and start.step == folder.finished_steps():
            terminal.say(f"{folder.path} is finished: {start.step} steps, model in {folder.model}.")
            return
        run.train(start)
    except OSError as error:
        raise folder.refused(error) or error from None
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
    watch: Watch
    said: Said

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
        request, folder = self.request, self.folder
        return Resumption(
            recipe=request.config.recipe,
            choice=request.resume,
            run=folder.path,
            checkpoints=folder.checkpoints,
            initial=self.initial,
            total_steps=self.length.steps,
            precision=self.engine.precision,
            repeats_bits=request.device.type == "cpu" or request.config.recipe.train.deterministic,
            backend=self.backend,
            noise=self.noise.scale,
            place=request.place,
            terminal=self.terminal,
        ).begin()

    def train(self, start: RunState) -> None:
        """All remaining steps, the last validation and the export."""
        recipe = self.request.config.recipe
        sampling = build.sampling_options(recipe)
        # Both look at the corpus: what it cannot give is said before anything is written.
        loader = build.build_loader(self.request, self.corpus, sampling, self.engine, start)
        evaluator = build.build_evaluator(self.request, self.corpus, sampling, self.engine, self.watch)
        schedule, resolved_schedule = build_schedule(
            recipe, lambda: build.samples_per_step(self.corpus, recipe)
        )
        retention = self._retention(evaluator is not None)
        saver = Saver(
            self.folder.checkpoints,
            self.backend.optimizer,
            retention,
            self.request.place.rank,
            self.watch.activity,
        )
        # Not before: a start that is refused leaves the folder as it is.
        self.said.write_into(self.folder.logs, self.request.place.rank, self.request.place.world_size)
        writer = self._open_writer(start.step, resolved_schedule)
        hosts = comm.all_gather_objects(socket.gethostname())
        if writer is not None:
            writer.hosts(hosts)
        comm.on_first_rank(self.folder.unmark_finished)
        say_what(self.terminal, self.request, self.engine, self.backend, self.corpus)
        loop = Loop(
            options=self._loop_options(),
            loader=loader,
            backend=self.backend,
            schedule=schedule,
            evaluator=evaluator,
            saver=saver,
            state_at=lambda done, cursor: self._state_at(done, cursor.as_list()),
            step_flops=self._step_flops,
            writer=writer,
            terminal=self.terminal,
            stop=self.watch.stop,
            noise=self.noise,
            activity=self.watch.activity,
            diagnosis=build.diagnosis(self.request, self.folder.path, self.initial),
            timing=Timing(recipe.log.every, hosts, self.request.device),
            profile=self._profile(),
        )
        ending = Ending(
            self.folder,
            self.backend,
            evaluator,
            writer,
            self.terminal,
            self.corpus.first.tokenizer_path,
            self.watch.activity,
        )
        self.watch.begin_training(start.step + 1, lambda: checkpoint.find_checkpoint(self.folder.checkpoints))
        with writer or nullcontext(), self._noting(start.step, writer):
            with loader, loop.profile:
                done = self._taken_through(loop, start)
            self._say_ranks(loop.timing)
            ending.reach(done, self.length)

    def _taken_through(self, loop: Loop, start: RunState) -> Progress:
        """What is done when the loop has ended; its last step is committed."""
        at_start = _progress_of(start)
        begun = loop.made_up_for_validation(at_start)
        if begun != at_start or self.length.reached(begun) is not None:
            # The checkpoint may be another folder's too; the export reads this one's.
            loop.saver.begin(self._state_at(begun, start.cursor))
            loop.saver.finish()
        return loop.run(begun)

    def _profile(self) -> Profile:
        options = ProfileOptions(**self.request.config.recipe.profile.model_dump())
        return Profile(options, self.folder.profile, self.request.place.rank, self.watch.activity)

    def _say_ranks(self, timing: Timing) -> None:
        summary = timing.stragglers.summary()
        if summary is not None:
            self.terminal.say(summary)

    def _retention(self, validates: bool) -> Retention:
        """Which checkpoints stay. Raises UsageError where that goes by validation and there is none."""
        recipe = self.request.config.recipe
        if recipe.looks_for_best and not validates:
            raise UsageError(
                "eval.patience and checkpoint.best go by validation, but the store's held-out split has too few "
                "documents: leave them out."
            )
        return Retention(recipe.checkpoint.keep, recipe.checkpoint.keep_every, recipe.looks_for_best)

    def _state_at(self, done: Progress, cursor: list[int]) -> RunState:
        """What a checkpoint says beside the weights; `cursor` is the first row of the next step."""
        optimizer = self.backend.optimizer
        scale = self.backend.loss_scaler.state if self.engine.precision == "fp16" else None
        update: dict[str, Any] = {"step": done.steps, "tokens": done.tokens, "seconds": done.seconds}
        update |= {"cursor": cursor, "applied_steps": optimizer.applied_steps, "loss_scale": scale}
        update |= {"recent_norms": optimizer.recent_norms, "spikes_in_row": optimizer.spikes_in_row}
        update |= {"skipped_tokens": done.skipped_tokens, "earlier_steps": optimizer.earlier_steps}
        update |= {"noise": self.noise.scale.state}
        if self.request.config.recipe.looks_for_best:
            update["validations"] = done.validations
        return self.initial.model_copy(update=update)

    def _open_writer(self, finished_steps: int, schedule: dict[str, Any]) -> MetricsWriter | None:
        """On rank 0, config.json and the files of metrics."""
        if not self.request.place.is_first:
            return None
        config = self.request.config.as_dict()
        stores = [store.model_dump() for store in build.saved_stores(self.corpus)]
        data: dict[str, Any] = {"blend": stores} if self.corpus.is_blend else {"store": stores[0]["name"]}
        data["store_fingerprint"] = self.corpus.fingerprint
        parts = self.backend.layout.with_frozen()
        numel = sum(info.numel for part in parts for info in part.parameters)
        about: dict[str, Any] = {"run": self.initial.written_by, "job": comm.batch_job()}
        about["model"] = {"class": self.initial.model_class, "parameters": numel}
        content = config | {"schedule": schedule} | about | data
        self.folder.write_config(without_secrets(content, comm.environment_secrets()))
        return MetricsWriter(
            self.folder.metrics,
            self.folder.evaluations,
            self.folder.samples,
            self.folder.tensorboard,
            finished_steps,
            self.request.config.recipe.log.every,
            self.folder.ranks,
        )

    def _noting(self, step: int, writer: MetricsWriter | None) -> AbstractContextManager[None]:
        """On rank 0, the lines of events.jsonl about this start."""
        if writer is None:
            return nullcontext()
        here = {"host": socket.gethostname(), "pid": os.getpid(), "job": comm.batch_job()}
        events = RunEvents(self.folder, comm.environment_secrets())
        return events.of_start(step, here | self.initial.written_by, lambda: writer.last_step)

    def _loop_options(self) -> LoopOptions:
        recipe, place = self.request.config.recipe, self.request.place
        said = recipe.log.peak_tflops
        peak = comm.peak_flops(self.request.device) if said is None else said * 1e12
        return LoopOptions(
            length=self.length,
            stop_at_step=recipe.train.stop_at_step,
            eval_every=recipe.eval.every,
            checkpoint_every=recipe.checkpoint.every,
            parameters_every=recipe.log.parameters_every,
            list_graph_breaks=recipe.log.graph_breaks,
            global_batch=recipe.train.global_batch,
            lr_scaling=recipe.optimizer.lr_scaling,
            looks_for_best=recipe.looks_for_best,
            min_improvement=recipe.eval.min_improvement,
            seed=recipe.seed,
            rank=place.rank,
            device=self.request.device,
            peak_flops=None if peak is None else peak * place.world_size,
            max_skipped_steps=recipe.train.max_skipped_steps,
        )

    def _step_flops(self, batches: StepBatches) -> float:
        attended = batches.num_attended / batches.num_tokens
        return self.flops.step(batches.num_tokens, batches.num_masked, attended, batches.num_pairs)


def _progress_of(state: RunState) -> Progress:
    validations = state.validations or Validations()
    return Progress(state.step, state.tokens, state.seconds, state.skipped_tokens, validations)


def _prepare(request: Request, folder: RunFolder, terminal: Terminal, watch: Watch, said: Said) -> Run:
    """Store, model and engine."""
    recipe = request.config.recipe
    engine = build.engine_options(request)
    if recipe.train.deterministic:
        _compute_deterministically()
    corpus = build.open_corpus(request)
    if recipe.data.verify:
        watch.activity.now("verifying the token store")
        build.verify_corpus(corpus, watch.activity)
        watch.activity.now("building model and engine")
    cores.share(request.place, request.device)  # not before: one rank verifies for all
    heap.keep_freed_memory(request.device)
    model = build.build_encoder(recipe, corpus.first)
    flops = model.flops
    initial = build.initial_state(request, engine, corpus, build.sampling_options(recipe), model)
    backend = build.build_backend(request.backend, model, recipe, engine)
    noise = build.noise_probe(request)
    return Run(request, folder, terminal, corpus, engine, backend, flops, initial, noise, watch, said)


def _compute_deterministically() -> None:
    """From now on this process computes the same in every bit whenever it is asked the same, on a GPU too; what has no
    deterministic algorithm raises RuntimeError."""
    torch.use_deterministic_algorithms(True)
    # Memory that nobody has written yet is nothing that a result depends on.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
