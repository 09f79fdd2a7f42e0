"""The errors a user can cause or must act on, each with the exit code of the public contract.

0 done; 1 anything else; 2 usage or config; 3 data or checkpoint failed verification; 75 stopped by a signal
after saving, start me again. A message is one sentence: what, where (file, key, rank) and what to do.
"""


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
