"""The arguments of each command, and the options they stand for."""

import argparse
from pathlib import Path
from typing import get_args

from data_prep.options import (
    DEFAULT_BLOCK_TOKENS,
    DEFAULT_HELDOUT,
    DEFAULT_SHARD_TOKENS,
    DEFAULT_VOCAB_SIZE,
    DEMO_BLOCK_TOKENS,
    DEMO_BYTES,
    DEMO_HELDOUT,
    DEMO_VOCAB_SIZE,
    TOKENIZER_SAMPLE_BYTES,
    BadText,
    BuildOptions,
    Format,
    Grouping,
    InputOptions,
    SentenceMethod,
    TokenizerOptions,
)
from data_prep.workers import available_cpus
from pretrain.errors import UsageError


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep", description="Turn text into a token store, check it and look into it."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="build a token store from text")
    _add_input(build)
    build.add_argument("--output", required=True, type=Path, metavar="STORE", help="folder to be made")
    _add_tokenizer(build)
    _add_build(build)

    tokenizer = commands.add_parser("tokenizer", help="train a tokenizer alone")
    _add_input(tokenizer)
    tokenizer.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to be made")
    _add_training(tokenizer)
    _add_workers(tokenizer)

    verify = commands.add_parser("verify", help="check a store: exit code 3 and each bad file's name")
    verify.add_argument("store", type=Path)
    verify.add_argument("--quick", action="store_true", help="sizes, tokenizer and block tables only")
    _add_workers(verify)

    inspect = commands.add_parser("inspect", help="counts, lengths and some sentences of a store")
    inspect.add_argument("store", type=Path)
    inspect.add_argument(
        "--sentences", type=int, default=5, metavar="N", help="sentences to show (default 5)"
    )
    return parser


def build_options(arguments: argparse.Namespace) -> BuildOptions:
    """Raises UsageError for arguments that contradict each other."""
    if arguments.tokenizer is not None and (arguments.train_tokenizer or arguments.vocab_size):
        raise UsageError("--tokenizer takes an existing tokenizer; drop --train-tokenizer and --vocab-size.")
    default_block = DEMO_BLOCK_TOKENS if arguments.demo else DEFAULT_BLOCK_TOKENS
    default_heldout = DEMO_HELDOUT if arguments.demo else DEFAULT_HELDOUT
    return BuildOptions(
        input=input_options(arguments),
        tokenizer=tokenizer_options(arguments),
        sentences=arguments.sentences,
        language=arguments.language,
        heldout=default_heldout if arguments.heldout is None else arguments.heldout,
        block_tokens=default_block if arguments.block_tokens is None else arguments.block_tokens,
        shard_tokens=arguments.shard_tokens,
    )


def input_options(arguments: argparse.Namespace) -> InputOptions:
    return InputOptions(
        paths=tuple(arguments.input),
        demo=arguments.demo,
        demo_bytes=arguments.demo_bytes,
        format=arguments.format,
        documents=arguments.documents,
        text_column=arguments.text_column,
        on_bad_text=arguments.on_bad_text,
    )


def tokenizer_options(arguments: argparse.Namespace) -> TokenizerOptions:
    default_size = DEMO_VOCAB_SIZE if arguments.demo else DEFAULT_VOCAB_SIZE
    return TokenizerOptions(
        path=getattr(arguments, "tokenizer", None),
        vocab_size=default_size if arguments.vocab_size is None else arguments.vocab_size,
        lowercase=arguments.lowercase,
        sample_bytes=arguments.tokenizer_sample_bytes,
    )


def _add_input(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input")
    group.add_argument("--input", nargs="+", default=[], metavar="PATH", help="files, folders or patterns")
    group.add_argument(
        "--demo", action="store_true", help="the documentation of the installed Python packages instead"
    )
    group.add_argument(
        "--demo-bytes",
        type=int,
        default=DEMO_BYTES,
        metavar="N",
        help=f"at most so much (default {DEMO_BYTES:,})",
    )
    group.add_argument(
        "--format",
        choices=get_args(Format),
        default="auto",
        help="auto (by suffix, the default), text or jsonl",
    )
    group.add_argument(
        "--documents",
        choices=get_args(Grouping),
        default="blank-line",
        help="what separates documents in plain text (default: blank lines)",
    )
    group.add_argument("--text-column", default="text", metavar="KEY", help="key of the text in JSON Lines")
    group.add_argument(
        "--on-bad-text",
        choices=get_args(BadText),
        default="error",
        help="invalid UTF-8: stop (default), replace the bytes, or skip the document",
    )


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokenizer", metavar="PATH", help="an existing Hugging Face tokenizer folder")
    _add_training(parser)


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training a tokenizer")
    group.add_argument("--train-tokenizer", choices=["wordpiece"], help="its kind (default wordpiece)")
    group.add_argument(
        "--vocab-size",
        type=int,
        metavar="N",
        help=f"default {DEFAULT_VOCAB_SIZE}, for the demo corpus {DEMO_VOCAB_SIZE}",
    )
    case = group.add_mutually_exclusive_group()
    case.add_argument("--lowercase", action="store_true", default=True, help="the default")
    case.add_argument("--cased", action="store_false", dest="lowercase", help="keep case and accents")
    group.add_argument(
        "--tokenizer-sample-bytes",
        type=int,
        default=TOKENIZER_SAMPLE_BYTES,
        metavar="N",
        help=f"text to train it on (default {TOKENIZER_SAMPLE_BYTES:,})",
    )


def _add_build(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the store")
    group.add_argument(
        "--sentences", choices=get_args(SentenceMethod), default="sentencex", help="or one sentence per line"
    )
    group.add_argument("--language", default="en", help="of the sentences, as a code such as en (default)")
    group.add_argument(
        "--heldout",
        type=float,
        metavar="SHARE",
        help=f"of documents, for validation (default {DEFAULT_HELDOUT}, for the demo corpus {DEMO_HELDOUT})",
    )
    group.add_argument("--shard-tokens", type=int, default=DEFAULT_SHARD_TOKENS, metavar="N")
    group.add_argument("--block-tokens", type=int, metavar="N", help="the unit of shuffling")
    group.add_argument(
        "--resume", action="store_true", help="accept a finished store of equal options, else build it anew"
    )
    group.add_argument("--overwrite", action="store_true", help="replace a store that lies at --output")
    _add_workers(parser)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=int, default=available_cpus(), metavar="N", help="processes (default: all CPUs)"
    )
