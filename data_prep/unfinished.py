"""What is said of a build that could not end: what is kept of it, and what to do."""

import errno
import shutil
from pathlib import Path

from data_prep.journal import Journal
from data_prep.output import journal_path
from data_prep.tokenizer import StoreTokenizer
from pretrain.data.store import partial_path
from pretrain.errors import PretrainError, StoppedBySignal

_BYTES_PER_MB = 1e6
# Of tokenizer.json: an entry and its merge, and what SentencePiece says of the characters it normalizes.
_BYTES_PER_ENTRY = 100
_BYTES_BESIDES = 1_000_000


def is_disk_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(output: Path, error: OSError) -> PretrainError:
    """Says how much is there; what is needed still, as far as it can be known from what is done."""
    journal = Journal.load(journal_path(output))
    written = sum(file.stat().st_size for file in partial_path(output).rglob("*") if file.is_file())
    needed = "more is needed"
    if journal is not None and journal.bytes_done:
        rest = written * (journal.bytes_total / journal.bytes_done - 1)
        needed = f"about {_megabytes(max(0.0, rest))} more are needed"
    again = "start again with --resume"
    if journal is None:
        again = "start the same command again, from the beginning, for nothing could be kept"
    return _no_room(
        error.filename or output,
        output,
        f"({error.strerror}): {_megabytes(written)} of the store are written, {needed}",
        again,
    )


def machine_error(output: Path, error: OSError) -> PretrainError:
    """Of a file that could be read or written before: the error may be over later."""
    again = "start again with --resume: what is built so far is kept"
    if not journal_path(output).exists():
        again = "start the same command again, from the beginning, for nothing could be kept"
    return PretrainError(
        f"{error.filename or output}: {error.strerror or error}; when that is mended, {again}."
    )


def tokenizer_not_saved(output: Path, tokenizer: StoreTokenizer, error: OSError) -> PretrainError:
    """Says what there is no room for; one that was trained is lost."""
    again = "start the same command again"
    if tokenizer.trained_on_characters:
        again += ", which trains the tokenizer anew, for it could not be kept"
    needed = _megabytes(len(tokenizer.json_bytes))
    return _no_room(
        error.filename or output, output, f"({error.strerror}): the tokenizer needs {needed}", again
    )


def check_room_for_tokenizer(output: Path, vocab_size: int) -> None:
    """Before minutes of training: raises PretrainError where what they give could not be saved."""
    num_bytes = vocab_size * _BYTES_PER_ENTRY + _BYTES_BESIDES
    if shutil.disk_usage(output.parent).free < num_bytes:
        needed = f"before the tokenizer is trained: it may need {_megabytes(num_bytes)}"
        raise _no_room(output, output, needed, "start the same command again")


def stopped(output: Path, signal_name: str) -> StoppedBySignal:
    """Says what `--resume` can go on from."""
    journal = Journal.load(journal_path(output))
    if journal is None:
        return nothing_kept(signal_name)
    kept = "the tokenizer is kept, no text is written yet"
    if journal.bytes_done:
        of_all = f" of {_megabytes(journal.bytes_total)}" if journal.bytes_total else ""
        kept = f"what was made of {_megabytes(journal.bytes_done)}{of_all} of input is kept"
    return StoppedBySignal(
        f"--output {output}: stopped by {signal_name}; {kept}. Start the same command again with --resume to go on."
    )


def nothing_kept(signal_name: str) -> StoppedBySignal:
    return StoppedBySignal(f"stopped by {signal_name}; nothing was kept, start the same command again.")


def _no_room(where: str | Path, output: Path, what: str, again: str) -> PretrainError:
    free = _megabytes(shutil.disk_usage(output.parent).free)
    return PretrainError(f"{where}: the disk is full {what}, {free} are free. Make room and {again}.")


def _megabytes(num_bytes: float) -> str:
    return f"{num_bytes / _BYTES_PER_MB:,.1f} MB"
