"""A process to be examined: a small store with a real tokenizer, a small model, and whatever a test says otherwise."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import time

from pretrain.doctor.finding import Finding
from pretrain.doctor.here import Here
from pretrain.placement import Placement
from pretrain.plan import Asked
from pretrain.plan.planning import DeviceType
from pretrain.run_arguments import add_run_arguments, resolved
from tests.command.runs import STORE

ALONE = Placement(0, 0, 1, 1)


def make_here(
    output: Path,
    *typed: str | Path,
    store: Path = STORE,
    place: Placement | None = ALONE,
    variables: Mapping[str, str] | None = None,
    device: DeviceType = "cpu",
    verify: bool = False,
    seconds: float = 20.0,
    resume: str = "auto",
    clock: Callable[[], float] = time,
) -> Here:
    """`typed`: of the run's description, after `--data`, and after a tiny model where it names none."""
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    said = [str(each) for each in typed]
    tiny = [] if any(each.startswith("model.") for each in said) else ["model.preset=bert-tiny"]
    arguments = parser.parse_intermixed_args([*tiny, *said])
    known = place or ALONE
    asked = Asked(
        config=resolved(arguments, known.world_size),
        backend=arguments.backend,
        store=store,
        ds_config=arguments.ds_config,
        ranks=known.world_size,
        nodes=1,
        device=device,
        memory_bytes=None,
        rate=None,
    )
    return Here(place, variables or {}, asked, True, output, verify, seconds, resume, clock)


def only(findings: Iterable[Finding], verdict: str, *parts: str) -> Finding:
    """The one finding, of this verdict, with these parts; what is wrong has a remedy, in its own words or apart."""
    (found,) = findings
    assert found.verdict == verdict, found
    said = f"{found.found} / {found.remedy}"
    assert [part for part in parts if part not in said] == [], said
    assert "\n" not in said
    return found
