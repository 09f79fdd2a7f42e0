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
3. Batch. A step has about as many real tokens everywhere (`tokens_per_step` in the document says how many), a forward
   pass of the peers as many rows as one of ours. Where a step would take a minute it has fewer tokens: lines padded to
   `seq_len`, and lines grouped by length, whose rate is of a whole cycle of 50 steps from long to short.
4. Optimizer. Ours is LAMB with clipping and norms; the peers have torch's fused AdamW, with clipping, as they come.

A run during which other work had more than a little of the cores is repeated. Then parts of ours are taken away one by
one, or added. Nothing is asserted.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from pretrain.data.store import TokenStore
from tests.benchmarks.measure import NotRun, Peer, Summary, Trial, alternate
from tests.benchmarks.report import RateTable, as_json, as_markdown, make_console, provenance, write
from tests.benchmarks.step_clock import Timing, trial_of, undisturbed
from tests.benchmarks.training_ours import OurRun, train_ours
from tests.benchmarks.training_peers import PeerRun, train_peer
from tests.benchmarks.training_text import mean_tokens, open_demo, open_samples
from tests.worlds import run_ranks

ASKED = (4.0, 5.0)
CYCLE = 50  # steps in which Trainer goes from the longest samples to the shortest
LINE_ROWS = 64
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
    tokens_per_step: int = 8192

    @property
    def rows(self) -> int:
        """Of a step, all ranks together."""
        return self.tokens_per_step // self.seq_len


GROUPS = (
    Group("BERT-mini, 128", "bert-mini", 128),
    Group("BERT-mini, 128, two ranks", "bert-mini", 128, ranks=2, threads=1),
    Group("BERT-mini, 128, bf16", "bert-mini", 128, "bf16"),
    Group("BERT-mini, 128, parts", "bert-mini", 128, is_parts=True),
    Group("BERT-small, 512", "bert-small", 512),
    Group("BERT-small, 512, two ranks", "bert-small", 512, ranks=2, threads=1),
)
QUICK_GROUPS = (
    Group("BERT-tiny, 32", "bert-tiny", 32, threads=1, tokens_per_step=2048),
    Group("BERT-tiny, 32, two ranks", "bert-tiny", 32, ranks=2, threads=1, tokens_per_step=2048),
    Group("BERT-tiny, 32, parts", "bert-tiny", 32, threads=1, is_parts=True, tokens_per_step=2048),
)
# Of the quick form: what goes another way than the peers beside it.
QUICK_PEERS = (
    "ours",
    "HF Trainer, lines, padded",
    "accelerate and DeepSpeed 2, lines",
    "without masked-only head",
    "without our optimizer",
)


