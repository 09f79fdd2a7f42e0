"""A batch that grows by stages: one course under every engine and stage, and across a stop in any of them."""

from pathlib import Path

import pytest

from pretrain.backends.carried import BackendName
from tests.numerics.outcome import relative
from tests.numerics.runs import ENGINES, Start, newest, prepare, records, start
from tests.worlds import run_ranks

pytestmark = pytest.mark.slow
ROWS = [4, 4, 4, 8, 8, 16, 16, 16]
STAGES = (
    "train.batch_stages=[[3, 4], [2, 8]]",
    "train.global_batch=16",
    f"train.steps={len(ROWS)}",
    "optimizer.lr_scaling=sqrt",
    "schedule.name=constant",
    "schedule.warmup=2",
    "model.dropout=0.0",
    "eval.every=0",
    "checkpoint.every=0",
)
STOPS = (2, 3, 4)  # in a stage, at its end, after the first step of the next
SPIKES_STOP = 5
TOLERANCE = 1e-6
SAMPLE = (("fsdp", 0), ("fsdp", 1), ("deepspeed", 0), ("deepspeed", 2))
# DeepSpeed adds up offloaded gradients on the CPU, where it counts the passes of a step.
OFFLOADED: tuple[tuple[BackendName, str], ...] = (
    ("fsdp", "zero2_offload"),
    ("deepspeed", "zero2_offload"),
    ("deepspeed", "zero3_offload"),
)
# So near the median that steps of the stages are skipped; by tokens, which a skipped step gives too.
SPIKES = ("train.spike_factor=1.02", "train.spike_window=2", "train.tokens=3000", "schedule.name=linear")


def runs(in_full: bool) -> list[tuple[BackendName, str]]:
    """Engines and their configs."""
    found = [(backend, f"zero{stage}") for backend, stage in ENGINES if in_full or (backend, stage) in SAMPLE]
    return [*found, *OFFLOADED]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", ["-".join(run) for run in runs(metafunc.config.getoption("--in-full"))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, in_full: bool) -> Path:
    path = tmp_path_factory.mktemp("stages")
    prepare(path)
    starts = [
        Start(path / f"{backend}-{engine}", backend, engine, STAGES) for backend, engine in runs(in_full)
    ]
    # Stage 3 replaces torch.nn.functional.linear for good, by one that rounds otherwise.
    starts.sort(key=lambda each: (each.backend == "deepspeed", each.engine))
    halves: list[Start] = []
    for stop in STOPS:
        halves += stopped_and_not(path / f"stopped-{stop}", STAGES, stop)
    halves.append(Start(path / "spikes", "deepspeed", "zero2", STAGES + SPIKES))
    halves += stopped_and_not(path / "spikes-stopped", STAGES + SPIKES, SPIKES_STOP)
    first_of_stage_3 = next(index for index, each in enumerate(starts) if is_deepspeed_3(each))
    starts[first_of_stage_3:first_of_stage_3] = halves
    found = run_ranks(start, 2, path, starts, timeout=300.0)
    stops = [any("stop_at_step" in each for each in run.overrides) for run in starts]
    assert [[each.exit_code for each in rank] for rank in found] == [[75 * stop for stop in stops]] * 2, found
    return path


def stopped_and_not(output: Path, overrides: tuple[str, ...], stop: int) -> list[Start]:
    """The same run in two starts."""
    half = Start(output, "deepspeed", "zero2", (*overrides, f"train.stop_at_step={stop}"))
    return [half, Start(output, "deepspeed", "zero2", overrides)]


def is_deepspeed_3(each: Start) -> bool:
    return each.backend == "deepspeed" and each.engine.startswith("zero3")


def test_it_is_one_course(folder: Path, name: str) -> None:
    whole, cut = records(folder / "fsdp-zero0"), records(folder / name)
    assert [record["global_batch"] for record in cut] == ROWS
    rates = [0.01 * (rows / 16) ** 0.5 * min(1, (step + 1) / 2) for step, rows in enumerate(ROWS)]
    assert [record["lr"] for record in cut] == pytest.approx(rates)
    assert [record["cursor"] for record in cut] == [record["cursor"] for record in whole]
    for key in ("loss", "grad_norm"):
        found = relative([record[key] for record in whole], [record[key] for record in cut])
        print(f"{key}: {found:.1e}")
        assert found < TOLERANCE, key


def assert_same(one: Path, other: Path) -> None:
    assert records(one) == records(other)
    (_, ours), (_, theirs) = newest(one), newest(other)
    assert [file.sha256 for file in ours.files] == [file.sha256 for file in theirs.files]


@pytest.mark.parametrize("stop", STOPS)
def test_stopped_in_any_stage_it_goes_on_bit_for_bit(folder: Path, stop: int) -> None:
    assert_same(folder / f"stopped-{stop}", folder / "deepspeed-zero2")


def test_a_stage_ends_by_steps_of_data_skipped_ones_too(folder: Path) -> None:
    found = records(folder / "spikes")
    skipped = [record["skipped"] for record in found]
    # Some in a stage before the stop, so that steps and updates differ where the batch grows.
    assert any(skipped[:SPIKES_STOP]) and not all(skipped[SPIKES_STOP:])
    assert [record["global_batch"] for record in found[: len(ROWS)]] == ROWS
    tokens = [record["tokens"] for record in found]
    assert sum(tokens[:-1]) < 3000 <= sum(tokens) or len(found) == len(ROWS)
    assert_same(folder / "spikes-stopped", folder / "spikes")
