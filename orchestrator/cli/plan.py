"""`muster plan`: what a job would start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import EXIT_FAILED
from orchestrator.cli.common import fail, json_option, print_json, the_job
from orchestrator.spec import JobSpec

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.allocate import Assignment, Placement
    from orchestrator.found import Found

_MOST_PICTURES = 4
"""Nodes whose CPUs are drawn; the others look much the same."""


@click.command()
@click.argument("file", type=click.Path())
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Change a field.")
@json_option
def plan(file: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show placement, CPU sets, environment and command of every rank in FILE's job.

    Exit code 1 if there are not the devices now, or HCCL would refuse their rank table.
    """
    from orchestrator.support import not_built

    spec = the_job(file, overrides)
    document = _plan(spec)
    document["not_built_yet"] = [str(problem) for problem in not_built(spec)]
    if as_json:
        print_json({"schema": 1, **document})
    else:
        _show(document)
    if document["rank_table_errors"]:
        raise SystemExit(EXIT_FAILED)


def _plan(spec: JobSpec) -> dict[str, Any]:
    import time

    from cluster.allocate import Refusal, allocate
    from orchestrator.layout import RunDirectory, Spool
    from orchestrator.plan import Attempt, make_plan, request_for

    found, assumed = _nodes(spec)
    placement = allocate(found.inventory, request_for(spec, found.withheld))
    if isinstance(placement, Refusal):
        fail("\n".join((placement.reason, *found.told)), EXIT_FAILED)
    # Stand-ins for directories that only a start makes.
    directory = RunDirectory(Path.cwd() / "runs" / f"{spec.name}-TIME")
    spool = Spool(Path("/dev/shm/muster-RUN"), Path("/tmp/muster-ray-RUN"))
    made = make_plan(
        spec,
        placement,
        Attempt(1, "RUN", None, None),
        directory,
        spool,
        os.environ,
        facts=None if assumed else found.facts,
        simulated=found.simulated,
    )
    document = made.to_document()
    _add_cpus(document, spec, found, placement)
    concerns = found.concerns_of(assignment.device for assignment in placement.assignments)
    return {
        **document,
        "notes": [*found.told, *document["notes"], *concerns],
        "rank_table_errors": made.table.findings()[0] if made.table else [],
        "assumed_devices": assumed,
        "observed_at": time.time(),
    }


def _add_cpus(document: dict[str, Any], spec: JobSpec, found: Found, placement: Placement) -> None:
    """Whose the CPUs of each node are."""
    from orchestrator.cli.cpu_picture import facts

    budgets = {node.name: node.cpus for node in found.inventory.nodes}
    placed: dict[str, list[Assignment]] = {}
    for assignment in placement.assignments:
        placed.setdefault(assignment.node, []).append(assignment)
    for node in document["nodes"]:
        name, size = node["name"], spec.resources.cpus_per_rank
        node["cpus"] = facts(budgets[name], placed[name], spec.launch.bind, size)


def _nodes(spec: JobSpec) -> tuple[Found, bool]:
    """What is here; where nothing of the kind can be found, nodes like this one are assumed."""
    from dataclasses import replace

    from cluster.ascend.place import NoSuchNode
    from orchestrator.cli.progress import progress
    from orchestrator.found import find_nodes
    from orchestrator.plan import assume_devices

    try:
        with progress("looking for devices"):
            found = find_nodes(spec.resources.device, os.environ)
    except NoSuchNode as error:
        fail(str(error))
    if not found.missing:
        return found, False
    note = (
        f"{found.missing}: nodes with the CPUs of this machine and the devices that the job asks "
        "for are assumed; the addresses for a rank table are not known"
    )
    return replace(found, inventory=assume_devices(spec, found.inventory), notes=(note,)), True


def _show(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from cluster.cpu import format_cpu_list

    console = Console()
    console.print(f"[bold]{document['job']}[/]: {len(document['ranks'])} ranks; nothing is started")
    table = Table("rank", "node", "device", "CPUs", "threads", box=None, header_style="bold")
    for rank in document["ranks"]:
        table.add_row(
            str(rank["rank"]),
            rank["node"],
            rank["device"],
            format_cpu_list(rank["cpus"]),
            rank["env"]["OMP_NUM_THREADS"],
        )
    console.print(table)
    _show_cpus(console, document["nodes"])
    for note in document["notes"]:
        console.print(f"note: {note}")
    table = document["rank_table"]
    if table:
        digest = document["rank_table_file"]["sha256"]
        console.print(
            f"rank table: version {table['version']}, {len(document['ranks'])} ranks, sha256 "
            f"{digest[:12]}; each attempt writes its own (--json shows it)"
        )
    scheduler = document["scheduler"]
    if scheduler:
        console.print(f"rendezvous: {scheduler['host']}, a port leased at start")
    if document["fork_server"]:
        modules = ", ".join(document["fork_server"]["preload"]) or "nothing"
        console.print(f"start: forked from a server that has imported {modules}")
    console.print("command of each rank:")
    console.print("  " + " ".join(document["ranks"][0]["argv"]), soft_wrap=True, highlight=False)
    for problem in (*document["rank_table_errors"], *document["not_built_yet"]):
        console.print(f"`muster run` refuses this job: {problem}", style="yellow")
    console.print("environment and logs of every rank: --json", style="dim")


def _show_cpus(console: Console, nodes: list[dict[str, Any]]) -> None:
    from orchestrator.cli.cpu_picture import picture

    for node in nodes[:_MOST_PICTURES]:
        for line in picture(node["name"], node["cpus"], console.width):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if len(nodes) > _MOST_PICTURES:
        console.print(f"CPUs of {len(nodes) - _MOST_PICTURES} more nodes: --json")