@dataclass(frozen=True)
class Course:
    """What all runs share."""

    store: Path
    samples: Path
    timing: Timing
    most_repeats: int
    say: Callable[[str], None]

    def ours(self, group: Group, **choices: Any) -> Callable[[int], Trial]:
        """Runs of ours, with the objective "mlm" and stage 2 of FSDP unless said otherwise."""
        settings = (
            f"model.preset={group.preset}",
            f"data.seq_len={group.seq_len}",
            "data.objective=mlm",
            f"train.global_batch={group.rows}",
            f"train.micro_batch={group.rows // group.ranks}",
            *choices.pop("settings", ()),
        )
        run = OurRun(settings, precision=group.precision, **choices)
        return self._runs(group, train_ours, self.store, run, self.timing)

    def theirs(self, group: Group, kind: str, form: str, **choices: Any) -> Callable[[int], Trial]:
        """Runs of a peer, with as many tokens a step as ours."""
        rows = choices.pop("rows", LINE_ROWS if form == "lines" else group.rows) // group.ranks
        run = PeerRun(kind, form, group.preset, group.seq_len, rows, precision=group.precision)
        run, timing = replace(run, **choices), self.timing
        if run.sampling == "group_by_length":
            timing = replace(timing, min_steps=CYCLE)
        elif run.padding == "longest":
            mean = mean_tokens(open_samples(self.samples, TokenStore.open(self.store), form, group.seq_len))
            run = replace(
                run, accumulation=max(1, round(group.tokens_per_step / group.ranks / (rows * mean)))
            )
        if run.accumulation > 1:
            timing = replace(timing, warm_steps=1, min_steps=2)
        return self._runs(group, train_peer, self.store, self.samples, run, timing)

    def _runs(self, group: Group, function: Callable[..., Any], *arguments: Any) -> Callable[[int], Trial]:
        def run(number: int) -> Trial:
            try:
                return trial_of(run_ranks(function, group.ranks, *arguments, group.threads, timeout=_SECONDS))
            except AssertionError as error:
                if "NotRun: " in str(error):
                    raise NotRun(str(error).rpartition("NotRun: ")[2].splitlines()[0]) from None
                raise

        return undisturbed(run, self.most_repeats, self.say)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    arguments = make_parser().parse_args(argv)
    quick = arguments.quick
    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    timing = Timing(1, 0.2, 2) if quick else Timing(seconds=arguments.seconds)
    course = Course(
        open_demo(arguments.cache, quick), arguments.cache / "samples", timing, 1 if quick else 4, say
    )
    result = provenance("tests.benchmarks.training", argv) | {"groups": {}}
    result["optimizers"] = {"ours": "LAMB", "peers": "torch AdamW, fused"}
    table, measured = RateTable("training, real tokens", "k tokens", 1e3), dict[str, list[Summary]]()
    for group in QUICK_GROUPS if quick else GROUPS:
        if arguments.only and not any(each in group.name for each in arguments.only):
            continue
        say(f"{group.name} ...")
        peers = parts_of(course, group) if group.is_parts else peers_of(course, group)
        if quick:
            peers = [peer for peer in peers if peer.name in QUICK_PEERS]
        summaries = alternate(peers, arguments.rounds or (1 if quick else 3), say)
        measured[group.name] = summaries
        result["groups"][group.name] = as_json(summaries)
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
    parser.add_argument("--rounds", type=int, help="how often each peer runs (default: 3)")
    parser.add_argument("--seconds", type=float, default=10.0, help="that a run is timed, at least")
    parser.add_argument("--only", nargs="*", metavar="TEXT", help="groups with one of these in their name")
    parser.add_argument("--output", type=Path, help="file for the JSON document; a table goes beside it")
    return parser


def peers_of(course: Course, group: Group) -> list[Peer]:
    """In one process, or on several ranks; with bf16 those that matter most."""
    ours = [Peer("ours", course.ours(group), is_ours=True)]
    ours += [Peer("ours, under DeepSpeed", course.ours(group, backend="deepspeed"))]
    if group.ranks > 1:
        return [
            *ours,
            Peer("DDP by hand, lines", course.theirs(group, "ddp", "lines")),
            Peer("DDP by hand, concatenated", course.theirs(group, "ddp", "concatenated")),
            Peer("accelerate and DeepSpeed 2, lines", course.theirs(group, "accelerate", "lines")),
            Peer(
                "accelerate and DeepSpeed 2, concatenated", course.theirs(group, "accelerate", "concatenated")
            ),
        ]
    trainer = [
        Peer("HF Trainer, lines, padded", course.theirs(group, "trainer", "lines"), asked=ASKED),
        Peer("HF Trainer, pieces, padded", course.theirs(group, "trainer", "pieces")),
        Peer("HF Trainer, concatenated", course.theirs(group, "trainer", "concatenated")),
    ]
    if group.precision != "fp32":
        return [*ours[:1], *trainer]
    nsp = course.ours(group, settings=("data.objective=nsp",))
    whole_rows = course.theirs(group, "trainer", "lines", padding="max_length", rows=group.rows)
    by_length = course.theirs(group, "trainer", "lines", sampling="group_by_length")
    return [
        *ours,
        Peer("ours, sentence pairs", nsp),
        *trainer,
        Peer("HF Trainer, lines, padded to seq_len", whole_rows),
        Peer("HF Trainer, lines, grouped by length", by_length),
        Peer("accelerate and DeepSpeed 2, lines", course.theirs(group, "accelerate", "lines")),
    ]


def parts_of(course: Course, group: Group) -> list[Peer]:
    """Ours without a part, or with one more; what "ours is" says is what the part gives, or the inverse."""
    parts = ("masked-only head", "our optimizer", "background loader")
    return [
        Peer("ours", course.ours(group), is_ours=True),
        Peer("without packing", course.ours(group, settings=("data.packing=false",))),
        *(Peer(f"without {part}", course.ours(group, without=part)) for part in parts),
        Peer("with torch.compile", course.ours(group, settings=("train.compile=true",))),
        Peer("with AdamW", course.ours(group, settings=("optimizer.name=adamw",))),
        Peer("with no dropout", course.ours(group, settings=("model.dropout=0.0",))),
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
