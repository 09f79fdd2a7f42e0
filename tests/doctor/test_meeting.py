"""How ranks meet, and what is said where they cannot: really taken ports, real names, ranks that give no answer."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch.distributed as dist

from pretrain.doctor.exam import Exam, examine
from pretrain.doctor.meeting import Meeting, Unheard, open_meeting
from pretrain.faults.world import free_port
from pretrain.placement import Placement
from tests.command.runs import STORE
from tests.doctor.heres import make_here
from tests.worlds import ROOT, environment, run_ranks


def examined(
    monkeypatch: pytest.MonkeyPatch, folder: Path, rank: int, address: str, port: int, seconds: float
) -> Exam:
    """One of two ranks, with no check but those that need the other."""
    variables = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": address, "MASTER_PORT": str(port)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    place = Placement(rank, 0, 2, 1)
    return examine(make_here(folder, place=place, variables=variables, seconds=seconds), checks=())


def only_problem(exam: Exam) -> str:
    """What has failed of the network, with its remedy."""
    (line,) = (each for each in exam.lines if each.finding.verdict == "failed")
    assert (line.section, line.check, exam.exit_code) == ("network", "meeting", 1)
    return f"{line.finding.found} / {line.finding.remedy}"


def test_a_port_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        exam = examined(monkeypatch, tmp_path, 0, "127.0.0.1", port, 2.0)
    assert f"Port {port} of" in only_problem(exam) and "is taken" in only_problem(exam)
    assert only_problem(exam).endswith("set MASTER_PORT (torchrun, deepspeed: --master_port) to another. / ")
    assert exam.speaks and exam.was_heard


def test_a_name_that_does_not_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exam = examined(monkeypatch, tmp_path, 1, "no-such-host.invalid", 29500, 2.0)
    assert "MASTER_ADDR is 'no-such-host.invalid'" in only_problem(exam)
    assert "cannot resolve it" in only_problem(exam) and exam.speaks and not exam.was_heard


def test_a_port_that_nobody_listens_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    exam = examined(monkeypatch, tmp_path, 1, "127.0.0.1", port, 0.1)
    assert f"cannot reach 127.0.0.1:{port}" in only_problem(exam)
    assert "Connection refused" in only_problem(exam) and not exam.was_heard


def test_a_listener_that_gives_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes the connection for it; torch's store would wait for ever."""
    begin = time.monotonic()
    with socket.create_server(("", 0)) as other:
        exam = examined(monkeypatch, tmp_path, 1, "127.0.0.1", other.getsockname()[1], 0.3)
        assert time.monotonic() - begin < 10
    assert "gave no answer; expected rank 0" in only_problem(exam)


