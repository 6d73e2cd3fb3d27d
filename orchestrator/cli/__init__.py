"""The command line: `muster`. Each command's module is imported when the command is used."""

from __future__ import annotations

import importlib

import click

from orchestrator import __version__

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3

_COMMANDS = {
    "run": ("orchestrator.cli.run", "Run a job here, watch it, and bring it back when it fails."),
    "resume": ("orchestrator.cli.run", "Continue a run from its newest checkpoint that verifies."),
    "plan": ("orchestrator.cli.plan", "Show what a job would start, and start nothing."),
    "devices": ("orchestrator.cli.devices", "Show this node's devices and how they are."),
    "status": ("orchestrator.cli.read", "Show where a run stands, rank by rank."),
    "logs": ("orchestrator.cli.read", "Print what the ranks wrote."),
    "events": ("orchestrator.cli.read", "List what happened and what was decided."),
    "incidents": ("orchestrator.cli.read", "List failures: cause, cost, and the way back."),
    "checkpoints": ("orchestrator.cli.read", "List a run's checkpoints, or verify them."),
    "drill": ("orchestrator.cli.drill", "Break a running job on purpose."),
    "rank-table": (
        "orchestrator.cli.rank_table",
        "Make, check, merge and compare Ascend rank tables.",
    ),
    "completion": ("orchestrator.cli.completion", "Print a shell's completion script."),
}
"""Name → module and help line, kept here so that `--help` imports none of them."""

_LATER = {
    "up": "the controller as a service",
    "down": "the controller as a service",
    "submit": "the controller as a service",
    "ps": "the controller as a service",
    "wait": "the controller as a service",
    "cancel": "the controller as a service",
    "hold": "the controller as a service",
    "release": "the controller as a service",
    "explain": "the full account of decisions; `incidents` and `events` have the facts today",
}
"""Commands that are planned and not built: they say so instead of being unknown."""


class _LazyGroup(click.Group):
    """A group whose help needs no command's module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _LATER:
            return _later(cmd_name)
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])
        with formatter.section("Later"):
            formatter.write_text(", ".join(_LATER))


def _later(name: str) -> click.Command:
    @click.command(
        name,
        hidden=True,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        add_help_option=False,
    )
    def refuse() -> None:
        click.echo(f"muster {name} is not built yet: it comes with {_LATER[name]}.", err=True)
        raise SystemExit(EXIT_USAGE)

    return refuse


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="muster")
def main() -> None:
    """Run distributed MindSpore jobs, watch every rank, resume failed runs.

    Start here: muster run jobs/rehearsal_8p_cpu.yaml
    """
