"""Hand-made files of ranks, and how they read as one log."""

import os
import resource
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pretrain.command import main
from pretrain.command.log import since_of
from pretrain.errors import DataError, UsageError
from pretrain.said.merge import Log, files_of, lines_of, marked


def write(folder: Path, rank: int, *lines: str, end: str = "\n") -> None:
    """Lines as "12:00:01.5 text", of one day; those without a time stand as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = []
    for line in lines:
        clock, _, text = line.partition(" ")
        seconds, _, rest = clock.partition(".")
        is_timed = seconds.count(":") == 2
        whole.append(f"2026-03-01T{seconds}.{rest:0<3}Z {text}" if is_timed else line)
    (folder / f"rank-{rank:05d}.log").write_text("\n".join(whole) + end, encoding="utf-8")


def log(folder: Path, since: datetime | None = None) -> list[str]:
    return list(Log().printed(lines_of(files_of(folder), since)))


def test_lines_are_in_the_order_of_time_with_their_ranks(tmp_path: Path) -> None:
    write(tmp_path, 0, "12:00:00 start", "12:00:02 step 1", "12:00:04 step 2")
    write(tmp_path, 1, "12:00:01 start", "12:00:03 only here")
    assert log(tmp_path) == [
        "--- 2026-03-01 (UTC) ---",
        "12:00:00 [ranks 0-1] start",
        "12:00:02 [rank 0] step 1",
        "12:00:03 [rank 1] only here",
        "12:00:04 [rank 0] step 2",
    ]
    assert log(tmp_path, datetime(2026, 3, 1, 12, 0, 3, tzinfo=UTC))[1:] == [
        "12:00:03 [rank 1] only here",
        "12:00:04 [rank 0] step 2",
    ]


def test_the_same_of_many_ranks_is_a_line_and_of_a_late_one_another(tmp_path: Path) -> None:
    for rank in range(512):
        write(tmp_path, rank, f"12:00:0{rank % 5} a warning")
    write(tmp_path, 700, "12:00:09 a warning")
    write(tmp_path, 701, "12:00:10 a warning")
    assert log(tmp_path)[1:] == ["12:00:00 [ranks 0-511] a warning", "12:00:09 [ranks 700-701] a warning"]


def test_what_is_said_again_is_counted(tmp_path: Path) -> None:
    again = [f"12:0{minute}:{second:02d} slow disk" for minute in range(2) for second in range(0, 60, 10)]
    write(tmp_path, 0, *again, "12:03:00 slow disk", "12:04:00 done")
    assert log(tmp_path)[1:] == [
        "12:00:00 [rank 0] slow disk",
        "         [rank 0] ... 11 times more until 12:01:50",
        "12:03:00 [rank 0] slow disk",
        "12:04:00 [rank 0] done",
    ]


def test_what_is_said_again_beside_other_lines_is_named(tmp_path: Path) -> None:
    pairs = [
        f"12:00:{second:02d} {text}"
        for second in range(0, 20, 2)
        for text in ("file.py:1: FutureWarning", "  warn()")
    ]
    write(tmp_path, 0, *pairs, "12:02:00 done")
    write(tmp_path, 1, *pairs)
    assert log(tmp_path)[1:] == [
        "12:00:00 [ranks 0-1] file.py:1: FutureWarning",
        "12:00:00 [ranks 0-1]   warn()",
        "         [ranks 0-1] ... 9 times more until 12:00:18: file.py:1: FutureWarning",
        "         [ranks 0-1] ... 9 times more until 12:00:18:   warn()",
        "12:02:00 [rank 0] done",
    ]


def test_a_time_within_a_line_does_not_tell_it_from_the_same(tmp_path: Path) -> None:
    write(tmp_path, 0, "12:00:00 [2026-03-01 12:00:00,123] [WARNING] no GPU")
    write(tmp_path, 1, "12:00:01 [2026-03-01 12:00:01,456] [WARNING] no GPU")
    assert log(tmp_path)[1:] == ["12:00:00 [ranks 0-1] [2026-03-01 12:00:00,123] [WARNING] no GPU"]


def test_kills_damage_and_clocks(tmp_path: Path) -> None:
    """Rank 0's clock was set back; rank 1 was killed in a line; rank 2's file has bytes that are no text."""
    write(tmp_path, 0, "12:00:10 before", "12:00:05 after", "12:00:11 at last")
    write(tmp_path, 1, "no time yet", "12:00:00 begun", "2026-03-01T12:0", "12:00:12 go", end="")
    write(tmp_path, 2, "12:00:13 x")
    with open(tmp_path / "rank-00002.log", "ab") as file:
        file.write(
            b"2026-03-01T12:00:14.000Z \xff\x1b[31mred\x1b[0m\x07\n2026-03-02T00:00:00.000Z next day\n"
        )
    assert log(tmp_path)[1:] == [
        "12:00:00 [rank 1] begun",
        "12:00:00 [rank 1] 2026-03-01T12:0",
        "12:00:10 [rank 0] before",
        "12:00:10 [rank 0] after",
        "12:00:11 [rank 0] at last",
        "12:00:12 [rank 1] go (cut short)",
        "12:00:13 [rank 2] x",
        "12:00:14 [rank 2] \ufffdred",
        "--- 2026-03-02 (UTC) ---",
        "00:00:00 [rank 2] next day",
    ]


def test_more_files_than_a_process_may_open_in_small_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in range(60):
        write(tmp_path, rank, *(f"12:00:{second:02d} {rank} {second}" for second in range(5)))
    monkeypatch.setattr("pretrain.said.merge._PIECE_BYTES", 40)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 10, limits[1]))
    try:
        found = log(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found[1:] == [
        f"12:00:{second:02d} [rank {rank}] {rank} {second}" for second in range(5) for rank in range(60)
    ]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.symlink("/etc/passwd", tmp_path / "rank-00000.log")
    with pytest.raises(DataError, match="symbolic link"):
        files_of(tmp_path)
    (tmp_path / "rank-00000.log").unlink()
    (tmp_path / "rank-x.log").write_text("other")
    assert files_of(tmp_path) == {}


@pytest.mark.parametrize(
    ("ranks", "mark"),
    [
        ([3], "[rank 3]"),
        (list(range(512)), "[ranks 0-511]"),
        ([0, 1, 2, 7], "[ranks 0-2, 7]"),
        (list(range(0, 40, 2)), "[20 ranks 0, 2, 4, 6, 8, 10, ...]"),
    ],
)
def test_marks(ranks: list[int], mark: str) -> None:
    assert marked(ranks) == mark


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["log", str(run)]) == 2
    assert "holds no rank's log" in capsys.readouterr().err
    write(run / "logs", 0, "12:00:00 one")
    write(run / "logs", 1, "12:00:01 two")
    assert main(["log", str(run), "--rank", "1"]) == 0
    assert capsys.readouterr().out == "--- 2026-03-01 (UTC) ---\n12:00:01 [rank 1] two\n"
    assert main(["log", str(run), "--since", "2026-03-01T12:00:01"]) == 0
    assert capsys.readouterr().out == "--- 2026-03-01 (UTC) ---\n12:00:01 [rank 1] two\n"
    assert main(["log", str(run), "--rank", "2"]) == 2
    assert "logs of 2 rank(s), up to 1" in capsys.readouterr().err
    assert main(["log", str(run), "--since", "noon"]) == 2


def test_since() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert since_of("90s", now) == now - timedelta(seconds=90)
    assert since_of("2d", now) == now - timedelta(days=2)
    assert since_of("2026-02-28", now) == datetime(2026, 2, 28, tzinfo=UTC)
    assert since_of("2026-03-01T13:00+02:00", now) == datetime(2026, 3, 1, 11, tzinfo=UTC)
    assert since_of("1h30m", now) == now - timedelta(minutes=90)
    assert since_of("1d2h3m4s", now) == now - timedelta(days=1, hours=2, minutes=3, seconds=4)
    for wrong in ("", "5", "999999999d", "30m1h", "1h30", "24:00", "9:60", "12:00:0"):
        with pytest.raises(UsageError):
            since_of(wrong, now)


def test_a_time_of_day_is_the_last_such_one() -> None:
    """As the log itself shows times; what is still to come was yesterday's."""
    now = datetime(2026, 3, 1, 12, 30, 15, 500_000, tzinfo=UTC)
    assert since_of("12:30:15", now) == datetime(2026, 3, 1, 12, 30, 15, tzinfo=UTC)
    assert since_of("12:30", now) == datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    assert since_of("12:30:16", now) == datetime(2026, 2, 28, 12, 30, 16, tzinfo=UTC)
    assert since_of("23:59", now) == datetime(2026, 2, 28, 23, 59, tzinfo=UTC)
