"""What ranks can only find out together. Every rank calls each function, in the same order; rank 0 says what was found.

Whoever a function returns findings on may say them: where each has its own, every rank says what concerns itself.
"""

import hashlib
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from pretrain.doctor import versions
from pretrain.doctor.finding import Finding, failed, named_ranks, ok, warning
from pretrain.doctor.folder import nearest, trial_path
from pretrain.doctor.here import Here
from pretrain.doctor.meeting import Meeting
from pretrain.doctor.network import addresses_of
from pretrain.errors import PretrainError

CLOCK_SECONDS = 2.0
REPLACEMENTS = 20
_COMPARED = ("torch", "deepspeed", "transformers", "tokenizers", "safetensors", "numpy", "numba", "pydantic")
_SHOWN = 12
_WORD_BYTES = 4096
_SEE_WRITING = "see the line about writing"


@dataclass(frozen=True)
class Who:
    """A rank as it introduces itself; `name`: the machine's own, which others may resolve."""

    node: str
    name: str
    local_rank: int
    local_world_size: int


def own_versions() -> dict[str, str]:
    """What must be the same everywhere; `source` is a digest of this package's code."""
    root = Path(versions.ROOT / "pretrain")
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    found = {"Python": platform.python_version(), "the source of this package": digest.hexdigest()[:_SHOWN]}
    for name in _COMPARED:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def compare_versions(here: Here, meeting: Meeting, own: Mapping[str, str]) -> list[Finding]:
    """That all ranks have the same."""
    return alike(
        meeting.gather("versions", dict(own)),
        "install the same on every machine, or start from one environment that all of them share",
        "all ranks have the same versions, and the same source of this package",
    )


def compare_stores(here: Here, meeting: Meeting) -> list[Finding]:
    """That every machine sees the same stores."""
    found = None
    if here.speaks_for_node and here.has_store:
        try:
            found = {"fingerprint of the store": here.corpus.fingerprint[:_SHOWN]}
        except PretrainError:
            found = {"fingerprint of the store": "not to be opened"}
    answers = {rank: each for rank, each in meeting.gather("stores", found).items() if each is not None}
    if not answers:
        return []
    remedy = "copy the store to the same path on every machine, or keep it on a file system that they share"
    return alike(answers, remedy, "every machine has the same store")


def alike(answers: Mapping[int, Mapping[str, str]], remedy: str, well: str) -> list[Finding]:
    """A finding for each key that is not the same; the less usual values are named with their ranks."""
    findings = []
    for key in dict.fromkeys(name for each in answers.values() for name in each):
        counts = Counter(each.get(key, "missing") for each in answers.values())
        if len(counts) == 1:
            continue
        parts = []
        for value, _ in counts.most_common():
            ranks = [rank for rank, each in answers.items() if each.get(key, "missing") == value]
            parts.append(f"{value} on {named_ranks(ranks)}")
        findings.append(failed(f"{key} is {' and '.join(parts)}, expected the same everywhere", remedy))
    return findings or ([ok(well)] if len(answers) > 1 else [])


def compare_places(whos: Mapping[int, Who]) -> list[Finding]:
    """That ranks of one machine have places of their own, as many as they were told."""
    findings = []
    for node in dict.fromkeys(who.node for who in whos.values()):
        ranks = {rank: who for rank, who in whos.items() if who.node == node}
        places = sorted(who.local_rank for who in ranks.values())
        sizes = {who.local_world_size for who in ranks.values()}
        if places != list(range(len(ranks))) or sizes != {len(ranks)}:
            findings.append(
                failed(
                    f"{node} has {named_ranks(ranks)} with the local ranks {places} of {sorted(sizes)}, expected "
                    f"{list(range(len(ranks)))} of {len(ranks)}: two would share a device, or one would have none",
                    "start all ranks by one launcher, and set LOCAL_RANK and LOCAL_WORLD_SIZE by hand nowhere",
                )
            )
    nodes = len({who.node for who in whos.values()})
    return findings or [ok(f"{len(whos)} rank(s) on {nodes} machine(s), each with a place of its own")]


def resolve_names(
    whos: Mapping[int, Who], resolve: Callable[[str], list[str]] = addresses_of
) -> list[Finding]:
    """That this machine knows the names of the others."""
    names = sorted({who.node for who in whos.values()})
    unknown = [name for name in names if not resolve(name)]
    if unknown:
        return [
            warning(
                f"this machine cannot resolve {', '.join(unknown[:_SHOWN])}, {len(unknown)} of {len(names)} machines; "
                "a run needs only MASTER_ADDR, deepspeed's hostfile all of them",
                "add them to DNS or to /etc/hosts on every machine",
            )
        ]
    return [ok(f"every machine knows the names of all {len(names)}" if names[1:] else f"{names[0]} is known")]


