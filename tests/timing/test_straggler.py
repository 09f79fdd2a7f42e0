"""When a slow rank is said, and what the lines of ranks.jsonl are, by figures made by hand."""

import json
import math
import os
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretrain.metrics import MetricsWriter, RanksRecord, slowest
from pretrain.metrics.ranks import ranks_line
from pretrain.timing.busy import ThreadClock, own_by_probes
from pretrain.timing.memory import memory_of
from pretrain.timing.straggler import Stragglers

HOSTS = ["n01", "n01", "n02", "n02"]


def record(*own: float | None, step: int = 10, seconds: float = 1.0, waits: float = 0.25) -> RanksRecord:
    ranks = len(own)
    return RanksRecord(
        step, 10, seconds, own, [0.0] * (ranks - 1) + [waits], [1 << 30] * ranks, {"resident_bytes": 5}
    )


EVEN, SLOW, OTHER = record(0.4, 0.4, 0.5, 0.4), record(0.4, 0.4, 0.76, 0.38), record(0.4, 0.9, 0.4, 0.3)


def test_three_intervals_in_a_row_and_only_once() -> None:
    heard = Stragglers(HOSTS)
    said = [heard.hear(each) for each in (EVEN, SLOW, SLOW, EVEN, SLOW, SLOW, SLOW, SLOW, EVEN, SLOW)]
    sentence = (
        "rank 2 on n02 takes 1.9 times the median rank's own time (0.76 s a step), and the others wait for it"
    )
    assert said == [None] * 6 + [sentence] + [None] * 3


def test_it_is_said_again_when_it_is_another_rank_or_comes_back() -> None:
    heard = Stragglers(HOSTS)
    said = [heard.hear(each) for each in [SLOW] * 3 + [OTHER] * 3 + [EVEN] * 3 + [OTHER] * 3]
    assert [None if line is None else line[:6] for line in said] == [
        *(None, None, "rank 2", None, None, "rank 1"),
        *(None, None, None, None, None, "rank 1"),
    ]


def test_a_lead_that_nobody_waits_for_is_not_said() -> None:
    """Own seconds of a hundredth of a step: what the step waits for is something else."""
    heard = Stragglers(HOSTS)
    assert [heard.hear(record(0.01, 0.01, 0.03, 0.01)) for _ in range(4)] == [None] * 4


def test_the_summary_leaves_the_first_interval_out_where_there_are_others() -> None:
    """Compiling, caches and the first windows of data make it another kind of step."""
    heard = Stragglers(HOSTS)
    heard.hear(record(9.0, 0.2, 0.2, 0.2, seconds=10.0, waits=9.0))
    assert heard.summary() == (
        "Slowest: rank 0 on n01, 9 s of its own a step, 45.0 times the median rank's; data wait 90.0% of the time"
    )
    heard.hear(record(0.2, 0.2, 0.6, 0.2, waits=0.25))
    heard.hear(record(0.2, 0.2, 0.4, 0.2, waits=0.75))
    assert heard.summary() == (
        "Slowest: rank 2 on n02, 0.5 s of its own a step, 2.5 times the median rank's; data wait 50.0% of the time"
    )


def test_ranks_that_are_alike_have_no_slowest_one() -> None:
    """1.04 times the median would be written as 1.0."""
    heard = Stragglers(HOSTS)
    heard.hear(record(0.2, 0.2, 0.208, 0.2))
    assert heard.summary() == "Data wait 25.0% of the time"
    heard.hear(record(0.2, 0.2, 0.212, 0.2))
    assert (heard.summary() or "").startswith("Slowest: rank 2 on n02, 0.21 s of its own a step, 1.1 times")


def test_the_summary_is_of_all_intervals() -> None:
    heard = Stragglers(HOSTS)
    assert heard.summary() is None
    heard.hear(record(None, 0.2, 0.2, 0.2))  # a GPU's first probe is read an interval later
    heard.hear(record(0.2, 0.2, 0.2, 0.2))
    heard.hear(record(0.2, 0.2, 0.6, 0.2, seconds=3.0, waits=0.75))
    assert heard.summary() == (
        "Slowest: rank 2 on n02, 0.4 s of its own a step, 2.0 times the median rank's; data wait 25.0% of the time"
    )
    alone = Stragglers(["n01"])
    alone.hear(record(0.5))
    assert alone.summary() == "Data wait 25.0% of the time"
    unknown = Stragglers(HOSTS)
    unknown.hear(record(None, None, None, None))
    assert unknown.summary() == "Data wait 25.0% of the time"


def test_the_slowest_of_two_is_held_against_the_faster() -> None:
    assert slowest([0.25, 0.75]) == (1, 0.75, 3.0)
    assert slowest([0.25, None]) is None
    assert slowest([0.25]) is None
    assert slowest([0.0, 0.0]) is None


