"""The command line: `muster`. Each command's module is imported when the command is used."""

from __future__ import annotations

import importlib
from typing import Any

import click

from orchestrator import __version__, interrupts

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_UNREACHABLE = 4
EXIT_NOT_ALLOWED = 5
EXIT_PREEMPTED = 75
EXIT_INTERRUPTED = interrupts.EXIT_INTERRUPTED

_SECTIONS = {
    "On this machine": {
        "run": ("run", "Run a job here, watch it, and bring it back when it fails."),
        "plan": ("plan", "Show what a job would start, and start nothing."),
        "devices": ("devices", "Show this node's devices and how they are."),
        "rank-table": ("rank_table", "Make, check, merge and compare Ascend rank tables."),
    },
    "Through the controller": {
        "up": ("service", "Start the controller, which queues jobs and outlives everything."),
        "submit": ("jobs", "Hand a job to the controller."),
        "ps": ("jobs", "List the controller's jobs, and why each waiting one waits."),
        "hold": ("jobs", "Keep a job from running until it is released."),
        "release": ("jobs", "Let a held job go on."),
        "cancel": ("jobs", "Stop a job for good, or take it out of the queue."),
        "down": ("service", "End the controller; its ranks too, unless they are to go on."),
        "tokens": ("tokens", "List, add and remove what the controller is shown."),
    },
    "A job, by its id or its run directory": {
        "status": ("read", "Show where it stands, rank by rank."),
        "wait": ("jobs", "Wait until it has ended; exit code 0 if it succeeded."),
        "logs": ("read", "Print what the ranks wrote."),
        "events": ("read", "List what happened and what was decided."),
        "incidents": ("read", "List failures: cause, cost, and the way back."),
        "explain": ("explain", "Say why it did what it did after a failure."),
        "report": ("explain", "Write an account of it as one HTML page."),
        "checkpoints": ("read", "List its checkpoints, or verify them."),
        "resume": ("run", "Continue from its newest checkpoint that verifies."),
        "drill": ("drill", "Break it on purpose while it runs."),
    },
    "This command line": {
        "completion": ("completion", "Print a shell's completion script."),
    },
}
"""Name → module and help line, kept here so that `--help` imports none of them."""

_COMMANDS = {name: entry for section in _SECTIONS.values() for name, entry in section.items()}


class _LazyGroup(click.Group):
    """A group whose help needs no command's module."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. click alone would end an interrupted one as "Aborted!", with code 1."""
        with interrupts.in_order():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"orchestrator.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, line) in commands.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="muster")
def main() -> None:
    """Run distributed MindSpore jobs, watch every rank, resume failed runs.

    \b
    Start here:    muster run jobs/rehearsal_8p_cpu.yaml
    With a queue:  muster up, then muster submit FILE
    """
