"""`muster devices check`: which device of this node is ill, slow or wrong, before a job starts."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import EXIT_FAILED, EXIT_INTERRUPTED
from orchestrator.cli.common import fail, json_option, print_json

if TYPE_CHECKING:
    from cluster.preflight import Result
    from orchestrator.checkup import Effort, Node

_KINDS = ("ascend", "gpu", "cpu")
_TRIALS = ("product", "all-reduce")
_PIPE_WIDTH = 160
_DEVICE = re.compile(rf"({'|'.join(_KINDS)}):(0|[1-9][0-9]{{0,3}})", re.ASCII)


@click.command()
@click.argument("devices", metavar="[DEVICE]...", nargs=-1)
@click.option("--kind", type=click.Choice(_KINDS), help="Default: the first that is here.")
@click.option("--quick", is_flag=True, help="Look only: no matrix product, no all-reduce.")
@click.option("--timeout", type=click.FloatRange(1, 3600), default=120.0, show_default=True,
              metavar="S", help="Seconds for each stage of the trials.")  # fmt: skip
@click.option("--slow", type=click.FloatRange(1, 100, min_open=True), default=1.5,
              show_default=True, metavar="X", help="Slow is X times the median.")  # fmt: skip
@json_option
def check(
    devices: tuple[str, ...],
    kind: str | None,
    quick: bool,
    timeout: float,
    slow: float,
    as_json: bool,
) -> None:
    """Check the devices of this node: exit 0 if all are well, 1 if not.

    Health, network, memory, processes and bars; then a matrix product on each device and one
    all-reduce of all, in MindSpore processes that are gone afterwards. Devices that are ill or in
    use are not touched. On Ascend and GPU hardware these trials were never run; those of a
    rehearsal node and of cpu (a NUMA node each) use the CPU backend.
    """
    from orchestrator.checkup import Effort, examine

    effort = Effort(timeout, slow, trials=not quick, say=lambda text: click.echo(text, err=True))
    node = _node(_kind(devices, kind), effort)
    node = _only(node, devices)
    try:
        results = examine(node, os.environ, effort)
    except KeyboardInterrupt:
        fail("stopped; the trials' processes are gone", EXIT_INTERRUPTED)
    except OSError as error:
        fail(f"the trials cannot be made: {error}", EXIT_FAILED)
    document = _document(node, results)
    if as_json:
        print_json({"schema": 1, **document})
    else:
        _show(node, results, document)
    if not document["well"]:
        raise SystemExit(EXIT_FAILED)


def _kind(devices: Sequence[str], kind: str | None) -> str | None:
    """The one kind that was named, by the option or by devices; every mistake ends with code 2."""
    wrong = [name for name in devices if not _DEVICE.fullmatch(name)]
    mistakes = [f"{name[:40]}: expected ascend:N, gpu:N or cpu:N, e.g. ascend:3" for name in wrong]
    named = {name.partition(":")[0] for name in devices if name not in wrong}
    named |= {kind} if kind else set()
    if len(named) > 1:
        mistakes.append(f"{' and '.join(sorted(named))}: check devices of one kind at a time")
    if mistakes:
        fail("\n".join(mistakes))
    return next(iter(named), None)


def _node(kind: str | None, effort: Effort) -> Node:
    """The devices of the kind, or of the first kind that is here."""
    from cluster.ascend.place import NoSuchNode
    from cluster.device import DeviceKind
    from orchestrator.checkup import look_at
    from orchestrator.cli.progress import progress

    try:
        for word in (kind,) if kind else _KINDS:
            with progress(f"looking at {word} devices"):
                node = look_at(DeviceKind(word), os.environ)
            if node.candidates or node.silent:
                break
    except NoSuchNode as error:
        fail(str(error))
    except (ValueError, OSError) as error:
        fail(str(error), EXIT_FAILED)
    if not node.candidates:
        why = node.silent or node.missing or "none is listed"
        fail(f"no {node.kind.value} device to check: {why}", EXIT_FAILED)
    return node


def _only(node: Node, names: Sequence[str]) -> Node:
    """The named candidates, all if none is named; one that is not here ends with code 2."""
    from dataclasses import replace

    here = {one.name: one for one in node.candidates}
    absent = [name for name in names if name not in here]
    if absent:
        fail(f"{', '.join(absent)}: not on this node; it has {', '.join(here)}")
    wanted = dict.fromkeys(names or here)
    return replace(node, candidates=tuple(here[name] for name in wanted))


def _document(node: Node, results: Sequence[Result]) -> dict[str, Any]:
    from cluster.preflight import blamed, unwell

    return {
        "kind": node.kind.value,
        "simulated": node.simulated or None,
        "well": not unwell(results),
        "unwell": unwell(results),
        "slow": blamed(results, "slow"),
        "wrong": blamed(results, "wrong"),
        "devices": {
            one.name: {
                result.check.value: {"verdict": result.verdict.value, "why": result.why or None}
                for result in results
                if result.device == one.name
            }
            for one in node.candidates
        },
        "notes": list(node.notes),
        "next": _next(node, results),
    }


def _next(node: Node, results: Sequence[Result]) -> list[str]:
    """What to do now: bar what failed a trial, give back what passed all, look at the rest."""
    from cluster.preflight import Check, Verdict, to_bar, unwell

    barred = [r.device for r in results if (r.check, r.verdict) == (Check.BARRED, Verdict.FAIL)]
    ill = unwell(r for r in results if r.check is not Check.BARRED)
    lines = [
        f"muster devices bar {name} --why {shlex.quote(why)}"
        for name, why in to_bar(results).items()
        if name not in barred and node.kind.value != "cpu"
    ]
    tried = [r.device for r in results if (r.check, r.verdict) == (Check.PRODUCT, Verdict.PASS)]
    well = [name for name in barred if name in tried and name not in ill]
    if well:
        lines.append(f"muster devices unbar {' '.join(well)}")
    return lines or (["muster devices"] if ill else [])


def _show(node: Node, results: Sequence[Result], document: dict[str, Any]) -> None:
    import sys

    from rich.console import Console
    from rich.text import Text

    console = Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
    _table(console, node, results)
    for text, style in _lines(node, results, document):
        console.print(Text(text, style=style), soft_wrap=True)


def _lines(
    node: Node, results: Sequence[Result], document: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """What stands below the table, with its style."""
    from cluster.preflight import Verdict

    if node.simulated:
        told = f"simulated node {node.simulated}: nothing here is hardware"
        tried = any(check in document["devices"][node.candidates[0].name] for check in _TRIALS)
        yield told + (", trials ran on the CPU backend" if tried else ""), "yellow"
    for verdict, style in ((Verdict.FAIL, "red"), (Verdict.UNMEASURED, "yellow")):
        for (check, why), names in _grouped(results, verdict).items():
            what = why if why.startswith(check) else f"{check}: {why}"
            yield f"{verdict.value}: {', '.join(names)}: {what}", style
    if any(r.verdict is Verdict.PASS and "too few" in r.why for r in results):
        yield "too few devices to compare their times: nobody can be called slow", "dim"
    yield from ((note, "dim") for note in node.notes)
    for word in ("slow", "wrong"):
        if document[word]:
            yield f"{word}: {', '.join(document[word])}", "bold red"
    if not results:
        yield "nothing was checked: of cpu there is nothing to look at, leave --quick out", "yellow"
    elif document["well"]:
        yield f"all well: {', '.join(one.name for one in node.candidates)}", "green"
    yield from ((f"next: {line}", "") for line in document["next"])


def _table(console: Any, node: Node, results: Sequence[Result]) -> None:
    """A row a device, a column for every check that was made."""
    from rich.table import Table
    from rich.text import Text

    from cluster.preflight import Check, Verdict

    styles = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.UNMEASURED: "yellow"}
    words = {Verdict.PASS: "pass", Verdict.FAIL: "FAIL", Verdict.UNMEASURED: "?"}
    made = [check for check in Check if any(r.check is check for r in results)]
    table = Table("device", *(c.value for c in made), "kind", box=None, header_style="bold")
    kind = "simulated" if node.simulated else "hardware"
    for one in node.candidates:
        held = {r.check: r.verdict for r in results if r.device == one.name}
        cells = [held.get(check) for check in made]
        shown = [Text(words[c], style=styles[c]) if c else Text("-", style="dim") for c in cells]
        table.add_row(one.name, *shown, kind)
    console.print(table)


def _grouped(results: Sequence[Result], verdict: Any) -> dict[tuple[str, str], list[str]]:
    """Devices that share a verdict for the same reason, named together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.verdict is verdict:
            groups.setdefault((result.check.value, result.why), []).append(result.device)
    return groups
