"""The arguments of each command (what they stand for is found in `choices`)."""

import argparse
import re
from pathlib import Path
from typing import Any, NoReturn, get_args

from data_prep.build import SAVE_SECONDS
from data_prep.options import (
    DEFAULT_BLOCK_TOKENS,
    DEFAULT_HELDOUT,
    DEFAULT_SEGMENT_BYTES,
    DEFAULT_SHARD_TOKENS,
    DEFAULT_VOCAB_SIZE,
    DEMO_BYTES,
    DEMO_HELDOUT,
    DEMO_VOCAB_SIZE,
    TOKENIZER_SAMPLE_BYTES,
    BadText,
    Format,
    Grouping,
    SentenceMethod,
    TokenizerKind,
)
from data_prep.workers import available_cpus
from pretrain.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Takes options by their whole names, and leaves it to `main` to say what is wrong."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)
        # `--part -1/3` gives --part a value, a wrong one; no option of ours begins with a digit.
        self._negative_number_matcher = re.compile(r"-\d")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; `{self.prog} --help` lists what there is.")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m data_prep", description="Turn text into a token store, check it and look into it."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="build a token store from text")
    _add_input(build)
    build.add_argument("--output", required=True, type=_path, metavar="STORE", help="folder to be made")
    _add_tokenizer(build)
    _add_build(build)

    tokenizer = commands.add_parser("tokenizer", help="train a tokenizer alone")
    _add_input(tokenizer)
    tokenizer.add_argument("--output", required=True, type=_path, metavar="DIR", help="folder to be made")
    _add_training(tokenizer)
    _add_workers(tokenizer)

    verify = commands.add_parser("verify", help="check a store: exit code 3 and each bad file's name")
    verify.add_argument("store", type=_path)
    verify.add_argument("--quick", action="store_true", help="sizes, tokenizer and block tables only")
    _add_workers(verify)

    merge = commands.add_parser("merge", help="make one store of the parts of a build with --part")
    merge.add_argument("store", type=_path, help="the --output of the parts")
    merge.add_argument("--if-complete", action="store_true", help="do nothing while parts are missing")

    _add_inspect(
        commands.add_parser("inspect", help="counts, lengths, duplicates, packing, and samples as text")
    )
    _add_megatron(
        commands.add_parser("import-megatron", help="make a store of Megatron-LM's indexed datasets")
    )
    return parser


def _path(text: str) -> Path:
    if not text:  # an unset variable of a shell script: Path("") would be the current folder
        raise argparse.ArgumentTypeError("it is empty; give a path")
    return Path(text)


def _add_input(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input")
    group.add_argument("--input", nargs="+", default=[], metavar="PATH", help="files, folders or patterns")
    group.add_argument("--hub", metavar="NAME", help="a dataset of the Hugging Face Hub instead")
    group.add_argument("--hub-config", metavar="NAME", help="its configuration, where it has several")
    group.add_argument("--hub-split", metavar="NAME", help="its split (default train)")
    group.add_argument("--hub-revision", metavar="REVISION", help="its version: a commit, a tag or a branch")
    group.add_argument(
        "--demo", action="store_true", help="the documentation of the installed Python packages instead"
    )
    group.add_argument(
        "--demo-bytes",
        type=int,
        metavar="N",
        help=f"at most so much (default {DEMO_BYTES:,})",
    )
    group.add_argument(
        "--format",
        choices=get_args(Format),
        default="auto",
        help="auto (by suffix, the default), or the format of all files; .gz, .zst, .xz and .bz2 are understood",
    )
    group.add_argument(
        "--documents",
        choices=get_args(Grouping),
        default="blank-line",
        help="what separates documents in plain text (default: blank lines)",
    )
    group.add_argument(
        "--text-column", metavar="NAME", help='of the text (default "text", else the only column of strings)'
    )
    group.add_argument(
        "--segment-bytes",
        type=int,
        default=DEFAULT_SEGMENT_BYTES,
        metavar="N",
        help=f"input in the unit that --part shares out (default {DEFAULT_SEGMENT_BYTES:,})",
    )
    group.add_argument(
        "--on-bad-text",
        choices=get_args(BadText),
        default="error",
        help="invalid UTF-8: stop (default), replace the bytes, or skip the document",
    )


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="an existing Hugging Face tokenizer folder, or a sentencepiece .model",
    )
    _add_training(parser)


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training a tokenizer")
    group.add_argument(
        "--train-tokenizer", choices=get_args(TokenizerKind), help="its kind (default wordpiece)"
    )
    group.add_argument(
        "--vocab-size",
        type=int,
        metavar="N",
        help=f"default {DEFAULT_VOCAB_SIZE}, for the demo corpus {DEMO_VOCAB_SIZE}",
    )
    case = group.add_mutually_exclusive_group()
    case.add_argument(
        "--lowercase", action="store_true", default=None, help="ignore case (the default of wordpiece)"
    )
    case.add_argument(
        "--cased", action="store_false", dest="lowercase", help="keep case and accents (that of the others)"
    )
    group.add_argument(
        "--tokenizer-sample-bytes",
        type=int,
        metavar="N",
        help=f"text to train it on (default {TOKENIZER_SAMPLE_BYTES:,})",
    )


