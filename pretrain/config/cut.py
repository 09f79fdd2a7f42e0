"""How the rows of a step are shared out: into micro-batches, of which each rank takes so many one after another."""

from math import gcd

from pretrain.config.run_config import EarlierCut, RunConfig
from pretrain.errors import UsageError

MAX_AUTO_TOKENS = 8192  # tokens of a micro-batch that `auto` chooses at most


def batch_cut(config: RunConfig, world_size: int) -> tuple[int, int]:
    """(micro_batch, accumulation): rows per rank and forward pass, and passes per step of train.global_batch.

    The stages before it have fewer passes of the same micro-batch.

    Raises:
        UsageError: a global batch is not micro_batch * ranks * accumulation.
    """
    if config.kept is not None:
        return _cut_anew(config, config.kept, world_size)
    train, said = config.recipe.train, config.engine.gradient_accumulation_steps
    sizes = train.batch_plan.sizes
    for rows in sizes:
        if rows % world_size:
            raise UsageError(_rows_without_a_rank(rows, rows == train.global_batch, world_size))
    rows_per_rank = train.global_batch // world_size
    common = gcd(*sizes) // world_size  # of the ranks' shares; their multiple, because each of them is one
    if train.micro_batch != "auto":
        micro_batch = train.micro_batch
    elif said != "auto":
        micro_batch = max(1, rows_per_rank // said)
    else:
        micro_batch = _largest_divisor(common, max(1, MAX_AUTO_TOKENS // config.recipe.data.seq_len))
    accumulation = rows_per_rank // micro_batch
    if said == "auto" and rows_per_rank % micro_batch:
        raise UsageError(
            f"train.global_batch is {train.global_batch} rows, no multiple of micro-batch {micro_batch} x {world_size} "
            f"rank(s) = {micro_batch * world_size}: change train.global_batch or train.micro_batch so that it is one."
        )
    if said != "auto" and micro_batch * said != rows_per_rank:
        ranks, rest = divmod(train.global_batch, micro_batch * said)
        raise UsageError(
            f"train.global_batch is {train.global_batch} rows, but micro-batch {micro_batch} x {world_size} ranks x "
            f"{said} accumulation steps is {micro_batch * world_size * said}: change train.global_batch, "
            "train.micro_batch or gradient_accumulation_steps so that the product is equal"
            f"{'' if rest else f', or start {ranks} rank(s)'}."
        )
    for rows in sizes:
        if rows % (micro_batch * world_size):
            raise UsageError(
                f"train.batch_stages has a stage of {rows} rows, which micro-batches of {micro_batch} rows on "
                f"{world_size} rank(s) do not divide: make it a multiple of {micro_batch * world_size}, or lower "
                "train.micro_batch."
            )
    return micro_batch, accumulation


def _rows_without_a_rank(rows: int, is_global_batch: bool, world_size: int) -> str:
    what = "train.global_batch" if is_global_batch else "a stage of train.batch_stages"
    if rows < world_size:
        return f"{what} is {rows} rows but there are {world_size} ranks: give every rank a row, or start fewer ranks."
    return (
        f"{what} of {rows} rows does not divide over {world_size} ranks: choose a multiple of {world_size}."
    )


def _cut_anew(config: RunConfig, earlier: EarlierCut, world_size: int) -> tuple[int, int]:
    """The same rows on another number of ranks: no micro-batch is larger than it was."""
    sizes = config.recipe.train.batch_plan.sizes
    common = gcd(*sizes)
    if common % world_size:
        ranks = [number for number in range(1, common + 1) if common % number == 0]
        near = [number for number in ranks if number < world_size][-1:]
        near += [number for number in ranks if number > world_size][:1]
        raise UsageError(
            f"The run goes on from {earlier.ranks} rank(s) with steps of {' and '.join(map(str, sizes))} rows "
            f"(train.global_batch), which do not divide over {world_size} ranks: start {' or '.join(map(str, near))}, "
            "or say another train.global_batch, which changes the course of the loss."
        )
    micro_batch = _largest_divisor(common // world_size, earlier.micro_batch)
    return micro_batch, config.recipe.train.global_batch // world_size // micro_batch


def _largest_divisor(number: int, limit: int) -> int:
    return max(divisor for divisor in range(1, min(limit, number) + 1) if number % divisor == 0)
