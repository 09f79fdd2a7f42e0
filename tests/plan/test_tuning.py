"""The search for a micro-batch, over candidates whose rates and sizes are made up."""

from collections.abc import Callable, Sequence

import pytest

from pretrain.plan.fitting import Checkpointing
from pretrain.plan.tuning import Limits, NotTried, Search, TooLarge, Trial, search

ROWS_OF_RANK = 96


class Made:
    """`seconds(rows)` of a pass; `bytes_per_row` by way; too large above `device_bytes`, does not fit above `limit`."""

    def __init__(
        self,
        seconds: Callable[[int], float],
        bytes_per_row: dict[Checkpointing, int],
        device_bytes: int = 1 << 60,
        limit: int | None = None,
    ) -> None:
        self.seconds, self.bytes_per_row = seconds, bytes_per_row
        self.device_bytes, self.limit = device_bytes, limit
        self.asked: list[tuple[Checkpointing, int]] = []

    def measure(self, checkpointing: Checkpointing, rows: int) -> Trial:
        self.asked.append((checkpointing, rows))
        taken = rows * self.bytes_per_row[checkpointing]
        if taken > self.device_bytes:
            raise TooLarge("out of memory on this device")
        slower = {"none": 1.0, 2: 1.2, "full": 1.4}[checkpointing]
        fits = None if self.limit is None else taken <= self.limit
        return Trial(checkpointing, rows, 100 * rows, slower * self.seconds(rows), taken, taken, fits)


def rising(rows: int) -> float:
    """One second for what a pass costs whatever it holds, and 0.1 s a row: the rate grows for ever."""
    return 1 + 0.1 * rows


def found(
    measurer: Made,
    ways: Sequence[Checkpointing] = ("none",),
    common_rows: int = ROWS_OF_RANK,
    seconds: float = 1e9,
) -> Search:
    return search(measurer, tuple(ways), Limits(common_rows, seconds))


def tried(result: Search, checkpointing: Checkpointing = "none") -> list[int]:
    return [each.rows for each in result.trials if each.checkpointing == checkpointing]


def test_it_grows_until_a_rank_has_no_more_rows() -> None:
    """Then it looks between: of 96 the divisors within 32 and 128 are 48 and 96, 96 the nearer to 3/2 of 64."""
    result = found(Made(rising, {"none": 1}))
    assert tried(result) == [1, 2, 4, 8, 16, 32, 64, 48, 96]
    assert result.not_tried == (
        NotTried("none", 128, "a micro-batch that divides every step has 96 rows at most"),
    )
    assert result.best is not None and result.best.rows == 96


def test_stopped_it_says_what_there_is() -> None:
    measurer = Made(rising, {"none": 1, "full": 1})
    ordinary = measurer.measure

    def interrupted(checkpointing: Checkpointing, rows: int) -> Trial:
        if rows == 8:
            raise KeyboardInterrupt
        return ordinary(checkpointing, rows)

    measurer.measure = interrupted  # type: ignore[method-assign]
    result = found(measurer, ("none", "full"))
    assert tried(result) == [1, 2, 4] and tried(result, "full") == []
    assert result.was_stopped and result.best is not None and result.best.rows == 4


def test_what_does_not_divide_the_batch_is_not_recommended() -> None:
    """64 rows are the fastest but for 96, which are too large; they do not divide 96."""
    result = found(Made(rising, {"none": 1}, device_bytes=95))
    assert [each.rows for each in result.trials if not each.divides] == [64]
    assert result.best is not None and result.best.rows == 48


def test_it_stops_at_the_first_that_is_out_of_memory_and_looks_between() -> None:
    """Room for 20 rows: 32 are too many, of those between 16 and 32 only 24 divides, and that is too many."""
    measurer = Made(rising, {"none": 1}, device_bytes=20)
    result = found(measurer)
    assert [rows for _, rows in measurer.asked] == [1, 2, 4, 8, 16, 32, 12, 24]
    assert tried(result) == [1, 2, 4, 8, 16, 12]
    assert [(each.rows, each.reason) for each in result.not_tried] == [
        (32, "out of memory on this device"),
        (24, "out of memory on this device"),
    ]
    assert result.best is not None and result.best.rows == 16


