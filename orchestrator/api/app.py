"""The operations as an ASGI application that describes itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
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
from orchestrator.api.operations import COMMON, Operation, operations
from orchestrator.api.problems import EXPECTED, MEDIA_TYPE, Refusal, refused, unexpected
from orchestrator.api.schemas import ProblemDocument
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
    for operation in operations(desk):
        _add(app, operation)
    for kind in EXPECTED:
        app.add_exception_handler(kind, refused)
    app.add_exception_handler(Exception, unexpected)
    _describe_security(app)
    return Gate(app, doorkeeper, desk.limits)


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
        response_class=Response if operation.stream else _Documented,
        openapi_extra={"x-muster-role": operation.role.value},
    )


class _Documented(Response):
    media_type = "application/json"


def _guarded(role: Role) -> type[APIRoute]:
    """Routes that only callers of that role pass, before their bodies are looked at."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Any]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                who = caller(request)
                if not who.role.covers(role):
                    raise Refusal(
                        403, f"this needs the role {role.value}; {who.name} has {who.role.value}"
                    )
                answer: Awaitable[Response] = handle(request)
                return await answer

            return guarded

    return Guarded


def _responses(operation: Operation) -> dict[int | str, dict[str, Any]]:
    problem = {"model": ProblemDocument, "content": {MEDIA_TYPE: {}}}
    refusals: dict[int | str, dict[str, Any]] = {
        status: dict(problem) for status in sorted({*COMMON, *operation.refusals})
    }
    for status in (operation.status, *operation.also):
        refusals[status] = {"model": operation.answer}
    return refusals


def _describe_security(app: FastAPI) -> None:
    """Say in the description that every operation needs a token, and how problems are typed."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = describe()
            schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"token": []}]
            for path in schema["paths"].values():
                for operation in path.values():
                    _retype_problems(operation["responses"])
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _retype_problems(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        if int(status) >= 400:
            content = response.get("content", {})
            described = content.pop("application/json", None)
            if described:
                content[MEDIA_TYPE] = described
