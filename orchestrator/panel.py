"""The documents of a run as a person reads them: where it stands, its ranks, its failures."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.states import RankState
from orchestrator.world import World

FILE_WIDTH = 140
"""A file has no width of its own, and a table must not be broken at a guess of 80."""

_STYLES = {
    RankState.TRAINING.value: "green",
    RankState.SUCCEEDED.value: "bold green",
    RankState.FAILED.value: "bold red",
    RankState.HUNG.value: "bold red",
    RankState.LOST.value: "bold red",
    RankState.STOPPED.value: "yellow",
}


def panel(summary: dict[str, Any]) -> Group:
    """A `status` document: the line that sums it up, and the table of ranks."""
    return Group(headline(summary), rank_table(summary["ranks"]))


def headline(summary: dict[str, Any]) -> Text:
    """Where the run stands, in a line."""
    total = f"/{summary['steps_total']}" if summary["steps_total"] else ""
    parts = [
        f"{summary['job']} {summary['state']}",
        *([f"place {summary['position']} in the line"] if summary.get("position") else []),
        f"attempt {summary['attempt']}",
        f"step {shown(summary['step'])}{total}",
        f"loss {shown(summary['loss'], '.3f')}",
        f"{shown(summary['images_per_second'], '.1f')} images/s",
        f"goodput {shown(summary['goodput'], '.0%')}",
    ]
    if summary["checkpoint"]:
        parts.append(f"checkpoint {summary['checkpoint']['step']}")
    world = summary.get("world")
    if world and world["virtual_ranks"] > 1:
        parts.append(str(World(world["ranks"], world["processes"])))
    if summary["simulated"]:
        parts.append("simulated devices")
    return Text("  ".join(parts), style="bold")


def print_summary(summary: dict[str, Any], *, ranks: bool) -> None:
    """`muster status` for a person."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
    console.print(headline(summary))
    console.print(Text(f"reason: {shown(summary['reason'])}"), soft_wrap=True)
    console.print(Text(f"run directory: {summary['run_dir']}"), soft_wrap=True)
    if ranks and summary["ranks"]:
        console.print(rank_table(summary["ranks"]))


def watch(summaries: Iterable[dict[str, Any]]) -> None:
    """`muster status -w`: each document in the place of the one before."""
    with Live(auto_refresh=False) as live:
        for summary in summaries:
            live.update(_watched(summary), refresh=True)


def _watched(summary: dict[str, Any]) -> Group:
    """With the reason: it is all there is to see of a job that waits."""
    reason = Text(shown(summary["reason"]))
    ranks = summary["ranks"]
    return Group(headline(summary), reason, *([rank_table(ranks)] if ranks else []))


def rank_table(rows: Sequence[dict[str, Any]]) -> Table:
    """One row a rank."""
    table = Table(
        "rank", "state", "device", "pid", "CPUs", "step", "step time", "heartbeat", "memory",
        "failed first",
        box=None, header_style="bold", pad_edge=False,
    )  # fmt: skip
    for row in rows:
        table.add_row(
            str(row["rank"]),
            Text(row["state"], style=_STYLES.get(row["state"], "")),
            row["device"] or "",
            shown(row["pid"]),
            ",".join(map(str, row["cpus"])),
            shown(row["step"]),
            _seconds(row["step_seconds"], _slow(row.get("straggler"))),
            _seconds(row["heartbeat_age"], " ago"),
            "" if row["memory"] is None else f"{row['memory'] / 1e9:.2f} GB",
            str(row["first_failures"] or ""),
        )
    return table


def _slow(straggler: dict[str, Any] | None) -> str:
    return "" if straggler is None else f", slow x{straggler['factor']:g}"


def _where(row: dict[str, Any]) -> str:
    """The device, with the node that it is of unless that is this machine."""
    from orchestrator.found import LOCAL  # probes come with it, which a status does not need

    if row["device"] is None:
        return ""
    return row["device"] if row["node"] == LOCAL else f"{row['node']}/{row['device']}"


def print_incidents(incidents: Sequence[dict[str, Any]], *, of_all: bool = False) -> None:
    """Failures with the split of the way back; `of_all` names the job of each."""
    console = Console(highlight=False)
    if not incidents:
        console.print("no incident")
    for place, one in enumerate(incidents, 1):
        number = one.get("incident", place)
        _print_incident(console, f"{one['job']} " * of_all + f"incident {number}", one)


def print_worth(incidents: Sequence[dict[str, Any]], goodput: float | None) -> None:
    """What the failures of a run cost: steps trained again, and the time that counted."""
    lost = sum(one["steps_lost"] or 0 for one in incidents)
    told = (
        f"incidents {len(incidents)}, steps trained again {lost}, goodput {shown(goodput, '.0%')}"
    )
    Console(highlight=False).print(told)


_SPLIT = (
    ("seen", "detected_after"),
    ("gang stopped", "stopped_after"),
    ("next attempt allocated", "allocated_after"),
    ("ranks joined", "joined_after"),
    ("state loaded", "loaded_after"),
    ("graph compiled", "compiled_after"),
    ("first new step", "first_step_after"),
)


def _print_incident(console: Console, title: str, one: dict[str, Any]) -> None:
    who = "" if one["rank"] is None else f"rank {one['rank']} on {_where(one)}: "
    what = f"{who}{one['cause']}; class {one['class']} by rule: {one['rule']}"
    # Not as markup: what a script has raised may hold brackets.
    console.print(
        Text.assemble((title, "bold"), f" attempt {one['attempt']}: {what}"), soft_wrap=True
    )
    for line in one["evidence"][1:]:
        console.print(Text(f"    {line}", style="dim"), soft_wrap=True)
    console.print(Text(f"  decision: {one['decision']}; budget left: {one['budget_left']}"))
    table = Table("", "after the fault", "took", box=None, pad_edge=True)
    before = 0.0
    for name, key in _SPLIT:
        after = one[key]
        if after is not None:
            table.add_row(name, f"{after:.2f} s", f"{max(0.0, after - before):.2f} s")
            before = after
    console.print(table)
    if one["steps_lost"] is not None:
        console.print(f"  steps trained again: {one['steps_lost']}")


def print_drills(results: Sequence[dict[str, Any]], *, stderr: bool = False) -> None:
    """Faults on purpose: what was promised, what was found, whether the run kept its word."""
    console = Console(highlight=False, stderr=stderr)
    console.print(Text("drills", style="bold"))
    for one in results:
        style = "green" if one["passed"] else "bold red"
        word = "passed" if one["passed"] else "FAILED"
        took = f" in {one['seconds']:.1f} s" if one.get("seconds") is not None else ""
        console.print(Text.assemble((f"  {word} ", style), f"{one['fault']}{took}"), soft_wrap=True)
        for name in ("promised", "found"):
            if one[name]:
                console.print(Text(f"    {name:<9} {one[name]}"), soft_wrap=True)
        for failure in one["failures"]:
            console.print(Text(f"    {'but':<9} {failure}", style=style), soft_wrap=True)


def shown(value: Any, form: str = "") -> str:
    """A value, or a dash for one that is not known."""
    return "–" if value is None else format(value, form)


def _seconds(value: float | None, suffix: str = "") -> str:
    return "" if value is None else f"{value:.2f} s{suffix}"
