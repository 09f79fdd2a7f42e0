"""Real tokens per second of training, ours beside its peers: `python -m tests.benchmarks.training --help`.

All train BERT of the same preset from random weights on the text of the demo store, with the same tokenizer, precision
and number of threads, in turns, each run in a process (or two) of its own that is forked from one parent. A run is
timed between its warm-up and its end: start-up is nobody's. Real tokens are those that are no padding, special ones
included.

1. Text. Ours packs samples of up to `seq_len` tokens from the documents. The peers get the forms of `run_mlm.py`:
   `lines` (`--line_by_line`, a sentence a line, padded to the longest of a forward pass, which is its default, or to
   `seq_len`), `concatenated` (its default without that option), and `pieces` of documents, which leave little to pad.
2. Model. `BertForMaskedLM` of the preset's config on both sides, dropout as the config has it; with the objective "nsp"
   ours is `BertForPreTraining`.
3. Batch. A step has about as many real tokens everywhere (`tokens_per_step` in the document says how many), by as many
   forward passes as that takes. Ours is one pass of all rows; the rows of a peer's pass, of a rank where there are
   several, stand in its name, from Trainer's default of 8 to those of ours: fewer rows have less padding to their
   longest, more have fewer passes. What is asked of ours is asked beside the fastest on lines (`headline`).
4. Optimizer. Ours is LAMB with clipping and norms; the peers have torch's fused AdamW, with clipping, as they come.
5. Loading. Ours makes batches in a thread beside the training, the peers in it (`dataloader_num_workers=0`, the
   default), but for one with a worker.
6. Memory. On the CPU ours keeps what it frees; the peers do as they come, but for two.

Where Trainer groups samples by length it sorts those of 50 steps from long to short: such cycles are timed whole. On
two ranks everybody's ranks keep to cores of their own. A run during which other work had more than a little of the
cores is repeated. Then parts of ours are taken away one by one, or added. Nothing is asserted.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from pretrain.data.store import TokenStore
from tests.benchmarks.amounts import check_only, positive, whole
from tests.benchmarks.measure import NotRun, Peer, Summary, Trial, alternate, ratio
from tests.benchmarks.report import RateTable, as_json, as_markdown, make_console, provenance, write
from tests.benchmarks.step_clock import Timing, trial_of, undisturbed
from tests.benchmarks.training_ours import OurRun, train_ours
from tests.benchmarks.training_peers import PeerRun, train_peer
from tests.benchmarks.training_text import mean_tokens, open_demo, open_lines, open_samples
from tests.worlds import run_ranks

ASKED = (4.0, 5.0)
CYCLE = 50  # steps in which Trainer goes from the longest samples to the shortest
LINE_ROWS = (8, 16, 32, 64)  # a forward pass and rank; the first is Trainer's default
FEW_ROWS = LINE_ROWS[0]
ACCELERATE = "accelerate and DeepSpeed 2"
MANY_RANKS = {"DDP by hand": "ddp", "HF Trainer": "trainer", ACCELERATE: "accelerate"}
_SECONDS = 1800.0  # a run hangs


@dataclass(frozen=True)
class Group:
    """Peers that are measured in turns: `ranks` processes of `threads` threads each."""

    name: str
    preset: str
    seq_len: int
    precision: str = "fp32"
    ranks: int = 1
    threads: int = 2
    is_parts: bool = False
    is_brief: bool = False  # the peers that matter most
    tokens_per_step: int = 8192

    @property
    def rows(self) -> int:
        """Of a step, all ranks together."""
        return self.tokens_per_step // self.seq_len


GROUPS = (
    Group("BERT-mini, 128", "bert-mini", 128),
    Group("BERT-mini, 128, two ranks", "bert-mini", 128, ranks=2, threads=1),
    Group("BERT-mini, 128, bf16", "bert-mini", 128, "bf16", is_brief=True),
    Group("BERT-mini, 128, parts", "bert-mini", 128, is_parts=True),
    Group("BERT-small, 512", "bert-small", 512, is_brief=True),
)
QUICK_GROUPS = (
    Group("BERT-tiny, 32", "bert-tiny", 32, threads=1, tokens_per_step=1024),
    Group("BERT-tiny, 32, two ranks", "bert-tiny", 32, ranks=2, threads=1, tokens_per_step=1024),
    Group("BERT-tiny, 32, parts", "bert-tiny", 32, threads=1, is_parts=True, tokens_per_step=1024),
)
# Of the quick form: what goes another way than the peers beside it.
QUICK_PEERS = (
    "ours",
    "HF Trainer, lines, 8 rows",
    "HF Trainer, lines, 8 rows, padded to seq_len",
    "HF Trainer, lines, 64 rows, grouped by length",
    "HF Trainer, concatenated, 32 rows, a loader's worker",
    "accelerate and DeepSpeed 2, lines, 8 rows",
    "DDP by hand, lines, 8 rows",
    "without masked-only head",
    "without our optimizer",
    "on lines, unpacked",
)


@dataclass(frozen=True)
class Course:
    """What all runs share; `lines` is a store whose documents are single lines."""

    store: Path
    lines: Path
    samples: Path
    timing: Timing
    most_repeats: int
    say: Callable[[str], None]

    def ours(self, group: Group, **choices: Any) -> Callable[[int], Trial]:
        """Runs of ours, with the objective "mlm" and stage 2 of FSDP unless said otherwise."""
        run = OurRun((*_settings(group), *choices.pop("settings", ())), precision=group.precision, **choices)
        return self._runs(group, train_ours, self.store, run, self.timing)

    def ours_on_lines(self, group: Group, packing: bool) -> Callable[[int], Trial]:
        """Runs of ours whose samples are single lines; unpacked they fill a row each, in as many passes as it takes."""
        passes = 1 if packing else self._passes(group, "lines", group.rows)
        settings = (*_settings(group, passes), f"data.packing={str(packing).lower()}")
        run = OurRun(settings, precision=group.precision)
        return self._runs(group, train_ours, self.lines, run, self._timing(passes))

    def theirs(self, group: Group, kind: str, form: str, rows: int, **choices: Any) -> Callable[[int], Trial]:
        """Runs of a peer of `rows` a forward pass and rank, with as many tokens a step as ours."""
        run = PeerRun(kind, form, group.preset, group.seq_len, rows, self._passes(group, form, rows))
        run = replace(run, precision=group.precision, **choices)
        timing = self._timing(run.accumulation)
        if run.sampling == "group_by_length":
            timing = replace(timing, cycle=CYCLE)
        return self._runs(group, train_peer, self.store, self.samples, run, timing)

    def _passes(self, group: Group, form: str, rows: int) -> int:
        """So many, of `rows` samples on each rank, have the tokens of a step."""
        samples = open_samples(self.samples, TokenStore.open(self.store), form, group.seq_len)
        return max(1, round(group.tokens_per_step / group.ranks / (rows * mean_tokens(samples))))

    def _timing(self, passes: int) -> Timing:
        """A step of many passes is long, and warms up within itself."""
        return self.timing if passes == 1 else replace(self.timing, warm_steps=1, min_steps=2)

    def _runs(self, group: Group, function: Callable[..., Any], *arguments: Any) -> Callable[[int], Trial]:
        def run(number: int) -> Trial:
            try:
                return trial_of(run_ranks(function, group.ranks, *arguments, group.threads, timeout=_SECONDS))
            except AssertionError as error:
                if "NotRun: " in str(error):
                    raise NotRun(str(error).rpartition("NotRun: ")[2].splitlines()[0]) from None
                raise

        return undisturbed(run, self.most_repeats, self.say)


def _settings(group: Group, passes: int = 1) -> tuple[str, ...]:
    """Recipe keys of ours: all rows of a step in so many passes."""
    return (
        f"model.preset={group.preset}",
        f"data.seq_len={group.seq_len}",
        "data.objective=mlm",
        f"train.global_batch={passes * group.rows}",
        f"train.micro_batch={group.rows // group.ranks}",
    )


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    arguments = make_parser().parse_args(argv)
    quick = arguments.quick
    groups = QUICK_GROUPS if quick else GROUPS
    check_only(arguments.only, [group.name for group in groups])
    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    timing = Timing(1, 0.2, 2) if quick else Timing(seconds=arguments.seconds)
    store = open_demo(arguments.cache, quick)
    lines, samples = open_lines(arguments.cache, store), arguments.cache / "samples"
    course = Course(store, lines, samples, timing, 1 if quick else 4, say)
    result = provenance("tests.benchmarks.training", argv) | {"groups": {}, "headline": {}}
    result["optimizers"] = {"ours": "LAMB", "peers": "torch AdamW, fused"}
    table, measured = RateTable("training, real tokens", "k tokens", 1e3), dict[str, list[Summary]]()
    for group in groups:
        if arguments.only and not any(each in group.name for each in arguments.only):
            continue
        say(f"{group.name} ...")
        peers = parts_of(course, group) if group.is_parts else peers_of(course, group)
        if quick:
            peers = [peer for peer in peers if peer.name in QUICK_PEERS]
        summaries = alternate(peers, arguments.rounds or (1 if quick else 3), say)
        measured[group.name] = summaries
        result["groups"][group.name] = as_json(summaries)
        if (fastest := headline(summaries)) is not None:
            result["headline"][group.name] = fastest
            say(
                f"{group.name}: beside {fastest['peer']}, the fastest on lines, {fastest['ours_over_it']:.2f}x"
            )
        table.add(group.name, summaries)
        write(result, arguments.output)  # what is measured is kept, whatever becomes of the rest
    table.print(make_console())
    if arguments.output is not None:
        arguments.output.with_suffix(".md").write_text(as_markdown(measured, "k tokens", 1e3))
    return result


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder for store and samples, which stay")
    parser.add_argument("--quick", action="store_true", help="seconds, on a small model: shows that it runs")
    parser.add_argument("--rounds", type=whole, help="how often each peer runs (default: 3)")
    parser.add_argument("--seconds", type=positive, default=10.0, help="that a run is timed, at least")
    parser.add_argument("--only", nargs="*", metavar="TEXT", help="groups with one of these in their name")
    parser.add_argument("--output", type=Path, help="file for the JSON document; a table goes beside it")
    return parser


def headline(summaries: Sequence[Summary]) -> dict[str, Any] | None:
    """The fastest of the peers beside which something is asked of ours; None where none of them has run."""
    ours = next(each for each in summaries if each.peer.is_ours)
    run = [each for each in summaries if each.peer.asked and each.trials]
    if not run or not ours.trials:
        return None
    fastest = max(run, key=lambda each: each.rate)
    return {"peer": fastest.peer.name, "ours_over_it": ratio(ours, fastest)}


def peers_of(course: Course, group: Group) -> list[Peer]:
    """In one process, or on several ranks."""
    ours = [Peer("ours", course.ours(group), is_ours=True)]
    by_deepspeed = Peer("ours, under DeepSpeed", course.ours(group, backend="deepspeed"))
    whole = group.rows // group.ranks

    def theirs(name: str, kind: str, form: str, rows: int) -> Peer:
        asked = ASKED if kind == "trainer" and form == "lines" else None
        return Peer(f"{name}, {form}, {rows} rows", course.theirs(group, kind, form, rows), asked=asked)

    if group.ranks > 1:
        others = [
            theirs(name, kind, form, rows)
            for name, kind in MANY_RANKS.items()
            for form, rows in (("lines", FEW_ROWS), ("concatenated", whole))
        ]
        return [*ours, by_deepspeed, *others]
    trainer = [
        theirs("HF Trainer", "trainer", form, rows)
        for form, choices in (
            ("lines", LINE_ROWS),
            ("pieces", (FEW_ROWS, whole)),
            ("concatenated", (FEW_ROWS, whole)),
        )
        for rows in dict.fromkeys(choices)
        if not group.is_brief or rows == FEW_ROWS or (form, rows) == ("concatenated", whole)
    ]
    if group.is_brief:
        return [*ours, *trainer]
    nsp = course.ours(group, settings=("data.objective=nsp",))

    def trainer_with(what: str, form: str, rows: int, **choices: Any) -> Peer:
        run = course.theirs(group, "trainer", form, rows, **choices)
        return Peer(f"HF Trainer, {form}, {rows} rows, {what}", run)

    return [
        *ours,
        by_deepspeed,
        Peer("ours, sentence pairs", nsp),
        *trainer,
        trainer_with("padded to seq_len", "lines", FEW_ROWS, padding="max_length"),
        trainer_with("grouped by length", "lines", LINE_ROWS[-1], sampling="group_by_length"),
        trainer_with("a loader's worker", "concatenated", whole, workers=1),
        trainer_with("freed memory kept", "lines", FEW_ROWS, memory_kept=True),
        trainer_with("freed memory kept", "concatenated", whole, memory_kept=True),
        theirs(ACCELERATE, "accelerate", "lines", FEW_ROWS),
    ]


def parts_of(course: Course, group: Group) -> list[Peer]:
    """Ours without a part, or with one more; what "ours is" says is what the part gives, or the inverse. On lines it
    has the peers' samples, packed, or each padded to `seq_len`."""
    parts = ("masked-only head", "our optimizer", "our dropout", "background loader", "kept memory")
    return [
        Peer("ours", course.ours(group), is_ours=True),
        Peer("without packing", course.ours(group, settings=("data.packing=false",))),
        Peer("on lines", course.ours_on_lines(group, packing=True)),
        Peer("on lines, unpacked", course.ours_on_lines(group, packing=False)),
        *(Peer(f"without {part}", course.ours(group, without=part)) for part in parts),
        Peer("with torch.compile", course.ours(group, settings=("train.compile=true",))),
        Peer("with AdamW", course.ours(group, settings=("optimizer.name=adamw",))),
        Peer("with no dropout", course.ours(group, settings=("model.dropout=0.0",))),
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
