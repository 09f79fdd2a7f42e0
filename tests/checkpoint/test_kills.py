"""What a rename makes visible is on disk already: a power cut would show it, and no kill can.

That a save may be killed before any of its system calls is a row of the matrix of faults.
"""

from pathlib import Path

import pytest

from pretrain.faults.saves import save_best
from pretrain.faults.system_calls import recorded

pytestmark = pytest.mark.usefixtures("one_rank")


def test_on_disk_before_it_has_a_name(tmp_path: Path) -> None:
    """A kill cannot show it, a power cut would: what a rename makes visible was forced to disk before."""
    save_best(tmp_path, 5, seed=1)
    calls = recorded(lambda: save_best(tmp_path, 10, seed=2))
    partial = tmp_path / ".step-00000010.partial"
    named = calls.index(("rename", partial))
    for name in ("rank-00000.safetensors", "rank-00000.json", "manifest.json"):
        writes = [number for number, call in enumerate(calls) if call == ("write", partial / name)]
        assert ("fsync", partial / name) in calls[writes[-1] : named], name
    last_entry = max(number for number, call in enumerate(calls[:named]) if call[1].parent == partial)
    assert ("fsync", partial) in calls[last_entry:named]
    # The manifest of all comes after those of the ranks, and their removal after it.
    order = [calls.index(("fsync", partial / name)) for name in ("rank-00000.json", "manifest.json")]
    assert order == sorted(order)
    assert calls.index(("unlink", partial / "rank-00000.json")) > order[1]
    # The name is on disk before `best`, `best` before `latest`, and `latest` before anything goes.
    synced = [number for number, call in enumerate(calls) if call == ("fsync", tmp_path)]
    best = calls.index(("rename", tmp_path / ".best.partial"))
    latest = calls.index(("rename", tmp_path / ".latest.partial"))
    for first, then in ((named, best), (best, latest)):
        assert any(first < number < then for number in synced)
    assert synced[-1] > latest > best > named
    for pointer, rename in (("best", best), ("latest", latest)):
        assert calls.index(("fsync", tmp_path / f".{pointer}.partial")) < rename
