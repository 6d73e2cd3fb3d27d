"""What a person sees: a live table on a terminal, lines elsewhere, the account at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.controller import Controller
from orchestrator.found import LOCAL
from orchestrator.journal import Event
from orchestrator.layout import RunDirectory
from orchestrator.states import JobState, RankState
from orchestrator.status import RunView, document, view_from_disk

_LIVE_PERIOD = 0.25
_LINES_PERIOD = 15.0
_FILE_WIDTH = 140
_SILENT = frozenset({"warmed", "controller", "attempt_ended", "retired", "created"})

_STYLES = {
    RankState.TRAINING.value: "green",
    RankState.SUCCEEDED.value: "bold green",
    RankState.FAILED.value: "bold red",
    RankState.HUNG.value: "bold red",
    RankState.LOST.value: "bold red",
    RankState.STOPPED.value: "yellow",
}


class Display:
    """Shows a run that this process drives. `quiet`: messages on stderr, no table."""

    def __init__(self, directory: RunDirectory, *, quiet: bool) -> None:
        self._directory = directory
        self._animated = not quiet and sys.stdout.isatty()
        # A file has no width of its own, and a table must not be broken at a guess of 80.
        width = None if self._animated else _FILE_WIDTH
        self._console = Console(stderr=quiet, highlight=False, width=width)
        self._quiet = quiet
        self._live: Live | None = None
        self._next = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> Display:
        self._console.print(f"run directory: {self._directory.root}", soft_wrap=True)
        self._console.print("bringing up Ray and a supervisor: about five seconds")
        if self._animated:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def event(self, event: Event) -> None:
        """Print what was recorded."""
        if event.kind in _SILENT:
            return
        clock = time.strftime("%H:%M:%S", time.localtime(event.time))
        elapsed = f"{time.monotonic() - self._began:6.1f} s"
        state = f" {event.state.value}" if event.state else ""
        line = Text(f"{clock} {elapsed} {event.kind}{state}: {event.reason}")
        if event.kind in ("failing", "failure", "refused", "quarantined", "node_failed"):
            line.stylize("red")
        elif event.kind in ("recovered", "succeeded", "resumed"):
            line.stylize("green")
        self._console.print(line, soft_wrap=True)

    def tick(self, controller: Controller) -> None:
        """Refresh the table now and then."""
        now = time.monotonic()
        if now < self._next or self._quiet or controller.way is None:
            return
        self._next = now + (_LIVE_PERIOD if self._live else _LINES_PERIOD)
        view = controller.view()
        if self._live is not None:
            self._live.update(_panel(view), refresh=True)
        elif view.ranks and any(rank.beat for rank in view.ranks):
            self._console.print(_panel(view))


def _panel(view: RunView) -> Group:
    summary = document(view)
    return Group(_headline(summary), rank_table(summary["ranks"]))


def _headline(summary: dict[str, Any]) -> Text:
    total = f"/{summary['steps_total']}" if summary["steps_total"] else ""
    parts = [
        f"{summary['job']} {summary['state']}",
        f"attempt {summary['attempt']}",
        f"step {_shown(summary['step'])}{total}",
        f"loss {_shown(summary['loss'], '.3f')}",
        f"{_shown(summary['images_per_second'], '.1f')} images/s",
        f"goodput {_shown(summary['goodput'], '.0%')}",
    ]
    if summary["checkpoint"]:
        parts.append(f"checkpoint {summary['checkpoint']['step']}")
    if summary["simulated"]:
        parts.append("simulated devices")
    return Text("  ".join(parts), style="bold")


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
            _shown(row["pid"]),
            ",".join(map(str, row["cpus"])),
            _shown(row["step"]),
            _seconds(row["step_seconds"]),
            _seconds(row["heartbeat_age"], " ago"),
            "" if row["memory"] is None else f"{row['memory'] / 1e9:.2f} GB",
            str(row["first_failures"] or ""),
        )
    return table


def _where(row: dict[str, Any]) -> str:
    """The device, with the node that it is of unless that is this machine."""
    if row["device"] is None:
        return ""
    return row["device"] if row["node"] == LOCAL else f"{row['node']}/{row['device']}"


def print_status(view: RunView, *, ranks: bool) -> None:
    """`muster status` for a person."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_WIDTH)
    summary = document(view)
    console.print(_headline(summary))
    console.print(f"reason: {summary['reason']}", soft_wrap=True)
    console.print(f"run directory: {summary['run_dir']}", soft_wrap=True)
    if ranks:
        console.print(rank_table(summary["ranks"]))


