"""What a run begins with: a checkpoint to go on from, the weights of an earlier phase, or nothing.

1. `--resume` and `latest` say which checkpoint; rank 0 looks, so that all ranks mean the same;
2. it must be whole, or, where the recipe says so, the newest older one that is;
3. it must be of this course: the same data, seed and model;
4. it fills weights and moments, and the terminal says what was restored and how exactly the run goes on.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pretrain import checkpoint, comm
from pretrain.backends.base import Backend
from pretrain.checkpoint import CheckpointManifest, RunState
from pretrain.comm import Placement
from pretrain.config import EarlierCut, Recipe
from pretrain.errors import DataError, UsageError
from pretrain.metrics import Terminal
from pretrain.optim import NoiseScale, Validations
from pretrain.run_folder import RunFolder

MAX_OTHERS = 5  # checkpoints that a message names


def earlier_cut(run: Path, choice: str, job: str | None = None) -> EarlierCut | None:
    """How batches were cut in the checkpoint that `--resume` means in this run folder; None where there is none.

    A damaged one says nothing here: the older ones of its course are asked, as the run may fall back to them. Where
    nothing has been saved, an earlier start of the same batch job says it, whose nodes may have been others.
    """
    folder = RunFolder(run)
    checkpoints = folder.checkpoints
    meant: list[Path] = []
    with suppress(DataError):
        newest = checkpoint.find_checkpoint(checkpoints) if choice == "auto" else Path(choice)
        meant += [] if newest is None else [newest]
    if choice == "auto":
        meant += checkpoint.saved_checkpoints(checkpoints)
    for path in [] if choice == "never" else meant:
        with suppress(DataError):
            state = CheckpointManifest.read(path).state
            return EarlierCut.of(state.run_config, state.written_by)
    started = folder.read_config() if job is not None and choice == "auto" else {}
    return EarlierCut.of(started, started.get("run", {})) if started.get("job", "") == job else None


@dataclass(frozen=True)
class Resumption:
    """A run that is about to begin, and where its checkpoints lie."""

    recipe: Recipe
    choice: str  # --resume: auto, never, or a checkpoint's path
    run: Path
    checkpoints: Path
    initial: RunState
    total_steps: int | None
    precision: str
    repeats_bits: bool  # whether the device computes the same in every bit when asked again
    backend: Backend
    noise: NoiseScale
    place: Placement
    terminal: Terminal

    def begin(self) -> RunState:
        """Fills the backend; the state to start at. Collective.

        Raises UsageError or DataError, on every rank, where the run cannot go on.
        """
        chosen = self._chosen()
        if chosen is None:
            self._begin_phase()
            return self.initial
        path, manifest = chosen
        place = self.place
        saved = self._with_the_best_of_this_folder(manifest.state)
        checkpoint.check_same_course(path, saved, self.initial, self.total_steps)
        checkpoint.load_checkpoint(
            path, self.backend.optimizer, place.rank, place.world_size, verified=manifest
        )
        self.backend.refresh_weights()
        self.backend.loss_scaler.restore(saved.loss_scale)
        self.noise.restore(saved.noise)
        # Only now: a start that was refused has changed nothing.
        left = comm.on_first_rank(lambda: self._made_the_latest(path, saved))
        for line in [*self._banner(path, manifest, saved), *_of_left(left)]:
            self.terminal.say(line)
        return saved

    def _with_the_best_of_this_folder(self, saved: RunState) -> RunState:
        """Where the best checkpoint is not here, because the run goes on in another folder, its own is looked for among
        those that follow."""
        known = saved.validations
        if known is None or known.best_step is None:
            return saved
        best = self.checkpoints / checkpoint.step_name(known.best_step)
        if comm.broadcast_object(best.is_dir()):
            return saved
        return saved.model_copy(update={"validations": known.without_the_best()})

    def _made_the_latest(self, path: Path, saved: RunState) -> list[Path]:
        """`latest` and `best` name what this run goes on from and knows as the best; those beyond are set aside, and
        returned. Else a run that is killed before its first save would come back to the steps that it has left."""
        own = self.checkpoints
        if path.parent.resolve() != own.resolve():
            return []
        if path in checkpoint.saved_checkpoints(own):
            checkpoint.point_latest(own, path.name)
        if saved.validations is not None and saved.validations.best_step is not None:
            checkpoint.point_best(own, saved.validations.best_step)
        return checkpoint.set_aside_beyond(own, saved.step)

    def _chosen(self) -> tuple[Path, CheckpointManifest] | None:
        """What `--resume` means for this folder, verified."""
        if self.choice == "auto":
            return self._latest_whole()
        own, choice = self.checkpoints, Path(self.choice)
        is_own = choice.resolve() in [path.resolve() for path in checkpoint.saved_checkpoints(own)]
        if self.choice == "never" or not comm.broadcast_object(is_own):
            newest = comm.on_first_rank(lambda: next(iter(checkpoint.saved_checkpoints(own)), None))
            if newest is not None:
                raise UsageError(
                    f"--output {self.run} already holds a run ({newest.name}): choose another folder, or "
                    f"leave out --resume {self.choice} to continue it."
                )
            if self.choice == "never":
                return None
            comm.on_first_rank(lambda: checkpoint.expect_checkpoint(choice, "--resume"))
        else:
            choice = own / choice.resolve().name
        return choice, self._verified(choice)

    def _latest_whole(self) -> tuple[Path, CheckpointManifest] | None:
        """The latest checkpoint; if it is damaged and the recipe says to fall back, the newest older whole one."""
        try:
            latest = comm.on_first_rank(lambda: checkpoint.find_checkpoint(self.checkpoints))
            if latest is None:
                return None
            return latest, self._verified(latest)
        except DataError as error:
            problem = str(error)
        newest = comm.on_first_rank(self._latest_step)
        others = [
            path
            for path in comm.on_first_rank(lambda: checkpoint.saved_checkpoints(self.checkpoints))
            if newest is None or checkpoint.step_of(path) < newest
        ]
        if not self.recipe.checkpoint.fall_back:
            raise DataError(f"{problem} {self._what_else(others)}")
        for path in others:
            self.terminal.say(f"{problem} Falling back to {path}.")
            try:
                manifest = self._verified(path)
            except DataError as error:
                problem = str(error)
                continue
            return path, manifest
        raise DataError(
            f"{problem} No older checkpoint in {self.checkpoints} is whole: start anew with another --output."
        )

    def _latest_step(self) -> int | None:
        """Of the checkpoint that `latest` names; those beyond it are of a course that was left."""
        try:
            latest = checkpoint.find_checkpoint(self.checkpoints)
        except DataError:
            return None
        return None if latest is None else checkpoint.step_of(latest)

    def _what_else(self, others: list[Path]) -> str:
        if not others:
            return f"There is no other checkpoint before it in {self.checkpoints}."
        names = ", ".join(path.name for path in others[:MAX_OTHERS])
        more = f" and {len(others) - MAX_OTHERS} more" if len(others) > MAX_OTHERS else ""
        return (
            f"There are {names}{more} besides: go on from one by --resume PATH, or let checkpoint.fall_back=true "
            "choose the newest whole one."
        )

    def _verified(self, path: Path) -> CheckpointManifest:
        place = self.place
        return checkpoint.read_verified(path, self.recipe.checkpoint.verify, place.rank, place.world_size)

    def _banner(self, path: Path, manifest: CheckpointManifest, saved: RunState) -> list[str]:
        """What was restored, whether the run goes on bit for bit, and what stands against it. `saved`: what of the
        state is taken over."""
        changes = checkpoint.recipe_changes(saved.run_config["recipe"], self.initial.run_config["recipe"])
        if saved.written_by.get("precision") == self.precision == "fp16":
            before, after = (each.run_config["ds_config"]["fp16"] for each in (saved, self.initial))
            changes += checkpoint.differences(before, after, "fp16.")
        rounding = checkpoint.differences(saved.written_by, self.initial.written_by)
        how = "bit for bit"
        if not checkpoint.is_same_course(changes):
            how = "with another recipe or loss scale"
        if not self.repeats_bits:
            how = "within rounding: on a GPU train.deterministic=true is what repeats every bit"
        if rounding:
            how = "within rounding: the machine, the cut or the versions differ"
        return [
            f"Continuing {path} after step {saved.step}, {how}.",
            f"  restored: {_restored(manifest, saved)}",
            f"  {self._checked(manifest)}",
            *(f"  rounds otherwise by {difference}" for difference in rounding),
            *(f"  changed since: {change}" for change in changes),
        ]

    def _checked(self, manifest: CheckpointManifest) -> str:
        num_bytes = sum(file.bytes for file in manifest.files)
        what = f"{len(manifest.files)} file(s), {num_bytes / 1e6:,.1f} MB"
        if self.recipe.checkpoint.verify:
            return f"verified: {what}, every element accounted for, every checksum right"
        return f"not verified (checkpoint.verify is false): {what}; every element is accounted for"

    def _begin_phase(self) -> None:
        """Weights, and by choice moments, of the earlier run that the recipe names, if any."""
        phase, place = self.recipe.phase, self.place
        if phase.checkpoint is None:
            return
        path = Path(phase.checkpoint)
        if (path / "checkpoints").is_dir():
            path = comm.on_first_rank(lambda: checkpoint.find_checkpoint(path / "checkpoints")) or path
        comm.on_first_rank(lambda: checkpoint.expect_checkpoint(path, "phase.checkpoint"))
        manifest = self._verified(path)
        saved = checkpoint.begin_phase(
            path, self.backend.optimizer, phase.moments, place.rank, place.world_size, verified=manifest
        ).state
        self.backend.refresh_weights()
        self.terminal.say(
            f"Beginning with the weights of {path}, step {saved.step}; moments {phase.moments}."
        )
        if saved.store_fingerprint != self.initial.store_fingerprint:
            self.terminal.say("  it was trained on another store: both must have the same tokenizer")


def _of_left(left: list[Path]) -> list[str]:
    """What is said of checkpoints that were set aside, if there are any."""
    if not left:
        return []
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return [
        f"  set aside: {left[0]}{more}, saved after this step by a course that is left; delete it at will"
    ]


def _restored(manifest: CheckpointManifest, saved: RunState) -> str:
    """Every part of the state, in a line."""
    kinds = [kind for kind in manifest.kinds if kind != "master"] + manifest.vectors
    parts = [
        f"master weights of {len(manifest.parameters)} parameters",
        f"moments {', '.join(kinds)} after {saved.applied_steps} updates" if kinds else "no moments",
        f"loss scale {saved.loss_scale.scale:g}" if saved.loss_scale is not None else "",
        f"{len(saved.recent_norms)} norms of earlier updates" if saved.recent_norms else "",
        _best_so_far(saved.validations),
        f"{saved.tokens:,} tokens and {saved.seconds:,.0f} s of training counted",
        f"the row at cursor {saved.cursor} is next",
        f"every draw by seed {saved.seed}",
    ]
    return "; ".join(part for part in parts if part)


def _best_so_far(validations: Validations | None) -> str:
    if validations is None or validations.last_step is None:
        return ""
    if validations.best_loss is None:
        return "the count of validations, but not the best checkpoint, which is not in this folder"
    return f"best validation {validations.best_loss:.4f} at step {validations.best_step}"
