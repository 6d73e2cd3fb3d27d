"""What went wrong, as problem documents (RFC 9457), and which of our errors is which of HTTP's."""

from __future__ import annotations

import logging
import re
import secrets
import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from orchestrator.api.encoding import Json
from orchestrator.drill import FaultError
from orchestrator.jobfile import JobFileError, Problem
from orchestrator.jobfile.problems import quoted
from orchestrator.orders import NotTaken, Refused
from orchestrator.store import errors

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 5
"""Seconds after which a client that was turned away may ask again."""

_SECRET = re.compile(r"muster_[A-Za-z0-9_-]{20,}")
_LOG = logging.getLogger("orchestrator.api")


class Refusal(Exception):
    """A request that is refused; `mistakes` are all that was found in it."""

    def __init__(
        self,
        status: int,
        detail: str,
        mistakes: Sequence[Problem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail)
        self.status, self.detail = status, detail
        self.mistakes, self.headers = tuple(mistakes), headers


STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (errors.NoSuchJob, 404),
    (errors.KeyReused, 409),
    (errors.Moved, 409),
    (errors.IllegalMove, 409),
    (errors.StoreError, 503),
    (Refused, 409),
    (NotTaken, 503),
    (FaultError, 422),
)
"""The first that fits; what is not among them is a bug, and 500."""


def document(status: int, detail: str, mistakes: Sequence[Problem] = ()) -> dict[str, Any]:
    """A problem document; `problems` only where there are mistakes to list."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **({"problems": [_mistake(one) for one in mistakes]} if mistakes else {}),
    }


class ProblemResponse(Json):
    """An answer that is a problem."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        status: int,
        detail: str,
        mistakes: Sequence[Problem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        later = {"Retry-After": str(RETRY_AFTER)} if status == 503 else {}
        super().__init__(document(status, detail, mistakes), status, {**later, **(headers or {})})


async def refused(_: Request, error: Exception) -> ProblemResponse:
    """The answer to one of the errors that are expected."""
    if isinstance(error, Refusal):
        return ProblemResponse(error.status, error.detail, error.mistakes, error.headers)
    if isinstance(error, JobFileError):
        return ProblemResponse(422, str(error), error.problems)
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        return ProblemResponse(error.status_code, _words(error), headers=error.headers)
    status = next(status for kind, status in STATUSES if isinstance(error, kind))
    return ProblemResponse(status, str(error))


EXPECTED: tuple[type[Exception], ...] = (
    Refusal,
    JobFileError,
    RequestValidationError,
    HTTPException,
    *(kind for kind, _ in STATUSES),
)


async def unexpected(_: Request, error: Exception) -> ProblemResponse:
    """The answer to a bug of ours: an id to find it by; what happened stands in the log alone."""
    number = secrets.token_hex(4)
    # Not the values of local variables, not the request: they may hold what is secret.
    told = "".join(traceback.format_exception(error))
    _LOG.error("error %s\n%s", number, _SECRET.sub("muster_…", told))
    return ProblemResponse(500, f"muster failed; its log tells more under error {number}")


def _words(error: HTTPException) -> str:
    if error.status_code == 404:
        return "there is nothing under this address; /openapi.json lists what there is"
    if error.status_code == 405:
        return "this method does not go with this address; /openapi.json lists what there is"
    if error.status_code == 400:
        return "the body is no JSON document that can be read: too deep, or not UTF-8"
    return str(error.detail)


def _invalid(error: RequestValidationError) -> ProblemResponse:
    mistakes = [_parameter(one) for one in error.errors()]
    return ProblemResponse(422, "\n".join(map(str, mistakes)), mistakes)


def _parameter(wrong: Mapping[str, Any]) -> Problem:
    """A mistake in a parameter or the body, as one of a job file is told."""
    value = wrong.get("input")
    shown = quoted(value) if isinstance(value, str) else f"a value of type {type(value).__name__}"
    if wrong["type"] == "missing":
        shown = "nothing"
    if wrong["type"] == "json_invalid":
        shown = f"no JSON document ({wrong.get('ctx', {}).get('error', '')})"
    path = ".".join(str(part) for part in wrong["loc"])[:200]
    return Problem(None, None, path, shown, str(wrong["msg"])[:500])


def _mistake(one: Problem) -> dict[str, Any]:
    return {
        "line": one.line,
        "column": one.column,
        "path": one.path,
        "found": one.found,
        "allowed": one.allowed,
        "hint": one.hint,
        "override": one.override,
    }
