"""`muster tokens`: who may talk to the controller of this machine. Asks nobody."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime
from typing import NoReturn, TypeVar

import click

from orchestrator.cli import EXIT_FAILED, EXIT_NOT_FOUND
from orchestrator.cli.columns import columns
from orchestrator.cli.common import fail, json_option, print_json, tell
from orchestrator.layout import Home
from orchestrator.service.tokens import NoSuchToken, Role, TokenError, Tokens

_T = TypeVar("_T")


@click.group(invoke_without_command=True)
@click.pass_context
def tokens(context: click.Context) -> None:
    """Tell who may talk to the controller of this machine; without a command: list."""
    if context.invoked_subcommand is None:
        context.invoke(list_tokens, as_json=False)


@tokens.command("list")
@json_option
def list_tokens(as_json: bool) -> None:
    """List tokens by name; of their texts only digests are kept."""
    known = _or_say_why(_tokens().list)
    if as_json:
        rows = [
            {"name": one.name, "role": one.role.value, "created_at": one.created_at}
            for one in known
        ]
        print_json({"schema": 1, "observed_at": time.time(), "tokens": rows})
        return
    if not known:
        click.echo("no tokens yet: the first `muster up` makes yours")
        return
    rows_shown = [(one.name, one.role.value, _local(one.created_at)) for one in known]
    click.echo("\n".join(columns(("NAME", "ROLE", "SINCE"), rows_shown)))


@tokens.command()
@click.argument("name")
@click.option(
    "--role",
    required=True,
    type=click.Choice([role.value for role in Role]),
    help="What it may: read; submit and order its own jobs; everything.",
)
@json_option
def add(name: str, role: str, as_json: bool) -> None:
    """Make a token for NAME, the user of what is submitted with it, and print it this once.

    Whoever may submit starts commands as you: such a token is worth your shell account.
    """
    text = _or_say_why(lambda: _tokens().add(name, Role(role)))
    if as_json:
        print_json({"schema": 1, "name": name, "role": role, "token": text})
        return
    click.echo(text)
    tell("it is kept nowhere. Its bearer sets MUSTER_URL, and MUSTER_TOKEN or MUSTER_TOKEN_FILE")


@tokens.command()
@click.argument("name")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Have the token of NAME open nothing any more, from the next request on."""
    _or_say_why(lambda: _tokens().remove(name))
    if as_json:
        print_json({"schema": 1, "removed": name})
    else:
        click.echo(f"the token {name} opens nothing any more")


def _tokens() -> Tokens:
    return Tokens(Home.of(os.environ))


def _or_say_why(do: Callable[[], _T]) -> _T:
    try:
        return do()
    except NoSuchToken as error:
        fail(str(error), EXIT_NOT_FOUND)
    except TokenError as error:
        fail(str(error))
    except OSError as error:
        _cannot(error)


def _cannot(error: OSError) -> NoReturn:
    fail(f"{error.filename}: {error.strerror}", EXIT_FAILED)


def _local(at: float) -> str:
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M}"
