"""The commands around a run: `python -m pretrain COMMAND ...`.

A command is a module of this room with a `Command` in it, and a place in `COMMANDS`; nothing else knows it by name.
What it finds wrong it raises, and `main` says it and gives the exit code of the public contract.
"""

from pretrain.command import doctor, export, faults, log, plan, report, verify
from pretrain.command.line import Command, run

COMMANDS: tuple[Command, ...] = (
    plan.COMMAND,
    doctor.COMMAND,
    verify.COMMAND,
    export.COMMAND,
    report.COMMAND,
    log.COMMAND,
    faults.COMMAND,
)


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code of the public contract."""
    return run(COMMANDS, argv)
