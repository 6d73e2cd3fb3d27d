"""Operations on the head's own machine: its devices, and what a job would start there."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import Query
from pydantic import StringConstraints

from cluster.ascend.place import NoSuchNode, find
from cluster.ascend.probe import probe
from cluster.gpu.probe import probe as probe_gpus
from orchestrator import device_list, device_orders, plan_document
from orchestrator.api.desk import Desk
from orchestrator.api.encoding import Json
from orchestrator.api.jobs import spec_of
from orchestrator.api.problems import Refusal
from orchestrator.api.rows import SCHEMA
from orchestrator.api.schemas import BarText, JobText


class Machine:
    """Handlers; `operations` says under which addresses."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def plan(self, body: JobText) -> Json:
        """What a job would start, rank by rank; nothing is started."""
        return await self._desk.use_tools(self._plan, body)

    def _plan(self, body: JobText) -> Json:
        head = self._desk.head
        try:
            return Json(plan_document.document(spec_of(body), head.environment, head.runs))
        except (plan_document.NoPlacement, NoSuchNode) as error:
            raise Refusal(409, str(error)) from error

    async def devices(self) -> Json:
        """This node's devices, how they are, and what keeps them from jobs."""
        return await self._desk.use_tools(self._devices)

    def _devices(self) -> Json:
        environment = self._desk.head.environment
        try:
            report = probe(find(environment), environment)
        except NoSuchNode as error:
            raise Refusal(409, str(error)) from error
        found = device_list.listing(report, probe_gpus(environment), environment)
        return Json(device_list.document(found))

    async def bar(self, body: BarText) -> Json:
        """Keep devices of this node from all jobs."""
        return await self._desk.use_tools(self._bar, body)

    def _bar(self, body: BarText) -> Json:
        try:
            done = device_orders.bar(
                body.devices, body.length, body.why, self._desk.head.environment
            )
        except device_orders.BadOrder as error:
            raise Refusal(422, str(error)) from error
        except device_orders.NoBook as error:
            raise Refusal(503, str(error)) from error
        barred = [asdict(one) for one in done.bars]
        return Json({"schema": SCHEMA, "barred": barred, "notes": list(done.notes)})

    async def unbar(
        self,
        device: Annotated[
            list[Annotated[str, StringConstraints(max_length=64)]],
            Query(min_length=1, max_length=1000),
        ],
    ) -> Json:
        """Give barred devices back to jobs; what was counted against them is forgotten."""
        return await self._desk.use_tools(self._unbar, device)

    def _unbar(self, devices: list[str]) -> Json:
        try:
            names = device_orders.unbar(devices, self._desk.head.environment)
        except device_orders.BadOrder as error:
            raise Refusal(422, str(error)) from error
        except device_orders.NotBarred as error:
            raise Refusal(404, str(error)) from error
        except device_orders.NoBook as error:
            raise Refusal(503, str(error)) from error
        return Json({"schema": SCHEMA, "unbarred": names})
