"""What every request passes first: a token, a bounded body in a bounded time, a place.

It stands before routing, so it holds for unknown addresses and the description of the API too.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api.desk import CALLER, Limits
from orchestrator.api.problems import Refusal, refused, unexpected
from orchestrator.service.tokens import Doorkeeper, Token

_CLOSE = {"Connection": "close"}
_BEARER = b"bearer "


class Gate:
    """An ASGI application before another one."""

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper, limits: Limits) -> None:
        self._app, self._doorkeeper, self._limits = app, doorkeeper, limits
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._active += 1
        answer = _Answer(send)
        try:
            await self._admit(scope, receive, answer)
        except Exception as error:
            # What has begun to answer has been logged behind us already.
            if not answer.begun:
                told = refused if isinstance(error, Refusal) else unexpected
                await (await told(Request(scope), error))(scope, receive, send)
        finally:
            self._active -= 1

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._active > self._limits.requests:
            raise Refusal(503, f"{self._limits.requests} requests are under way already")
        scope[CALLER] = self._identify(scope)
        body = await self._body(scope, receive)
        await self._app(scope, _replaying(body, receive), send)

    def _identify(self, scope: Scope) -> Token:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) == 1 and given[0][: len(_BEARER)].lower() == _BEARER:
            text = given[0][len(_BEARER) :].strip().decode("latin-1")
            token = self._doorkeeper.who(text)
            if token is not None:
                return token
        what = "the token is not known here" if given else "a token is needed"
        detail = f"{what}: send the header `Authorization: Bearer TOKEN`; `muster tokens` has them"
        raise Refusal(401, detail, headers={"WWW-Authenticate": 'Bearer realm="muster"'})

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        most = self._limits.body_bytes
        too_large = Refusal(413, f"a body holds at most {most} bytes", headers=_CLOSE)
        for name, value in scope["headers"]:
            if name == b"content-length" and (len(value) > 15 or int(value) > most):
                raise too_large
        read = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "the client went away")
                    read += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(read) > most:
                        raise too_large
        except TimeoutError:
            detail = f"the body did not come within {self._limits.body_seconds:g} s"
            raise Refusal(408, detail, headers=_CLOSE) from None
        return bytes(read)


class _Answer:
    """Passes an answer on, and knows whether it has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def __call__(self, message: Message) -> None:
        self.begun = True
        await self._send(message)


def _replaying(body: bytes, receive: Receive) -> Receive:
    """A `receive` that first gives the body that was read already."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def gone(request: Request) -> None:
    """Returns when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