def watch_run(directory: RunDirectory) -> None:
    """`muster status -w`: until the run has ended."""
    with Live(auto_refresh=False) as live:
        while True:
            view = view_from_disk(directory)
            live.update(_panel(view), refresh=True)
            if view.state.terminal:
                return
            time.sleep(_LIVE_PERIOD)


def print_incidents(incidents: Sequence[dict[str, Any]]) -> None:
    """Failures with the split of the way back."""
    console = Console(highlight=False)
    if not incidents:
        console.print("no incident")
    for number, one in enumerate(incidents, 1):
        _print_incident(console, number, one)


_SPLIT = (
    ("seen", "detected_after"),
    ("gang stopped", "stopped_after"),
    ("next attempt allocated", "allocated_after"),
    ("ranks joined", "joined_after"),
    ("state loaded", "loaded_after"),
    ("graph compiled", "compiled_after"),
    ("first new step", "first_step_after"),
)


def _print_incident(console: Console, number: int, one: dict[str, Any]) -> None:
    who = "" if one["rank"] is None else f"rank {one['rank']} on {_where(one)}: "
    console.print(
        f"[bold]incident {number}[/] attempt {one['attempt']}: {who}{one['cause']}; "
        f"class {one['class']} by rule: {one['rule']}",
        soft_wrap=True,
    )
    for line in one["evidence"][1:]:
        console.print(Text(f"    {line}", style="dim"), soft_wrap=True)
    console.print(f"  decision: {one['decision']}; budget left: {one['budget_left']}")
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


def print_end(view: RunView) -> None:
    """The account of a run that has just ended: result, incidents, places, what next."""
    console = Console(highlight=False)
    for report in reports(view):
        console.print(Text(report.read_text(errors="replace").rstrip()), soft_wrap=True)
        console.print()
    if view.ledger.incidents:
        print_incidents(view.ledger.incidents)
        console.print()
    summary = document(view)
    good = view.state is JobState.SUCCEEDED
    verdict = f"{view.job} {view.state.value}: {view.reason}"
    console.print(Text(verdict, style="bold green" if good else "red"), soft_wrap=True)
    root = view.directory.root
    console.print(f"attempts {summary['attempt']}, goodput {_shown(summary['goodput'], '.0%')}")
    console.print(
        f"logs         {view.directory.attempt(max(1, summary['attempt'])).logs}", soft_wrap=True
    )
    console.print(f"checkpoints  {view.directory.checkpoints}", soft_wrap=True)
    console.print(f"next         {_next_command(view, root)}", soft_wrap=True)


def _next_command(view: RunView, root: Path) -> str:
    if view.state is JobState.SUCCEEDED:
        return f"muster incidents {root}   or   muster checkpoints {root} verify"
    if view.ledger.incidents and view.ledger.incidents[-1]["rank"] is not None:
        rank = view.ledger.incidents[-1]["rank"]
        return f"muster logs {root} --rank {rank}   then   muster resume {root}"
    return f"muster events {root}   then   muster resume {root}"


def reports(view: RunView) -> list[Path]:
    """The texts that the last attempt left for the end."""
    if not view.ledger.attempt:
        return []
    return sorted(view.directory.attempt(view.ledger.attempt).reports.glob("*.txt"))


def _shown(value: Any, form: str = "") -> str:
    return "–" if value is None else format(value, form)


def _seconds(value: float | None, suffix: str = "") -> str:
    return "" if value is None else f"{value:.2f} s{suffix}"
