"""The garbage collector keeps off what the imports made, and goes about the rest."""

import json
import sys

import pytest

from tests.worlds import ROOT, run_command

# Runs a command as `python` would, and says how the collector stands when it ends.
_WATCHED = """
import gc, json, os, runpy, sys
def leave(code=0):
    found = [gc.isenabled(), gc.get_freeze_count(), gc.get_stats()[2]["collections"], "torch" in sys.modules]
    sys.stdout.flush()
    print(json.dumps(found), file=sys.stderr, flush=True)
    really_leave(code)
really_leave, os._exit, sys.exit = os._exit, leave, leave
run, *sys.argv = sys.argv[1:]
if run == "module":
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("typed", "imports_torch"),
    [
        (("file", str(ROOT / "launch" / "pretrain.py"), "--help"), True),
        (("module", "pretrain", "plan", "--help"), True),
        (("module", "data_prep", "--help"), False),
    ],
)
def test_a_command_never_goes_over_what_it_imports(typed: tuple[str, ...], imports_torch: bool) -> None:
    result = run_command([sys.executable, "-c", _WATCHED, *typed])
    assert "usage:" in result.stdout, result.stderr
    is_enabled, frozen, full_collections, has_torch = json.loads(result.stderr.splitlines()[-1])
    assert is_enabled and full_collections == 0
    assert frozen > 50_000 and has_torch >= imports_torch


def test_what_is_spared_stays_and_what_is_new_is_collected() -> None:
    program = """
import gc, weakref
from pretrain import garbage
class Node: ...
def ring():
    node = Node()
    node.itself = node
    return weakref.ref(node)
garbage.pause()
old = ring()
assert not gc.isenabled()
garbage.spare()
new = ring()
gc.collect()
assert gc.isenabled() and old() is not None and new() is None
"""
    result = run_command([sys.executable, "-c", program])
    assert result.returncode == 0, result.stderr
