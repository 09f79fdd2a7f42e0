"""What is installed, beside what is asked for: pyproject.toml's ranges, and what packages ask of each other.

Imports nothing that may be missing but `packaging`, so that it can still say what is.
"""

import platform
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from pretrain.doctor.finding import Finding, failed, ok, warning

ROOT = Path(__file__).resolve().parents[2]
OURS = "large-batch-bert"
_NAMED = ("torch", "deepspeed", "transformers")
Installed = Callable[[str], str | None]


@dataclass(frozen=True)
class Asked:
    """What this package needs. `pins`: the versions that are tested, by name; none where there is no checkout."""

    python: str
    packages: tuple[str, ...]
    pins: dict[str, str]


def asked_for(root: Path = ROOT) -> Asked:
    """Of the checkout at `root`; where there is none, of the package as it was installed."""
    project, pins = root / "pyproject.toml", root / "constraints.txt"
    if not project.is_file():
        about = metadata.metadata(OURS)
        needed = [text for text in metadata.requires(OURS) or () if "extra ==" not in text]
        return Asked(str(about["Requires-Python"]), tuple(needed), {})
    content = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    lines = pins.read_text(encoding="utf-8").splitlines() if pins.is_file() else []
    pinned = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return Asked(content["requires-python"], tuple(content["dependencies"]), pinned)


def installed_version(name: str) -> str | None:
    """None where the package is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_ranges(
    asked: Asked, installed: Installed = installed_version, python: str = ""
) -> Iterator[Finding]:
    """Every package by its range; what is within, in one line."""
    python = python or platform.python_version()
    good, untested, bad = [], [], False
    if not SpecifierSet(asked.python).contains(python, prereleases=True):
        bad = True
        yield failed(
            f"Python is {python} ({sys.executable}), expected {asked.python}",
            "start with another Python: make PYTHON=/path/to/python3 environment",
        )
    for requirement in map(Requirement, asked.packages):
        found, name = installed(requirement.name), requirement.name
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            bad = True
            yield failed(
                f"{name} is {found or 'not installed'}, expected {name}{requirement.specifier}",
                f"{_INSTALL}, into the environment of {sys.executable}",
            )
            continue
        good.append(f"{name} {found}")
        if name in asked.pins and found.partition("+")[0] != asked.pins[name]:
            untested.append(f"{name} {found} ({asked.pins[name]})")
    if not bad:
        named = ", ".join(f"{name} {installed(name)}" for name in _NAMED)
        tested = f"; not the tested versions: {', '.join(untested)}" if untested else ""
        yield ok(
            f"Python {python}, {named}; {len(good)} packages within the ranges of pyproject.toml{tested}"
        )


_INSTALL = 'pip install -c constraints.txt -e ".[test]"'


def check_agreement(
    packages: Sequence[str],
    installed: Installed = installed_version,
    requires: Callable[[str], Sequence[str] | None] = metadata.requires,
) -> Iterator[Finding]:
    """What the packages ask of others; `packages` are requirements, as pyproject.toml has them."""
    found = False
    for name in (Requirement(text).name for text in packages):
        if installed(name) is None:
            continue
        for text in requires(name) or ():
            problem = _problem(name, text, installed)
            if problem is not None:
                found = True
                yield warning(problem, _INSTALL)
    if not found:
        yield ok("packages agree about the versions that they ask of each other")


def _problem(name: str, text: str, installed: Installed) -> str | None:
    try:
        needed = Requirement(text)
    except InvalidRequirement:
        return None
    if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
        return None
    actual = installed(needed.name)
    if actual is not None and needed.specifier.contains(actual, prereleases=True):
        return None
    return (
        f"{name} {installed(name)} asks for {needed.name}{needed.specifier}, and found is {actual or 'none'}"
    )


def missing_packages() -> list[str]:
    """One sentence for each package that is not there or out of range."""
    findings = check_ranges(asked_for())
    return [f"{each.found}: {each.remedy}." for each in findings if each.verdict == "failed"]