def test_what_was_measured_but_leaves_the_run_no_room_is_not_recommended() -> None:
    """The device is larger than what a rank may take."""
    result = found(Made(rising, {"none": 10}, limit=130))
    assert [(each.rows, each.fits) for each in result.trials] == [
        *((1, True), (2, True), (4, True), (8, True), (16, False)),
        *((6, True), (12, True)),
    ]
    assert result.not_tried[0].reason == "fewer do not fit"
    assert result.best is not None and result.best.rows == 12


def test_recomputation_wins_where_it_lets_in_so_many_rows_more() -> None:
    """At 2 rows 200 / 1.2 = 167 tokens/s; recomputed at 48 rows 4,800 / (1.4 x 5.8) = 591."""
    result = found(Made(rising, {"none": 20, 2: 10, "full": 1}, device_bytes=50), ("none", 2, "full"))
    assert tried(result, "none") == [1, 2] and tried(result, 2) == [1, 2, 4, 3]
    assert result.best is not None
    assert (result.best.checkpointing, result.best.rows) == ("full", 48)
    assert result.best.tokens_per_second == pytest.approx(591, rel=1e-3)


def test_without_need_nothing_is_recomputed() -> None:
    result = found(Made(rising, {"none": 20, 2: 10, "full": 1}), ("none", 2, "full"))
    assert result.best is not None and result.best.checkpointing == "none"


def test_it_stops_where_the_rate_falls() -> None:
    """Above 8 rows they no longer lie in a cache: half the rate. About 8, 6 and 12 are looked at."""
    result = found(Made(lambda rows: rising(rows) * (1 if rows <= 8 else 2), {"none": 1}))
    assert tried(result) == [1, 2, 4, 8, 16, 6, 12]
    assert result.not_tried == (NotTried("none", 32, "the rate has fallen"),)
    assert result.best is not None and result.best.rows == 8


def test_a_rate_that_has_fallen_once_is_measured_again() -> None:
    """Other work on the machine takes the time of the first pass of 8 rows."""
    asked: list[int] = []

    def disturbed(rows: int) -> float:
        asked.append(rows)
        return rising(rows) * (10 if rows == 8 and asked.count(8) == 1 else 1)

    result = found(Made(disturbed, {"none": 1}))
    assert asked[:6] == [1, 2, 4, 8, 8, 16] and tried(result) == tried(found(Made(rising, {"none": 1})))
    assert result.best is not None and result.best.rows == 96


def test_it_stops_where_two_doublings_gain_nothing_and_takes_the_most_rows_that_are_as_fast() -> None:
    """1 s for a row, and 1% faster at 4, which is no gain; 6, looked at besides, are as fast for all that is known."""
    result = found(Made(lambda rows: rows * (0.99 if rows == 4 else 1.0), {"none": 1}))
    assert tried(result)[:3] == [1, 2, 4] and 8 not in tried(result)
    assert ("none", 8, "the rate no longer grows") in [
        (each.checkpointing, each.rows, each.reason) for each in result.not_tried
    ]
    assert result.best is not None and result.best.rows == max(tried(result)) == 6


def test_a_pass_that_would_take_too_long_is_not_tried() -> None:
    """8 rows take 1.8 s; 16 would take 3.6 s by their number."""
    result = found(Made(rising, {"none": 1}), seconds=3.5)
    assert max(tried(result)) == 12 and 16 not in tried(result)
    (missing,) = result.not_tried
    assert missing.rows == 16
    assert missing.reason == "a pass would take about 3.6 s, and at most 3.5 s are given (--seconds)"


def test_nothing_is_recommended_where_one_row_is_too_large() -> None:
    result = found(Made(rising, {"none": 2, "full": 3}, device_bytes=1), ("none", "full"))
    assert result.best is None and result.trials == ()
    assert [(each.checkpointing, each.rows) for each in result.not_tried] == [("none", 1), ("full", 1)]


def test_every_candidate_is_said_as_it_comes() -> None:
    heard: list[Trial | NotTried] = []
    result = search(Made(rising, {"none": 1}), ("none",), Limits(2, 1e9), heard.append)
    assert heard == [*result.trials, *result.not_tried]
