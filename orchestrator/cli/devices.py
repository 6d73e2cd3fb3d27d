"""`muster devices`: what this node has and how it is; and rehearsal nodes to try faults on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import EXIT_FAILED
from orchestrator.cli.common import fail, json_option, print_json
from orchestrator.cli.device_bars import bar, unbar
from orchestrator.cli.device_check import check

if TYPE_CHECKING:
    from cluster.ascend.report import NodeReport
    from cluster.gpu.report import GpuNodeReport
    from cluster.simulated.directory import NodeDirectory
    from cluster.simulated.faults import Fault
    from cluster.simulated.node import SimulatedNode


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def devices(ctx: click.Context, as_json: bool) -> None:
    """Show this node's devices: health, memory, NUMA node, how they are joined, processes."""
    if ctx.invoked_subcommand is None:
        _list(as_json=as_json)
    elif as_json:
        fail(f"--json belongs behind the command: muster devices {ctx.invoked_subcommand} --json")


devices.add_command(bar)
devices.add_command(unbar)
devices.add_command(check)


@devices.command("list")
@json_option
def list_devices(as_json: bool) -> None:
    """The same as `muster devices`."""
    _list(as_json=as_json)


def _list(*, as_json: bool) -> None:
    from orchestrator.device_list import document, listing

    found = listing(look(), look_for_gpus(), os.environ)
    if as_json:
        print_json(document(found))
    else:
        from orchestrator.cli.device_table import show

        withheld = (found.held, found.ascend_bars.reasons, found.gpu_bars.reasons)
        show(found.report, found.cpus, found.gpus, withheld)
    for problem in found.problems:
        click.echo(problem, err=True)
    if found.failed:
        raise SystemExit(EXIT_FAILED)


def look() -> NodeReport:
    """Probe this machine, or the rehearsal node in its place; ends with code 2 if there is none."""
    from cluster.ascend.place import NoSuchNode, find
    from cluster.ascend.probe import probe
    from orchestrator.cli.progress import progress

    try:
        place = find(os.environ)
    except NoSuchNode as error:
        fail(str(error))
    with progress("asking npu-smi and hccn_tool"):
        return probe(place, os.environ)


def look_for_gpus() -> GpuNodeReport:
    """Probe this machine's GPUs."""
    from cluster.gpu.probe import probe
    from orchestrator.cli.progress import progress

    with progress("asking the NVIDIA driver"):
        return probe(os.environ)


@devices.command()
@click.option("--model", help="Make a node of this model: 910A, 910B1, 910B3, 910B4, A3.")
@click.option("--node", "file", metavar="FILE", help="Make the node that this YAML describes.")
@click.option("--cards", type=int, help="How many (8); A3 has two dies on each.")
@click.option("--dir", "root", default="simulated-node", show_default=True, help="Where it lies.")
@click.option("--form", type=click.Choice(["a", "b"]), help="Width of its tables (a).")
@click.option("--visible", metavar="IDS", help="A container that sees these as 0, 1, ...: 4,5,6,7")
@click.option("--fault", "faults", multiple=True, metavar="FAULT", help="Switch a fault on.")
@click.option("--clear", multiple=True, metavar="KIND[:N]|all", help="Switch faults off.")
@json_option
def simulate(
    model: str | None,
    file: str | None,
    cards: int | None,
    root: str,
    form: str | None,
    visible: str | None,
    faults: tuple[str, ...],
    clear: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a rehearsal node, or switch its faults on and off while it is in use.

    A rehearsal node is a directory with an npu-smi and an hccn_tool of ours. A FAULT is
    KIND[:DEVICE][=VALUE], e.g. lost:3, alarm:2=80E01801,80C98000, no-ip:0, foreign:1, hang.

    \b
    A FILE of --node, where all but the model may be left out:
      {model: 910B3, cards: 8, form: a, visible: 4-7, ips: {2: 10.0.0.9, 3: ''},
       processes: {5: [{pid: 7, name: python, memory: 2048}]}, faults: ['lost:3']}
    """
    from cluster.simulated.directory import NodeDirectory
    from cluster.simulated.faults import BadFault
    from cluster.simulated.node import BadNode
    from orchestrator.jobfile import JobFileError

    directory = NodeDirectory(Path(root).expanduser().resolve())
    try:
        made = None
        if model is not None or file is not None:
            made = _new(directory, model, file, cards, form, visible)
        elif any(given is not None for given in (cards, form, visible)):
            fail("--cards, --form and --visible belong to a new node: give --model too")
        document = _change(directory, made, faults, clear)
    except (BadFault, BadNode, JobFileError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{directory.root}: cannot be written: {error.strerror}", EXIT_FAILED)
    if as_json:
        print_json({"schema": 1, "dir": str(directory.root), **document})
    else:
        from orchestrator.cli.device_table import show_rehearsal

        show_rehearsal(directory.root, document, created=made is not None)


def _new(
    directory: NodeDirectory,
    model: str | None,
    file: str | None,
    cards: int | None,
    form: str | None,
    visible: str | None,
) -> SimulatedNode:
    """A node where there is nothing yet."""
    from cluster.simulated.node import BadNode, make
    from orchestrator.cli.node_description import described

    if directory.is_node():
        fail(
            f"{directory.root} holds a rehearsal node already: leave --model and --node out to "
            "change its faults, or choose another --dir"
        )
    if directory.root.exists() and (not directory.root.is_dir() or any(directory.root.iterdir())):
        fail(f"{directory.root} is something else: choose another --dir")
    if file is not None:
        if any(given is not None for given in (model, cards, form, visible)):
            fail("--node describes the whole node: leave --model, --cards, --form, --visible out")
        return described(file)
    assert model is not None
    try:
        shown = None if visible is None else [int(word) for word in visible.split(",")]
    except ValueError:
        raise BadNode(f"--visible {visible}: expected ids by comma, e.g. 4,5,6,7") from None
    return make(model, 8 if cards is None else cards, form=form or "a", visible=shown)


def _change(
    directory: NodeDirectory,
    made: SimulatedNode | None,
    faults: tuple[str, ...],
    clear: tuple[str, ...],
) -> dict[str, Any]:
    """Check everything, then write: a mistake in the last fault leaves the node as it was."""
    from dataclasses import replace

    from cluster.simulated import node_file, rehearsal
    from cluster.simulated.node import BadNode

    if made is None and not directory.is_node():
        raise BadNode(f"{directory.root}: no rehearsal node there; --model 910B3 makes one")
    node = made or node_file.load(directory.file)
    node = replace(node, faults=_switched(node, faults, clear))
    if made is not None:
        rehearsal.create(directory, node)
    elif faults or clear:
        node_file.save(directory.file, node)
    return node_file.to_document(node)


def _switched(
    node: SimulatedNode, faults: tuple[str, ...], clear: tuple[str, ...]
) -> tuple[Fault, ...]:
    """The node's faults after the changes. Raises BadFault with every mistake."""
    from cluster.simulated.faults import BadFault, parse, switch_off, switch_on

    on, wrong = node.faults, []
    for text in clear:
        try:
            on = switch_off(on, text)
        except BadFault as error:
            wrong.append(str(error))
    for text in faults:
        try:
            on = switch_on(on, parse(text, node.ids))
        except BadFault as error:
            wrong.append(str(error))
    if wrong:
        raise BadFault("\n".join(wrong))
    return on