def _add_build(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the store")
    group.add_argument(
        "--sentences", choices=get_args(SentenceMethod), default="sentencex", help="or one sentence per line"
    )
    group.add_argument("--language", metavar="CODE", help="of the sentences, as a code such as en (default)")
    group.add_argument(
        "--heldout",
        type=float,
        metavar="SHARE",
        help=f"of documents, for validation (default {DEFAULT_HELDOUT}, for the demo corpus {DEMO_HELDOUT})",
    )
    group.add_argument("--shard-tokens", type=int, default=DEFAULT_SHARD_TOKENS, metavar="N")
    group.add_argument("--block-tokens", type=int, metavar="N", help="the unit of shuffling")
    group.add_argument("--part", metavar="I/N", help="build only this part; `merge` makes one store of all N")
    group.add_argument(
        "--resume", action="store_true", help="go on where a killed build ended; accept a finished store"
    )
    group.add_argument(
        "--save-every",
        type=float,
        default=SAVE_SECONDS,
        metavar="SECONDS",
        help=f"between two states that --resume can go on from (default {SAVE_SECONDS:.0f})",
    )
    group.add_argument(
        "--timings", type=_path, metavar="FILE", help="write how long each stage took, as JSON"
    )
    group.add_argument("--overwrite", action="store_true", help="replace a store that lies at --output")
    _add_workers(parser)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=int, default=available_cpus(), metavar="N", help="processes (default: all CPUs)"
    )


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=_path)
    parser.add_argument("--samples", type=int, default=3, metavar="N", help="samples to show (default 3)")
    parser.add_argument(
        "--seq-len", type=int, default=128, metavar="N", help="tokens of their rows (default 128)"
    )
    parser.add_argument(
        "--objective",
        metavar="NAME",
        help="nsp (the default), sop or mlm (the default for a single document)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the run whose first samples these are"
    )
    parser.add_argument("--all", action="store_true", help="read all blocks, not some of them")
    parser.add_argument("--json", action="store_true", help="the same figures as JSON")


def _add_megatron(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PREFIX",
        help="paths of .idx and .bin, without these endings",
    )
    parser.add_argument("--output", required=True, type=_path, metavar="STORE", help="folder to be made")
    parser.add_argument(
        "--tokenizer", required=True, metavar="PATH", help="the one the datasets were made with"
    )
    parser.add_argument("--eod-id", type=int, metavar="N", help="end of document, if no special token of it")
    parser.add_argument(
        "--heldout", type=float, default=DEFAULT_HELDOUT, metavar="SHARE", help="of documents"
    )
    parser.add_argument("--block-tokens", type=int, default=DEFAULT_BLOCK_TOKENS, metavar="N")
    parser.add_argument("--shard-tokens", type=int, default=DEFAULT_SHARD_TOKENS, metavar="N")
    parser.add_argument("--overwrite", action="store_true", help="replace a store that lies at --output")
