"""The operations as an ASGI application that describes itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from orchestrator import __version__
from orchestrator.api.desk import Desk, caller
from orchestrator.api.gate import Gate
from orchestrator.api.operations import SERVER_SENT, Operation, operations
from orchestrator.api.problems import EXPECTED, MEDIA_TYPE, refused, unexpected
from orchestrator.api.schemas import ProblemDocument
from orchestrator.api.shortcut import Shortcut, expect
from orchestrator.service.tokens import Doorkeeper, Role

_ABOUT = """Every request carries `Authorization: Bearer TOKEN`, this document's too. Errors are
`application/problem+json`. A token that may submit is worth the shell account of the head's user.
"""


def create_app(desk: Desk, doorkeeper: Doorkeeper) -> ASGIApp:
    """The whole API, with the gate before it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        desk.watchers.open()
        yield
        desk.watchers.close()

    app = FastAPI(
        title="muster",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,  # they load scripts from elsewhere, and no browser sends a token
        redoc_url=None,
        redirect_slashes=False,
    )
    table = operations(desk)
    for operation in table:
        _add(app, operation)
    for kind in EXPECTED:
        app.add_exception_handler(kind, refused)
    app.add_exception_handler(Exception, unexpected)
    _complete_description(app, table)
    (submit,) = (operation for operation in table if operation.name == "submit")
    return Gate(Shortcut(app, submit), doorkeeper, desk.limits)


def _add(app: FastAPI, operation: Operation) -> None:
    app.router.route_class = _guarded(operation.role)
    app.add_api_route(
        operation.path,
        operation.handler,
        methods=[operation.method],
        operation_id=operation.name,
        status_code=operation.status,
        response_model=None,  # what handlers answer is encoded already
        responses=_responses(operation),
        openapi_extra={"x-muster-role": operation.role.value},
    )


def _guarded(role: Role) -> type[APIRoute]:
    """Routes that only callers of that role pass, before their bodies are looked at."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Any]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                expect(role, caller(request))
                answer: Awaitable[Response] = handle(request)
                return await answer

            return guarded

    return Guarded


def _responses(operation: Operation) -> dict[int | str, dict[str, Any]]:
    """What the description says of every code. A stream is described by one of its parts."""
    told: dict[int | str, dict[str, Any]] = {
        status: {"model": ProblemDocument} for status in operation.refusals
    }
    for status in operation.successes:
        told[status] = {"model": operation.answer}
    return told


def _complete_description(app: FastAPI, table: Sequence[Operation]) -> None:
    """Say in the description that every operation needs a token, and how problems are typed."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = describe()
            schema["components"]["securitySchemes"] = {
                "token": {"type": "http", "scheme": "bearer"}
            }
            schema["security"] = [{"token": []}]
            for operation in table:
                described = schema["paths"][operation.path][operation.method.lower()]
                _retype(described["responses"], operation)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _retype(responses: dict[str, Any], operation: Operation) -> None:
    """Give problems and streams the media types that they are sent with."""
    for status, response in responses.items():
        media_type = MEDIA_TYPE if int(status) >= 400 else operation.stream
        if media_type:
            (told,) = response["content"].values()
            if media_type == SERVER_SENT:
                told["schema"] = _server_sent(told["schema"])
            response["content"] = {media_type: told}


def _server_sent(schema: dict[str, Any]) -> dict[str, Any]:
    """One event of a stream, as a client of such streams sees it."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    properties = {"id": {"type": "string"}, "data": data}
    return {"type": "object", "required": ["id", "data"], "properties": properties}
