"""A review of what is installed: every package by one version, from the usual index, and none that nobody asked for.

`pip-audit` looks the versions up among published advisories; it needs the network, so that `make test` does without.
Hashes are not pinned: the CPU and CUDA builds of one version of torch have different ones, and a file that is right for
both cannot be written. What the review rests on instead is that no line can lead elsewhere.
"""

import re
import tomllib
from importlib import metadata
from itertools import chain

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.worlds import ROOT

PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][A-Za-z0-9.!+-]*)")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(text) for text in (*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["bench"])]


@pytest.fixture(scope="module")
def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    # Anything else - an option, an address, a path, a range - could bring in what nobody has looked at.
    assert [line for line in lines if not PIN.fullmatch(line)] == []
    names = [canonicalize_name(line.partition("==")[0]) for line in lines]
    assert len(set(names)) == len(names)
    return {name: Version(line.partition("==")[2]) for name, line in zip(names, lines, strict=True)}


def test_every_direct_dependency_is_pinned_within_its_range(pins: dict[str, Version]) -> None:
    for requirement in DIRECT:
        assert requirement.url is None
        assert requirement.specifier, f"{requirement.name} has no range in pyproject.toml"
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_so_is_everything_that_they_need_and_nothing_else(pins: dict[str, Version]) -> None:
    needed: set[str] = set()
    queue = [(requirement, extra) for requirement in DIRECT for extra in ("", *requirement.extras)]
    while queue:
        requirement, extra = queue.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        is_new = name not in needed
        needed.add(name)
        if not is_new and not requirement.extras:
            continue
        try:
            texts = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        wanted = ("", *requirement.extras)
        queue += [(each, one) for each, one in chain((Requirement(t), e) for t in texts for e in wanted)]
    # A CUDA build of torch brings its own libraries, which come with torch's version.
    needed = {name for name in needed if not name.startswith(("nvidia-", "cuda-")) and name != "triton"}
    assert sorted(needed - pins.keys()) == []
    assert sorted(pins.keys() - needed) == []


def test_pre_releases_and_versions_of_one_s_own_are_not_pinned(pins: dict[str, Version]) -> None:
    assert [f"{name} {pin}" for name, pin in pins.items() if pin.is_prerelease or pin.local] == []
