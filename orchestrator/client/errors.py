"""What can go wrong between a client and its controller."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

_SHOWN = 300


class ClientError(RuntimeError):
    """The call did not do what was asked; the message says why and what helps."""


class BadAddress(ClientError):
    """What should say where the controller is cannot be understood."""


class NoToken(ClientError):
    """There is a controller, and no token to show it."""


class Unreachable(ClientError):
    """No controller answers.

    `sent`: the request may have been carried out all the same. `hopeless`: there is no sign that
    one has been there or is coming, so trying again is of no use.
    """

    def __init__(self, message: str, *, sent: bool = False, hopeless: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.hopeless = hopeless


class Problem(ClientError):
    """The controller refused. `problems` has an entry for each mistake of a job file."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str = "",
        problems: tuple[Mapping[str, Any], ...] = (),
        *,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, title, detail, problems)
        self.status = status
        self.title = title
        self.detail = detail
        self.problems = problems
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.detail or self.title

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], body: bytes) -> Problem:
        """The problem in an answer, whoever wrote it: a proxy need not know problem documents."""
        document = _mapping(body)
        problems = document.get("problems")
        title = document.get("title")
        detail = document.get("detail")
        return cls(
            status,
            title if isinstance(title, str) and title else _phrase(status),
            detail if isinstance(detail, str) else _beginning(body),
            tuple(entry for entry in problems if isinstance(entry, Mapping))
            if isinstance(problems, list)
            else (),
            retry_after=_seconds(headers.get("Retry-After")),
        )


def _mapping(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _beginning(body: bytes) -> str:
    text = " ".join(body[:_SHOWN].decode(errors="replace").split())
    return "" if text.startswith(("{", "<")) else text


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"HTTP status {status}"


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