def test_lines_list_64_ranks_and_of_more_the_slowest() -> None:
    line = ranks_line(record(*[0.5] * 63, 1.0))
    assert (line["slowest_rank"], line["to_median"], line["data_wait"]) == (63, 2.0, 0.25)
    assert len(line["own_seconds"]) == len(line["peak_bytes"]) == 64 and "slowest" not in line
    many = ranks_line(record(*[rank / 100 for rank in range(100)]))
    assert many["own_seconds"] == {"min": 0.0, "median": pytest.approx(0.495), "max": 0.99}
    assert [each["rank"] for each in many["slowest"]] == [99, 98, 97, 96, 95, 94, 93, 92]
    assert many["slowest"][0] == {
        "rank": 99,
        "own_seconds": 0.99,
        "data_wait_seconds": 0.25,
        "peak_bytes": 1 << 30,
    }
    unknown = ranks_line(record(*[None] * 65))
    assert (unknown["own_seconds"], unknown["slowest_rank"]) == (None, None)
    assert unknown["slowest"][0]["rank"] == 64  # by its data wait
    assert len(json.dumps(many)) < 2000


def test_the_file_begins_with_the_hosts_and_a_restart_drops_what_is_made_again(tmp_path: Path) -> None:
    for finished, last in ((0, 30), (20, 40)):
        with MetricsWriter(
            tmp_path / "m",
            tmp_path / "e",
            tmp_path / "s",
            tmp_path / "board",
            finished,
            log_every=10,
            ranks=tmp_path / "ranks.jsonl",
        ) as writer:
            writer.hosts(HOSTS)
            for step in range(finished + 10, last + 1, 10):
                writer.ranks(record(0.2, 0.2, 0.3 + finished, 0.2, step=step))
        with open(tmp_path / "ranks.jsonl", "a") as file:
            file.write('{"step": 5')  # a kill
    first, *lines = [json.loads(line) for line in (tmp_path / "ranks.jsonl").read_text().splitlines()[:-1]]
    assert first == {"step": 0, "ranks": 4, "hosts": [["n01", 0, 1], ["n02", 2, 3]]}
    assert [line["step"] for line in lines] == [10, 20, 20, 30, 40]
    assert ["hosts" in line for line in lines] == [False, False, True, False, False]
    assert lines[-1]["own_seconds"][2] == 20.3
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    found = {tag: next(event.value for event in board.Scalars(tag)) for tag in board.Tags()["scalars"]}
    assert found == {
        "ranks/data_wait_max": 0.25,
        "ranks/slowest_rank": 2.0,
        "ranks/slowest_to_median": pytest.approx(1.5),
        "memory/resident_bytes": 5.0,
        "memory/peak_bytes_max": float(1 << 30),
    }


def test_own_time_by_probes_is_that_of_the_step_for_the_slowest() -> None:
    """The slowest probe takes twice the others': it computes for the whole second that nobody waits for data."""
    assert own_by_probes(1.5, [0.0, 0.5, 0.1], [1e-3, 1e-3, 2e-3]) == pytest.approx([0.5, 1.0, 1.1])
    assert own_by_probes(1.0, [0.0, 0.0], [1e-3, None]) == [None, None]
    assert own_by_probes(1.0, [0.0, 0.0], [0.0, 0.0]) == [None, None]


def test_the_threads_clock_counts_work_and_no_sleep() -> None:
    clock = ThreadClock()
    first, work = clock.now(), 0.05
    time.sleep(0.5)
    second, end = clock.now(), time.thread_time() + work
    while time.thread_time() < end:
        math.sqrt(2.0)
    third = clock.now()
    assert first is not None and second is not None and third is not None
    assert second - first < 0.25  # on a machine that is busy it may wait to run again
    assert third - second >= work


def test_another_threads_work_is_not_this_ones() -> None:
    clock = ThreadClock()
    before = clock.now()

    def work() -> None:
        end = time.thread_time() + 0.5
        while time.thread_time() < end:
            math.sqrt(2.0)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    after = clock.now()
    assert before is not None and after is not None and after - before < 0.25


def test_run_queue_waits_count_and_a_kernel_that_counts_none_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "schedstat"
    path.write_text("10 3000000000 4\n")
    clock = ThreadClock(path)
    run = time.thread_time()
    found = clock.now()
    assert found is not None and 0 <= found - run - 3.0 < 0.1
    path.write_text("0 0 0\n")
    assert ThreadClock(path).now() is None
    assert ThreadClock(tmp_path / "missing").now() is None


def test_memory_is_what_the_system_says() -> None:
    block = torch.ones(30_000_000, dtype=torch.uint8)
    memory = memory_of(torch.device("cpu"))
    resident = psutil.Process(os.getpid()).memory_info().rss
    assert memory.figures["resident_bytes"] == pytest.approx(resident, rel=0.05)
    assert memory.peak == memory.figures["peak_resident_bytes"] >= memory.figures["resident_bytes"]
    del block
    later = memory_of(torch.device("cpu"))
    assert later.peak == pytest.approx(memory.peak, rel=0.05)  # the kernel adds up its counters now and then
    assert later.figures["resident_bytes"] < memory.peak - 20_000_000
