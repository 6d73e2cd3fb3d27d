"""Everything that can be asked of a head, and the role that may ask it: one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from orchestrator.api import logs, schemas
from orchestrator.api.controller import Controller
from orchestrator.api.desk import Desk
from orchestrator.api.jobs import Jobs
from orchestrator.api.logs import Logs
from orchestrator.api.machine import Machine
from orchestrator.api.watching import Watching
from orchestrator.service.orders import OrderKind
from orchestrator.service.tokens import Role


@dataclass(frozen=True)
class Operation:
    """One operation: `name` is its id in the description. `refusals` are its own of HTTP's codes;
    those that any operation can answer are `COMMON`."""

    name: str
    method: str
    path: str
    role: Role
    handler: Callable[..., Any]
    answer: type[BaseModel]
    status: int = 200
    refusals: tuple[int, ...] = ()
    also: tuple[int, ...] = ()
    """Other codes of success, with the same answer."""
    stream: str | None = None
    """The media type of an answer that is a stream of `answer`."""


COMMON = (400, 401, 403, 408, 413, 422, 500, 503)


def operations(desk: Desk) -> tuple[Operation, ...]:
    """The table."""
    controller, jobs, machine = Controller(desk), Jobs(desk), Machine(desk)
    watching, log = Watching(desk), Logs(desk)
    read, submit, admin = Role.READ, Role.SUBMIT, Role.ADMIN
    job = "/v1/jobs/{job}"
    events = "text/event-stream"
    # fmt: off
    return (
        Operation("health", "GET", "/v1/health", read, controller.health, schemas.Health),
        Operation("submit", "POST", "/v1/jobs", submit, jobs.submit, schemas.Submitted, 201, (409,), (200,)),
        Operation("jobs", "GET", "/v1/jobs", read, jobs.many, schemas.Jobs),
        Operation("job", "GET", job, read, jobs.one, schemas.Row, 200, (404,)),
        Operation("status", "GET", f"{job}/status", read, watching.status, schemas.Status, 200, (404,)),
        Operation("events", "GET", f"{job}/events", read, watching.events, schemas.Events, 200, (404,)),
        Operation("event_stream", "GET", f"{job}/events/stream", read, watching.stream, schemas.Event, 200, (404,), stream=events),
        Operation("logs", "GET", f"{job}/logs", read, log.logs, schemas.LogLine, 200, (404,), stream=logs.MEDIA_TYPE),
        Operation("job_incidents", "GET", f"{job}/incidents", read, watching.incidents, schemas.Incidents, 200, (404,)),
        Operation("incidents", "GET", "/v1/incidents", read, watching.all_incidents, schemas.AllIncidents),
        Operation("checkpoints", "GET", f"{job}/checkpoints", read, watching.checkpoints, schemas.Checkpoints, 200, (404,)),
        *(
            Operation(kind.value, "POST", f"{job}/{kind.value}", submit, jobs.ordering(kind), schemas.Row, 200, (404, 409))
            for kind in (OrderKind.CANCEL, OrderKind.HOLD, OrderKind.RELEASE, OrderKind.RESUME)
        ),
        Operation("drill", "POST", f"{job}/drills", submit, jobs.drill, schemas.Drilled, 202, (404, 409)),
        Operation("plan", "POST", "/v1/plan", submit, machine.plan, schemas.Planned, 200, (409,)),
        Operation("devices", "GET", "/v1/devices", read, machine.devices, schemas.Devices),
        Operation("bar", "POST", "/v1/devices/bars", admin, machine.bar, schemas.Barred),
        Operation("unbar", "DELETE", "/v1/devices/bars", admin, machine.unbar, schemas.Unbarred, 200, (404,)),
        Operation("down", "POST", "/v1/down", admin, controller.down, schemas.GoingDown, 202),
    )
    # fmt: on
