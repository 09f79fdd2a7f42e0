"""What the launcher says: places, the meeting point, and whether the run's batch can be cut for so many ranks."""

from collections.abc import Iterator, Mapping

from pretrain import comm
from pretrain.backends.carried import check_carried
from pretrain.config import batch_cut
from pretrain.doctor.finding import Finding, failed, ok, warning
from pretrain.doctor.here import Here
from pretrain.errors import PretrainError, UsageError
from pretrain.noise import check_measurable
from pretrain.placement import Placement, meeting_point, placed

_LAUNCHERS = (
    ("TORCHELASTIC_RUN_ID", "torchrun"),
    ("CROSS_SIZE", "deepspeed"),
    ("RANK", "RANK and WORLD_SIZE"),
    ("SLURM_STEP_ID", "srun's variables"),
)


def place_of(variables: Mapping[str, str]) -> Placement | UsageError:
    """Where this process stands, or why that cannot be said."""
    try:
        return placed(variables)
    except UsageError as error:
        return error


def check_variables(here: Here) -> Iterator[Finding]:
    """Who we are, and where we are to meet, as a run would understand it."""
    place = place_of(here.variables)
    if isinstance(place, UsageError):
        yield failed(str(place))
        return
    if place.world_size == 1:
        yield ok("one process, which needs no launcher")
        return
    by = next((word for name, word in _LAUNCHERS if name in here.variables), "its variables")
    try:
        where = meeting_point(here.variables, place.world_size)
    except UsageError as error:
        yield failed(str(error))
        return
    yield ok(
        f"{place.world_size} ranks, {place.local_world_size} on this machine, by {by}; meeting at "
        f"{where.address}:{where.port}"
    )


def check_batch(here: Here) -> Iterator[Finding]:
    """Batch sizes and groups of ranks, as a run checks them."""
    config, ranks = here.asked.config, here.ranks
    try:
        micro_batch, accumulation = batch_cut(config, ranks)
        if config.recipe.log.noise_every:
            check_measurable(min(config.recipe.train.batch_plan.sizes), micro_batch)
        check_carried(config.engine, here.asked.backend, ranks)
    except PretrainError as error:
        yield failed(str(error))
        return
    yield ok(
        f"{config.recipe.train.global_batch} rows a step are {micro_batch} rows x {ranks} rank(s) x {accumulation}; "
        f"{here.asked.backend}, stage {config.engine.stage}"
    )


def check_threads(here: Here) -> Iterator[Finding]:
    """The cores that a rank gets, where it computes on them."""
    if here.device_type != "cpu":
        return
    cores, said = comm.num_cores(), here.variables.get("OMP_NUM_THREADS")
    ranks = here.ranks_per_node
    if ranks > cores:
        yield warning(
            f"{ranks} ranks share {cores} core(s) of this machine",
            "start as many ranks as there are cores, or ask for more (sbatch --cpus-per-task)",
        )
        return
    fair = max(1, cores // ranks)
    if said is not None and said.isdigit() and int(said) < fair:
        yield warning(
            f"{ranks} rank(s) with {said} thread(s) each leave most of {cores} cores idle: OMP_NUM_THREADS says so "
            "(torchrun sets it to 1 unless it is set)",
            f"set OMP_NUM_THREADS={fair}",
        )
        return
    yield ok(f"{cores} core(s) for {ranks} rank(s), {said or fair} thread(s) each")
