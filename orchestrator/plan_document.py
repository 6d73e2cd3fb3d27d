"""What a job would start on this machine, as `muster plan --json` tells it; nothing is started."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.allocate import Assignment, Placement, Refusal, allocate
from orchestrator.cpu_facts import facts
from orchestrator.found import Found, find_nodes
from orchestrator.layout import RunDirectory, Spool
from orchestrator.plan import Attempt, assume_devices, make_plan, request_for
from orchestrator.spec import JobSpec, render_args
from orchestrator.support import not_built

SCHEMA = 1


class NoPlacement(RuntimeError):
    """There are not the devices now; the message says why and what was found."""


def document(spec: JobSpec, environment: Mapping[str, str], runs: Path) -> dict[str, Any]:
    """Placement, CPU sets, environment and command of every rank.

    Takes as long as the devices' tools do. Raises NoPlacement, and cluster.ascend.place.NoSuchNode
    for a rehearsal node that is not there.
    """
    found, assumed = _nodes(spec, environment)
    placement = allocate(found.inventory, request_for(spec, found.withheld))
    if isinstance(placement, Refusal):
        raise NoPlacement("\n".join((placement.reason, *found.told)))
    # Stand-ins for directories that only a start makes.
    directory = RunDirectory(runs / f"{spec.name}-TIME")
    spool = Spool(Path("/dev/shm/muster-RUN"), Path("/tmp/muster-ray-RUN"))
    made = make_plan(
        spec,
        placement,
        Attempt(1, "RUN", None, None),
        directory,
        spool,
        environment,
        facts=None if assumed else found.facts,
        simulated=found.simulated,
    )
    planned = made.to_document()
    _add_cpus(planned, spec, found, placement)
    concerns = found.concerns_of(assignment.device for assignment in placement.assignments)
    return {
        "schema": SCHEMA,
        **planned,
        "notes": [*found.told, *planned["notes"], *concerns, *_fallback(spec)],
        "rank_table_errors": made.table.findings()[0] if made.table else [],
        "assumed_devices": assumed,
        "not_built_yet": [str(problem) for problem in not_built(spec)],
        "observed_at": time.time(),
    }


def _fallback(spec: JobSpec) -> list[str]:
    """What ranks would be started with once a failure has come at the same step again."""
    if spec.restart.fallback is None:
        return []
    args = " ".join(render_args(spec.restart.fallback))
    return [f"restart.fallback: after the same failure at the same step again, once: {args}"]


def _add_cpus(planned: dict[str, Any], spec: JobSpec, found: Found, placement: Placement) -> None:
    """Whose the CPUs of each node are."""
    budgets = {node.name: node.cpus for node in found.inventory.nodes}
    placed: dict[str, list[Assignment]] = {}
    for assignment in placement.assignments:
        placed.setdefault(assignment.node, []).append(assignment)
    for node in planned["nodes"]:
        name, size = node["name"], spec.resources.cpus_per_rank
        node["cpus"] = facts(budgets[name], placed[name], spec.launch.bind, size)


def _nodes(spec: JobSpec, environment: Mapping[str, str]) -> tuple[Found, bool]:
    """What is here; where nothing of the kind can be found, nodes like this one are assumed."""
    found = find_nodes(spec.resources.device, environment)
    if not found.missing:
        return found, False
    note = (
        f"{found.missing}: nodes with the CPUs of this machine and the devices that the job asks "
        "for are assumed; the addresses for a rank table are not known"
    )
    return replace(found, inventory=assume_devices(spec, found.inventory), notes=(note,)), True
