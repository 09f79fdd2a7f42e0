"""Versions: out of range, missing, untested, and packages that do not agree."""

import os
import site
import sys
from pathlib import Path

from pretrain.doctor.versions import ROOT, Asked, asked_for, check_agreement, check_ranges
from tests.doctor.heres import only
from tests.worlds import run_command

ASKED = Asked(">=3.11", ("torch>=2.11", "numpy>=2.0"), {"torch": "2.13.0", "numpy": "2.4.6"})
GOOD = {"torch": "2.13.0+cpu", "numpy": "2.4.6"}


def test_within_the_ranges_and_tested() -> None:
    found = only(
        check_ranges(ASKED, GOOD.get, "3.12.1"), "ok", "Python 3.12.1", "torch 2.13.0+cpu", "2 packages"
    )
    assert "not the tested" not in found.found


def test_another_version_than_is_tested_is_said() -> None:
    other = GOOD | {"numpy": "2.1.0"}
    only(check_ranges(ASKED, other.get, "3.12.1"), "ok", "not the tested versions: numpy 2.1.0 (2.4.6)")


def test_below_the_range_and_missing() -> None:
    old = GOOD | {"torch": "2.10.1"}
    only(
        check_ranges(ASKED, old.get, "3.12.1"),
        "failed",
        "torch is 2.10.1, expected torch>=2.11",
        "pip install -c",
    )
    only(check_ranges(ASKED, {"torch": "2.13.0"}.get, "3.12.1"), "failed", "numpy is not installed")
    only(
        check_ranges(ASKED, GOOD.get, "3.10.2"),
        "failed",
        "Python is 3.10.2",
        "expected >=3.11",
        "make PYTHON=",
    )


def test_packages_that_do_not_agree() -> None:
    needs = {
        "torch": ["numpy<2.4", "sympy>=1; python_version < '3'", "triton>=3; extra == 'gpu'"],
        "numpy": None,
    }
    only(
        check_agreement(ASKED.packages, GOOD.get, needs.get),
        *("warning", "torch 2.13.0+cpu asks for numpy<2.4, and found is 2.4.6", "pip install"),
    )
    only(check_agreement(ASKED.packages, GOOD.get, {"torch": ["numpy>2"]}.get), "ok")
    gone = {"torch": ["sympy>=1"]}
    only(
        check_agreement(ASKED.packages, GOOD.get, gone.get), "warning", "asks for sympy>=1, and found is none"
    )


def test_this_checkout_asks_for_what_pyproject_says(tmp_path: Path) -> None:
    asked = asked_for(ROOT)
    assert asked.python == ">=3.11" and "torch>=2.11" in asked.packages and asked.pins["torch"] == "2.13.0"
    assert all(each.verdict == "ok" for each in check_ranges(asked))
    # Without a checkout: as it was installed.
    assert any(each.startswith("torch") for each in asked_for(tmp_path).packages)


def test_a_package_that_is_not_there_is_named_without_a_traceback(tmp_path: Path) -> None:
    """An environment like this one, without torch."""
    for folder in site.getsitepackages():
        for each in Path(folder).iterdir():
            if not each.name.startswith("torch") and not (tmp_path / each.name).exists():
                (tmp_path / each.name).symlink_to(each)
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = run_command([sys.executable, "-S", "-m", "pretrain", "doctor"], env=env)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: No module named 'torch'.\nerror: torch is not installed, expected torch>="
    )
    assert "Traceback" not in done.stderr
