"""The errors a user can cause or must act on, each with the exit code of the public contract.

0 done; 1 anything else; 2 usage or config; 3 data or checkpoint failed verification; 75 stopped by a signal
after saving, start me again. A message is one sentence: what, where (file, key, rank) and what to do.
"""

from collections.abc import Mapping
from typing import Any

_MAX_SHOWN_CHARACTERS = 80
_SAYS_WHAT_IS_EXPECTED = " should "


class PretrainError(Exception):
    """An error whose message is for the user; command lines print it without a traceback."""

    exit_code = 1


class UsageError(PretrainError):
    """The command line or the configuration is wrong."""

    exit_code = 2


class DataError(PretrainError):
    """A corpus, a token store or a checkpoint failed verification."""

    exit_code = 3


class StoppedBySignal(PretrainError):
    """The run was asked to stop, has saved its state and wants to be started again."""

    exit_code = 75


def error_of(exit_code: int, message: str) -> PretrainError:
    """The error that ends with this code; for one that another process met."""
    kinds = {kind.exit_code: kind for kind in (UsageError, DataError, StoppedBySignal)}
    return kinds.get(exit_code, PretrainError)(message)


def misfit(problem: Mapping[str, Any]) -> str:
    """What is wrong with a file's content: the key, what was expected, what was found.

    `problem`: an entry of `errors()` of pydantic's ValidationError.
    """
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f'the key "{key}" is missing'
    if problem["type"] == "extra_forbidden":
        return f'the key "{key}" is not known there'
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f'"{key}": {message}' if key else message
    found = f'"{key}" is {_shown(problem["input"])}' if key else f"it is {_shown(problem['input'])}"
    subject, _, expected = message.partition(_SAYS_WHAT_IS_EXPECTED)
    if not expected:
        return f"{found} ({message})"
    return f"{found}, where {'it' if subject == 'Input' else f'a {subject.lower()}'} should {expected}"


def _shown(value: object) -> str:
    """Short, whatever stands there."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a very large {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}..."
