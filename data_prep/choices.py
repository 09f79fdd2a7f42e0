"""From the arguments of a command to its options: defaults filled in, what contradicts or would be ignored refused."""

import argparse

from data_prep.options import (
    DEFAULT_BLOCK_TOKENS,
    DEFAULT_HELDOUT,
    DEFAULT_VOCAB_SIZE,
    DEMO_BLOCK_TOKENS,
    DEMO_BYTES,
    DEMO_HELDOUT,
    DEMO_VOCAB_SIZE,
    TOKENIZER_SAMPLE_BYTES,
    BuildOptions,
    InputOptions,
    TokenizerOptions,
)
from data_prep.workers import available_cpus
from pretrain.errors import UsageError

# Each worker may take a GiB: more of them than CPUs gain nothing, and far more are a slip of the keyboard.
_WORKERS_PER_CPU = 4
_ALWAYS_ALLOWED_WORKERS = 16


def build_options(arguments: argparse.Namespace) -> BuildOptions:
    """Raises UsageError for arguments that contradict each other."""
    if arguments.tokenizer is not None:
        _refuse_ignored(
            "--tokenizer takes an existing tokenizer, whose vocabulary and case are what they are",
            {
                "--train-tokenizer": arguments.train_tokenizer,
                "--vocab-size": arguments.vocab_size,
                "--lowercase": arguments.lowercase or None,
                "--cased": True if arguments.lowercase is False else None,
                "--tokenizer-sample-bytes": arguments.tokenizer_sample_bytes,
            },
        )
    if arguments.sentences == "line":
        _refuse_ignored("--sentences line takes each line for a sentence", {"--language": arguments.language})
    default_block = DEMO_BLOCK_TOKENS if arguments.demo else DEFAULT_BLOCK_TOKENS
    default_heldout = DEMO_HELDOUT if arguments.demo else DEFAULT_HELDOUT
    return BuildOptions(
        input=input_options(arguments),
        tokenizer=tokenizer_options(arguments),
        sentences=arguments.sentences,
        language="en" if arguments.language is None else arguments.language,
        heldout=default_heldout if arguments.heldout is None else arguments.heldout,
        block_tokens=default_block if arguments.block_tokens is None else arguments.block_tokens,
        shard_tokens=arguments.shard_tokens,
    )


def input_options(arguments: argparse.Namespace) -> InputOptions:
    """Raises UsageError for arguments that would be ignored."""
    if arguments.hub is None:
        of_hub = {
            f"--hub-{name}": getattr(arguments, f"hub_{name}") for name in ("config", "split", "revision")
        }
        _refuse_ignored("There is no --hub NAME", of_hub)
    if not arguments.demo:
        _refuse_ignored("There is no --demo", {"--demo-bytes": arguments.demo_bytes})
    return InputOptions(
        paths=tuple(arguments.input),
        hub=arguments.hub,
        hub_config=arguments.hub_config,
        hub_split="train" if arguments.hub_split is None else arguments.hub_split,
        hub_revision=arguments.hub_revision,
        demo=arguments.demo,
        demo_bytes=DEMO_BYTES if arguments.demo_bytes is None else arguments.demo_bytes,
        format=arguments.format,
        documents=arguments.documents,
        text_column=arguments.text_column,
        on_bad_text=arguments.on_bad_text,
        segment_bytes=arguments.segment_bytes,
    )


def tokenizer_options(arguments: argparse.Namespace) -> TokenizerOptions:
    default_size = DEMO_VOCAB_SIZE if arguments.demo else DEFAULT_VOCAB_SIZE
    return TokenizerOptions(
        path=getattr(arguments, "tokenizer", None),
        vocab_size=default_size if arguments.vocab_size is None else arguments.vocab_size,
        train=arguments.train_tokenizer or "wordpiece",
        lowercase=arguments.lowercase,
        sample_bytes=TOKENIZER_SAMPLE_BYTES
        if arguments.tokenizer_sample_bytes is None
        else arguments.tokenizer_sample_bytes,
    )


def _refuse_ignored(why: str, given: dict[str, object]) -> None:
    """Raises UsageError naming the options that have a value, where nothing would heed it."""
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise UsageError(f"{why}; drop {' and '.join(names)}.")


def check_workers(count: int) -> None:
    """Raises UsageError for --workers that no machine like this one can have been meant."""
    if count < 1:
        raise UsageError(f"--workers is {count}; it must be at least 1.")
    cpus = available_cpus()
    most = max(_ALWAYS_ALLOWED_WORKERS, _WORKERS_PER_CPU * cpus)
    if count > most:
        raise UsageError(
            f"--workers is {count:,}, and there are {cpus} CPU(s) for it; use {cpus}, or {most} at the most."
        )
