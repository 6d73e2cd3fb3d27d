"""`muster completion`: the completion script of a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from orchestrator.cli.common import fail


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script for SHELL, e.g. eval "$(muster completion bash)"."""
    from orchestrator.cli import main

    kind = get_completion_class(shell)
    if kind is None:
        fail(f"no completion for {shell}")
    click.echo(kind(main, {}, "muster", "_MUSTER_COMPLETE").source())
