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
    document = _plan(the_job(file, overrides))
    if as_json:
        print_json(document)
    else:
        _show(document)
    if document["rank_table_errors"]:
        raise SystemExit(EXIT_FAILED)


def _plan(spec: JobSpec) -> dict[str, Any]:
    from cluster.ascend.place import NoSuchNode
    from orchestrator.cli.progress import progress
    from orchestrator.plan_document import NoPlacement, document

    try:
        with progress("looking for devices"):
            return document(spec, os.environ, Path.cwd() / "runs")
    except NoSuchNode as error:
        fail(str(error))
    except NoPlacement as error:
        fail(str(error), EXIT_FAILED)


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
