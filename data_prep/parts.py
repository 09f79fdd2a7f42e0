"""A build split over machines: each builds a part of the store, `merge` makes one store of the parts.

A part is a run of consecutive segments of the corpus, built as a whole store in a folder of its own,
STORE/part-00001-of-00003. Blocks never cross a segment, so the parts have the blocks that one build would
have, in the same order, and merging writes nothing but manifest, report and a copy of the tokenizer.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.heldout import MAX_WAITING_TOKENS
from data_prep.output import claimed, is_store, read_report
from data_prep.progress import Progress
from data_prep.report import merged_report
from pretrain.data.store import merge_parts
from pretrain.errors import DataError, UsageError

_NAME = re.compile(r"part-(\d{5})-of-(\d{5})")
MAX_PARTS = 99_999


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`, from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """From "2/3"; raises UsageError for anything else."""
        found = re.fullmatch(r"(\d{1,18})/(\d{1,18})", text, re.ASCII)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"--part is {text!r}; give I/N with I from 1 to N, such as 2/3.")
        if int(found[2]) > MAX_PARTS:
            raise UsageError(f"--part is {text!r}; a store has at most {MAX_PARTS:,} parts.")
        return cls(int(found[1]), int(found[2]))

    @property
    def name(self) -> str:
        return f"part-{self.number:05d}-of-{self.count:05d}"

    def segments(self, num_segments: int, segment_bytes: int) -> range:
        """This part's share of the corpus; raises UsageError where there are fewer segments than parts."""
        if num_segments < self.count:
            raise UsageError(
                f"--part {self.number}/{self.count}: the input has {num_segments} segment(s) of about "
                f"{segment_bytes:,} bytes; use at most {num_segments} part(s), or a smaller --segment-bytes for all."
            )
        first = num_segments * (self.number - 1) // self.count
        return range(first, num_segments * self.number // self.count)


def merge(output: Path, progress: Progress, *, if_complete: bool = False) -> dict[str, Any] | None:
    """Make one store of the parts below `output`; its report.

    A whole store stays as it is. With `if_complete`, None while parts are missing, which is an error otherwise.
    """
    output = output.absolute()
    if not output.is_dir():
        raise UsageError(f"There is no folder {output}; give the --output of the parts.")
    with claimed(output, say=progress.say, wait=True):
        if is_store(output):
            report = _report_of(output)
            what = "its parts are merged" if "parts" in report else "it was not built in parts"
            progress.say(f"{output} is a whole store already ({what}); there is nothing to merge.")
            return report
        parts, missing = _find_parts(output)
        if if_complete and (missing or not parts):
            count = f"{len(missing)} of the" if parts else "The"
            progress.say(f"{count} parts of {output} are not finished yet; nothing is merged.")
            return None
        if not parts:
            raise UsageError(f"{output} has no finished part; build them with --part 1/N to N/N first.")
        if missing:
            raise UsageError(f"{output} lacks {', '.join(missing)}; build what is missing, then merge again.")
        reports = [_report_of(part) for part in parts]
        for part, report in zip(parts[1:], reports[1:], strict=True):
            _check_alike(parts[0], reports[0], part, report)
        merged = merged_report(reports)
        _check_both_splits(output, merged)
        merge_parts(output, parts, merged)
    return merged


def _find_parts(output: Path) -> tuple[list[Path], list[str]]:
    """(finished parts in order, names of the missing ones); nothing of either where there is no part at all."""
    found = {path.name: path for path in output.iterdir() if _NAME.fullmatch(path.name) and is_store(path)}
    if not found:
        return [], []
    counts = {name.rpartition("-")[2] for name in found}
    if len(counts) > 1:
        several = " and ".join(sorted(str(int(count)) for count in counts))
        raise UsageError(f"{output} holds parts of {several}; remove those that do not belong to this store.")
    count = int(counts.pop())
    names = [Part(number, count).name for number in range(1, count + 1)]
    return [found[name] for name in names if name in found], [name for name in names if name not in found]


def _report_of(part: Path) -> dict[str, Any]:
    report = read_report(part)
    if "options" not in report or "input" not in report:
        raise DataError(f"{part} has no report.json that can be read; build it again.")
    return report


def _check_alike(first: Path, one: dict[str, Any], second: Path, other: dict[str, Any]) -> None:
    """Raises UsageError naming what differs between two parts."""
    for name in one["options"] | other["options"]:
        before, after = one["options"].get(name), other["options"].get(name)
        if before != after and not name.endswith("tokenizer.path"):  # its content is compared by checksum
            raise UsageError(
                f"{second.name} was built with {name} = {after!r}, {first.name} with {before!r}; "
                "build the parts with the same options."
            )
    if one["input"].get("digest") != other["input"].get("digest"):
        raise UsageError(
            f"{second.name} was built from other files than {first.name}, or from files that changed in between; "
            "build the parts from the same input."
        )


def _check_both_splits(output: Path, report: dict[str, Any]) -> None:
    """A corpus so small that one build would have had to choose a held-out document is not merged."""
    tokens = sum(counts["tokens"] for counts in report["splits"].values())
    is_lopsided = any(counts["documents"] == 0 for counts in report["splits"].values())
    if report["options"]["heldout"] > 0 and is_lopsided and tokens <= MAX_WAITING_TOKENS:
        raise UsageError(
            f"{output}: with --heldout {report['options']['heldout']} one side of the split is empty; "
            "a corpus this small is to be built in one piece, without --part."
        )
