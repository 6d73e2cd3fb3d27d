"""Talking to the controller from a command: where it is, and what its refusals mean."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from orchestrator.cli import (
    EXIT_FAILED,
    EXIT_NOT_ALLOWED,
    EXIT_NOT_FOUND,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
)
from orchestrator.cli.common import fail, tell
from orchestrator.client import BadAddress, Client, ClientError, NoToken, Problem, Unreachable

_F = TypeVar("_F", bound=Callable[..., Any])

PATIENT = 300.0
"""Seconds for which commands that watch go on without a controller: it is being restarted."""

_QUICK = 10.0

_STATUS_CODES = {
    400: EXIT_USAGE,
    401: EXIT_NOT_ALLOWED,
    403: EXIT_NOT_ALLOWED,
    404: EXIT_NOT_FOUND,
    413: EXIT_USAGE,
    422: EXIT_USAGE,
}


def controller(*, watching: bool = False) -> Client:
    """The controller that the environment names; what it has to say goes to stderr."""
    return Client.from_environment(patience=PATIENT if watching else _QUICK, told=tell)


def needs_controller(command: _F) -> _F:
    """Turns what goes wrong between client and controller into a sentence and an exit code."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except ClientError as error:
            fail(str(error), _code(error))

    return wrapped  # type: ignore[return-value]


def _code(error: ClientError) -> int:
    match error:
        case Unreachable():
            return EXIT_UNREACHABLE
        case NoToken():
            return EXIT_NOT_ALLOWED
        case BadAddress():
            return EXIT_USAGE
        case Problem(status=status):
            return _STATUS_CODES.get(status, EXIT_FAILED)
    return EXIT_FAILED