def test_a_listener_that_hangs_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Another program's port: torch's store writes a page of C++ frames about each try, past Python."""
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    other.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        exam = examined(monkeypatch, tmp_path, 1, "127.0.0.1", port, 0.3)
        other.shutdown(socket.SHUT_RDWR)
    found = only_problem(exam)
    assert found.startswith(f"whoever listens at 127.0.0.1:{port} does not answer as rank 0's store would: ")
    assert "see that rank 0 runs" in found and "frame #" not in found
    print("heard again", file=sys.stderr)
    err = capfd.readouterr().err  # a store that another test left behind may still write there
    assert err.endswith("heard again\n") and f":{port}" not in err


def test_a_rank_that_never_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exam = examined(monkeypatch, tmp_path, 0, "127.0.0.1", free_port(), 0.1)
    assert "rank 1 (coming) gave no answer" in only_problem(exam)
    (exchange,) = (line.finding for line in exam.lines if line.section == "exchange")
    assert exchange.verdict == "warning" and "not all ranks have come" in exchange.found


def _late_and_twice() -> list[object]:
    rank, store = dist.get_rank(), dist.distributed_c10d._get_default_store()
    place = Placement(rank, rank, 3, 3)
    meeting = Meeting(place, 0.4, dist.PrefixStore("late", store))
    first = meeting.gather("first", rank * 10, 30.0)
    if rank == 2:
        time.sleep(2.0)
    try:
        second = meeting.gather("second", rank)
    except Unheard as error:
        return [first, str(error)]
    other = Meeting(place, 30.0, dist.PrefixStore("twice", store))
    twice = Meeting(place, 30.0, dist.PrefixStore("twice", store))
    other.come_alone()
    with pytest.raises(Unheard, match=f"two processes say that they are rank {rank}"):
        twice.come_alone()
    return [first, second, sorted(meeting.present), meeting.absent, meeting.is_complete]


def test_who_is_late_is_absent_from_then_on_and_hears_of_it() -> None:
    found = run_ranks(_late_and_twice, 3)
    everyone = {0: 0, 1: 10, 2: 20}
    assert found[0] == found[1] == [everyone, {0: 0, 1: 1}, [0, 1], {2: "second"}, False]
    assert found[2][0] == everyone and "the others went on without this one" in found[2][1]


def _reports() -> list[object]:
    """Rank 1 gets on slowly, but on; rank 2 has ended without a word."""
    rank, store = dist.get_rank(), dist.distributed_c10d._get_default_store()
    meeting = Meeting(Placement(rank, rank, 3, 3), 30.0, dist.PrefixStore("reports", store))
    meeting.gather("coming", None)
    if rank == 1:
        for number in range(6):
            time.sleep(0.3)
            meeting.put_own("progress", number)
        meeting.put_own("findings", ["slow"])
    found = meeting.others("findings", "progress", 1.2) if rank == 0 else {}
    return [found, meeting.absent]


def test_rank_0_waits_for_who_gets_on_and_for_nobody_else() -> None:
    assert run_ranks(_reports, 3)[0] == [{1: ["slow"]}, {2: "findings"}]


def test_a_place_that_is_not_known_meets_nobody(tmp_path: Path) -> None:
    with pytest.raises(Unheard):
        open_meeting(make_here(tmp_path, place=None))
    alone = open_meeting(make_here(tmp_path))
    assert alone.gather("x", 5) == {0: 5} and alone.is_complete


@contextmanager
def two_by_hand(output: Path, **second: str) -> Iterator[list[subprocess.Popen[str]]]:
    """As a user starts ranks by hand; `second`: what rank 1 has in its environment besides."""
    world = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    typed = [f"--data={STORE}", "model.preset=bert-tiny", f"--output={output}", "--seconds=3"]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "pretrain", "doctor", *typed],
            env=environment(
                world | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"} | own
            ),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank, own in enumerate(({}, second))
    ]
    try:
        yield ranks
    finally:
        for each in ranks:
            each.kill()
            each.wait()


@pytest.mark.slow
@pytest.mark.in_full("a rank that never comes is tried without a process")
def test_a_stopped_process_is_named_in_time(tmp_path: Path) -> None:
    """Rank 1 is stopped before it comes."""
    with two_by_hand(tmp_path / "run") as ranks:
        os.kill(ranks[1].pid, signal.SIGSTOP)
        out, _ = ranks[0].communicate(timeout=100)
    assert ranks[0].returncode == 1
    assert (
        "failed   meeting: rank 0 on" in out
        and "rank 1 (coming) gave no answer in 3 s (9 s for coming)" in out
    )
    assert "ok       tokenizer" in out and out.splitlines()[-1].startswith("1 failed, ")


@pytest.mark.slow
def test_a_rank_that_cannot_exchange_is_named_with_the_reason(tmp_path: Path) -> None:
    """It is on rank 1 that gloo finds no such interface; rank 0 waits for it inside of torch, and hears of it."""
    with two_by_hand(tmp_path / "run", GLOO_SOCKET_IFNAME="nosuch7") as ranks:
        (out, _), (other, _) = (each.communicate(timeout=100) for each in ranks)
    assert (ranks[0].returncode, ranks[1].returncode, other) == (1, 0, "")
    failed = [line for line in out.splitlines() if line.startswith("  failed")]
    assert len(failed) == 3, out
    assert (
        failed[0].startswith("  failed   interfaces: rank 1 on") and "has no interface nosuch7" in failed[0]
    )
    assert "all-reduce: rank 0 on" in failed[1] and "had not ended after 3 s" in failed[1]
    assert "all-reduce: rank 1 on" in failed[2] and "nosuch7" in failed[2]
    assert "ok       meeting: all 2 rank(s) have come and answered" in out