def compare_clocks(here: Here, meeting: Meeting) -> list[Finding]:
    """Every rank says its time at one moment, which lies between rank 0's giving the word and its having all answers.

    So a rank's clock is off by `said - middle`, give or take half of that time.
    """
    meeting.gather("ready for the clock", None)
    before = here.clock()
    said = meeting.gather("clock", here.clock())
    after = here.clock()
    if here.place is None or not here.place.is_first or here.ranks == 1:
        return []
    middle, half = (before + after) / 2, (after - before) / 2
    return judged_clocks({rank: time - middle for rank, time in said.items()}, half)


def judged_clocks(offsets: Mapping[int, float], uncertainty: float) -> list[Finding]:
    """`offsets`: seconds ahead of rank 0, by rank."""
    wrong = {rank: each for rank, each in offsets.items() if abs(each) - uncertainty > CLOCK_SECONDS}
    if not wrong:
        largest = max(map(abs, offsets.values()))
        return [ok(f"clocks differ by {largest:.2g} s at most, measured to {uncertainty:.2g} s")]
    parts = [
        f"rank {rank} by {abs(each):.1f} s {'ahead of' if each > 0 else 'behind'} rank 0"
        for rank, each in wrong.items()
    ]
    return [
        warning(
            f"clocks differ, expected {CLOCK_SECONDS:g} s at most: {', '.join(parts[:_SHOWN])} (measured to "
            f"{uncertainty:.2g} s)",
            "set the clocks by NTP (chrony): times in events.jsonl and of files on a shared disk do not fit else, and "
            "SLURM refuses what seems too old",
        )
    ]


def compare_folders(here: Here, meeting: Meeting) -> list[Finding]:
    """That all see one folder: rank 0 writes a word there that nobody else knows, and replaces it again and again."""
    folder, levels = nearest(here.output)
    is_first = here.place is not None and here.place.is_first
    word = os.urandom(8).hex() if is_first else ""
    path, problem = trial_path(folder, word), ""
    if is_first:
        try:
            _write(path, f"{word} 0")
        except OSError as error:
            problem = f"{error.strerror or error}"
    first = meeting.gather("folder", [levels, path.name, word, problem]).get(0)
    try:
        if first is None or first[3] or here.ranks == 1:
            return (
                [failed(f"rank 0 cannot write beside {here.output}: {problem}", _SEE_WRITING)]
                if problem
                else []
            )
        own = here.output.absolute()
        at = own.parents[first[0] - 1] if first[0] else own
        if is_first:
            for number in range(1, REPLACEMENTS + 1):
                _write(path, f"{word} {number}")
        seen = ""
        if here.speaks_for_node and not is_first:
            seen = _read(at / first[1], first[2], here.seconds / 2)
        meeting.gather("folder seen", seen)
    finally:
        if is_first:
            for each in (path, path.with_suffix(".partial")):
                with suppress(OSError):
                    each.unlink(missing_ok=True)
    if seen:
        return [
            failed(
                f"{at} is another folder here than on rank 0, or not seen there alike: {seen}",
                "give an --output on a file system that all machines share, by the same path",
            )
        ]
    return [ok("every machine sees what rank 0 writes there, and each replacement whole")] if is_first else []


def _write(path: Path, word: str) -> None:
    """Whole or not at all, as checkpoints are."""
    partial = path.with_suffix(".partial")
    partial.write_text((word + "\n") * (_WORD_BYTES // (len(word) + 1)), encoding="ascii")
    partial.replace(path)


def _read(path: Path, word: str, seconds: float) -> str:
    """Until the last replacement is seen; what is wrong, or nothing."""
    deadline, seen = monotonic() + seconds, False
    last = f"{word} {REPLACEMENTS}"
    while monotonic() < deadline:
        try:
            lines = set(path.read_text(encoding="ascii").splitlines())
        except FileNotFoundError:
            if seen:
                return "a file that was replaced was gone for a moment"
            lines = set()
        except OSError as error:
            return f"{path.name} cannot be read: {error.strerror or error}"
        if len(lines) > 1 or any(not each.startswith(word) for each in lines):
            return "a file was seen that was replaced by half"
        if lines == {last}:
            return ""
        seen = seen or bool(lines)
        sleep(0.01)
    return f"expected {path.name}, and found {'an old state of it' if seen else 'nothing'} for {seconds:g} s"


def introductions(answers: Mapping[int, Any]) -> dict[int, Who]:
    """Of the ranks that are there."""
    return {rank: Who(**answer) for rank, answer in answers.items()}


def nodes_of(whos: Iterable[Who]) -> int:
    return len({who.node for who in whos})
