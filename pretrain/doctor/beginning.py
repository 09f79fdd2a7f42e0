"""What the run would begin with, as `pretrain/resume.py` finds it: a checkpoint to go on from, the weights of an
earlier phase, or neither.

1. `--resume` and `latest`, or `phase.checkpoint`, say which checkpoint;
2. its manifest accounts for every element, and its files are there in their sizes with the tensors they should have;
3. it is of the same data, seed and model as the run. No weight is read, and no checksum made.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pretrain import build, checkpoint
from pretrain.checkpoint import CheckpointManifest
from pretrain.checkpoint.manifest import MASTER
from pretrain.doctor.finding import Finding, failed, ok, warning
from pretrain.doctor.here import Here
from pretrain.errors import DataError, UsageError
from pretrain.model import PretrainingModel
from pretrain.pace import run_length
from pretrain.plan.tables import gib
from pretrain.run_folder import RunFolder


@dataclass(frozen=True)
class _Beginning:
    """`is_phase`: its weights begin another course. `fell_from`: what is wrong with a newer one, in a sentence."""

    path: Path
    manifest: CheckpointManifest
    is_phase: bool = False
    fell_from: str = ""

    @property
    def described(self) -> str:
        size, step = gib(sum(file.bytes for file in self.manifest.files)), self.manifest.state.step
        how = "begins with the weights of" if self.is_phase else "goes on from"
        return (
            f"the run {how} {self.path}, step {step}: {len(self.manifest.files)} file(s), {size}, every element "
            "accounted for (`python -m pretrain verify` reads them)"
        )


def check_checkpoint(here: Here) -> Iterator[Finding]:
    """Where the run begins."""
    try:
        found = _continued(here) or _of_phase(here)
    except (DataError, UsageError) as error:
        yield _refused(error)
        return
    if found is None:
        yield ok("there is no checkpoint to go on from, and the recipe names none: the run begins at step 0")
        return
    if here.has_store:
        first = here.corpus.first  # what is wrong with stores and model is said elsewhere
        model = build.build_encoder(here.asked.config.recipe, first, on_meta=True)
        try:
            _check_fits(here, found, model)
        except (DataError, UsageError) as error:
            yield _refused(error)
            return
    if found.fell_from:
        yield warning(f"{found.fell_from} By checkpoint.fall_back {found.described}", "see what damaged it")
    else:
        yield ok(found.described)


def _refused(error: DataError | UsageError) -> Finding:
    """As the run would."""
    return failed(str(error), is_damage=isinstance(error, DataError))


def _continued(here: Here) -> _Beginning | None:
    """What `--resume` means in this folder. Raises UsageError, DataError."""
    own, choice = RunFolder(here.output).checkpoints, here.resume
    if choice == "auto":
        return _latest_whole(own, here.asked.config.recipe.checkpoint.fall_back)
    saved = checkpoint.saved_checkpoints(own)
    if choice == "never" or Path(choice).resolve() not in [path.resolve() for path in saved]:
        if saved:
            raise UsageError(
                f"--output {here.output} already holds a run ({saved[0].name}): choose another folder, or leave out "
                f"--resume {choice} to continue it."
            )
        if choice == "never":
            return None
        checkpoint.expect_checkpoint(Path(choice), "--resume")
    return _Beginning(Path(choice), _whole(Path(choice)))


def _latest_whole(own: Path, falls_back: bool) -> _Beginning | None:
    """Raises DataError where there are checkpoints, and none of them would be taken."""
    latest = None
    try:
        latest = checkpoint.find_checkpoint(own)
        return None if latest is None else _Beginning(latest, _whole(latest))
    except DataError as error:
        if not falls_back:
            raise
        problem = str(error)
    for path in checkpoint.saved_checkpoints(own):
        if latest is None or checkpoint.step_of(path) < checkpoint.step_of(latest):
            try:
                return _Beginning(path, _whole(path), fell_from=problem)
            except DataError:
                continue
    raise DataError(f"{problem} No older checkpoint in {own} is whole: start anew with another --output.")


def _of_phase(here: Here) -> _Beginning | None:
    """The earlier run's weights that the recipe names. Raises UsageError, DataError."""
    named = here.asked.config.recipe.phase.checkpoint
    if named is None:
        return None
    path = Path(named)
    if (path / "checkpoints").is_dir():
        path = checkpoint.find_checkpoint(path / "checkpoints") or path
    checkpoint.expect_checkpoint(path, "phase.checkpoint")
    return _Beginning(path, _whole(path), is_phase=True)


def _whole(path: Path) -> CheckpointManifest:
    """Raises DataError where it is not, by all but checksums."""
    manifest = CheckpointManifest.read(path)
    problems = checkpoint.verify_checkpoint(path, manifest, checksums=False)
    if problems:
        raise DataError(f"{problems[0]} The checkpoint is damaged: go on from another one by --resume PATH.")
    return manifest


def _check_fits(here: Here, found: _Beginning, model: PretrainingModel) -> None:
    """Raises UsageError or DataError where the run would refuse it, as far as that is known without an engine."""
    recipe, corpus, manifest = here.asked.config.recipe, here.corpus, found.manifest
    if not found.is_phase:
        now = {
            "seed": recipe.seed,
            "store_fingerprint": corpus.fingerprint,
            "tokenizer_sha256": corpus.first.manifest.tokenizer_sha256,
            "blend": build.saved_stores(corpus) if corpus.is_blend else [],
            "sampling": asdict(build.sampling_options(recipe)),
            "model_class": type(model.encoder).__name__,
        }
        state = manifest.state
        checkpoint.check_same_course(
            found.path, state, state.model_copy(update=now), run_length(recipe).steps
        )
    if not found.is_phase or recipe.phase.moments != "reset":
        kinds = (MASTER, *build.optimizer_rule(recipe).moment_kinds)
        missing = [kind for kind in kinds if kind not in manifest.kinds]
        if missing:
            raise DataError(
                f"{found.path} holds no {missing[0]}: choose the optimizer that it was saved with (optimizer.name)."
            )
    ours = {name: list(each.shape) for name, each in model.encoder.named_parameters()}
    for name in sorted(ours.keys() | manifest.parameters.keys()):
        if ours.get(name) != manifest.parameters.get(name):
            raise UsageError(
                f"{found.path} is of another model: parameter {name} has shape {manifest.parameters.get(name)} there "
                f"and {ours.get(name)} in this run."
            )
