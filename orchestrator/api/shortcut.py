"""Submissions past the framework, whose layers cost more than a job does: they come in thousands.

The framework describes the operation all the same, and would answer alike: one handler, one model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.api.desk import caller
from orchestrator.api.operations import Operation
from orchestrator.api.problems import EXPECTED, Refusal, refused
from orchestrator.api.schemas import KEY, LONGEST_KEY, JobText
from orchestrator.service.tokens import Role, Token

_KEY = re.compile(KEY)


def expect(role: Role, who: Token) -> None:
    """Raises Refusal where `who` may not do what needs the role."""
    if not who.role.covers(role):
        raise Refusal(403, f"this needs the role {role.value}; {who.name} has {who.role.value}")


class Shortcut:
    """An ASGI application that answers one operation itself, and leaves the rest to another."""

    def __init__(self, app: ASGIApp, submit: Operation) -> None:
        self._app, self._submit = app, submit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = self._submit.path, self._submit.method
        if scope["type"] != "http" or (scope["path"], scope["method"]) != ours:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            answer = await self._answer(request)
        except EXPECTED as error:
            answer = await refused(request, error)
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        expect(self._submit.role, caller(request))
        key = request.headers.get("idempotency-key")
        wrong = _wrong_headers(key, request.headers.get("content-type", ""))
        try:
            body = JobText.model_validate_json(await request.body())
        except ValidationError as error:
            wrong += [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        if wrong:
            raise RequestValidationError(wrong)
        answer: Response = await self._submit.handler(body, request, key)
        return answer


def _wrong_headers(key: str | None, content_type: str) -> list[Mapping[str, Any]]:
    wrong: list[Mapping[str, Any]] = []
    if key is not None and (len(key) > LONGEST_KEY or not _KEY.fullmatch(key)):
        message = f"1 to {LONGEST_KEY} characters of ASCII that can be printed"
        wrong.append(_mistake("idempotency-key", key, message))
    if content_type.partition(";")[0].strip().lower() != "application/json":
        wrong.append(_mistake("content-type", content_type, "application/json"))
    return wrong


def _mistake(header: str, found: str, allowed: str) -> Mapping[str, Any]:
    return {"type": "header", "loc": ("header", header), "msg": allowed, "input": found}
