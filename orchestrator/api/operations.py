"""Everything that can be asked of a head, and the role that may ask it: one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from orchestrator.api import logs
from orchestrator.api import schemas as answers
from orchestrator.api.controller import Controller
from orchestrator.api.desk import Desk
from orchestrator.api.jobs import Jobs
from orchestrator.api.logs import Logs
from orchestrator.api.machine import Machine
from orchestrator.api.watching import Watching
from orchestrator.orders import OrderKind
from orchestrator.service.tokens import Role

COMMON = (400, 401, 403, 408, 413, 422, 431, 500, 503)
"""What any operation may answer instead; RFC 9110 says what they mean."""
SERVER_SENT = "text/event-stream"


@dataclass(frozen=True)
class Operation:
    """One operation. `name` is its id in the description, `call` a method and a path.

    `codes` are those of HTTP that it answers beside `status` and COMMON; success among them has
    the same `answer`, of which a `stream`, if it has a media type, gives one after another.
    """

    name: str
    role: Role
    call: str
    handler: Callable[..., Any]
    answer: type[BaseModel]
    status: int = 200
    codes: tuple[int, ...] = ()
    stream: str | None = None

    @property
    def method(self) -> str:
        return self.call.partition(" ")[0]

    @property
    def path(self) -> str:
        return self.call.partition(" ")[2]

    @property
    def successes(self) -> tuple[int, ...]:
        """The codes of an answer."""
        return (self.status, *(code for code in self.codes if code < 400))

    @property
    def refusals(self) -> tuple[int, ...]:
        """The codes of a problem."""
        unknown = (404,) if "{job}" in self.path else ()
        own = (code for code in self.codes if code >= 400)
        return tuple(sorted({*COMMON, *unknown, *own}))


def operations(desk: Desk) -> tuple[Operation, ...]:
    """The table."""
    controller, jobs, machine = Controller(desk), Jobs(desk), Machine(desk)
    watch, log = Watching(desk), Logs(desk)
    read, submit, admin = Role.READ, Role.SUBMIT, Role.ADMIN
    all_, one = "/v1/jobs", "/v1/jobs/{job}"
    lines = logs.MEDIA_TYPE
    return (
        Operation("health", read, "GET /v1/health", controller.health, answers.Health),
        Operation("jobs", read, f"GET {all_}", jobs.many, answers.Jobs),
        Operation(
            "submit", submit, f"POST {all_}", jobs.submit, answers.Submitted, 201, (200, 409)
        ),
        Operation("job", read, f"GET {one}", jobs.one, answers.Row),
        Operation("status", read, f"GET {one}/status", watch.status, answers.Status),
        Operation("events", read, f"GET {one}/events", watch.events, answers.Events),
        Operation(
            "event_stream",
            read,
            f"GET {one}/events/stream",
            watch.stream,
            answers.Event,
            stream=SERVER_SENT,
        ),
        Operation("logs", read, f"GET {one}/logs", log.logs, answers.LogLine, stream=lines),
        Operation(
            "checkpoints", read, f"GET {one}/checkpoints", watch.checkpoints, answers.Checkpoints
        ),
        Operation(
            "job_incidents", read, f"GET {one}/incidents", watch.incidents, answers.Incidents
        ),
        Operation("explain", read, f"GET {one}/explain", watch.explain, answers.Explained),
        Operation(
            "incidents", read, "GET /v1/incidents", watch.all_incidents, answers.AllIncidents
        ),
        *(
            Operation(
                kind.value,
                submit,
                f"POST {one}/{kind.value}",
                jobs.ordering(kind),
                answers.Row,
                codes=(409,),
            )
            for kind in (OrderKind.CANCEL, OrderKind.HOLD, OrderKind.RELEASE, OrderKind.RESUME)
        ),
        Operation("drill", submit, f"POST {one}/drills", jobs.drill, answers.Drilled, 202, (409,)),
        Operation("plan", submit, "POST /v1/plan", machine.plan, answers.Planned, codes=(409,)),
        Operation(
            "devices", read, "GET /v1/devices", machine.devices, answers.Devices, codes=(409,)
        ),
        Operation("bar", admin, "POST /v1/devices/bars", machine.bar, answers.Barred),
        Operation(
            "unbar", admin, "DELETE /v1/devices/bars", machine.unbar, answers.Unbarred, codes=(404,)
        ),
        Operation("down", admin, "POST /v1/down", controller.down, answers.GoingDown, 202),
    )
