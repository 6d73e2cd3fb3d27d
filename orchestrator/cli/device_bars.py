"""`muster devices bar` and `unbar`: devices that are kept from jobs."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from orchestrator.cli import EXIT_FAILED, EXIT_NOT_FOUND
from orchestrator.cli.common import fail, json_option, print_json


@click.command()
@click.argument("devices", metavar="DEVICE...", nargs=-1, required=True)
@click.option("--for", "length", metavar="TIME", help="90, 30m, 24h, 2d. Default: until unbarred.")
@click.option("--why", required=True, metavar="TEXT", help="What is wrong; shown to everybody.")
@json_option
def bar(devices: tuple[str, ...], length: str | None, why: str, as_json: bool) -> None:
    """Keep devices of this node, e.g. ascend:3, from all jobs."""
    from cluster.bars import reason
    from orchestrator import device_orders
    from orchestrator.cli.progress import progress

    try:
        with progress("looking for devices"):
            done = device_orders.bar(devices, length, why, os.environ)
    except device_orders.BadOrder as error:
        fail(str(error))
    except device_orders.NoBook as error:
        fail(str(error), EXIT_FAILED)
    for note in done.notes:
        click.echo(note, err=True)
    if as_json:
        barred = [asdict(one) for one in done.bars]
        print_json({"schema": 1, "barred": barred, "notes": list(done.notes)})
        return
    for one in done.bars:
        click.echo(f"{one.device}: {reason(one, done.at)}")
    names = " ".join(one.device for one in done.bars)
    click.echo(f"next: muster devices; to lift it: muster devices unbar {names}")


@click.command()
@click.argument("devices", metavar="DEVICE...", nargs=-1, required=True)
@json_option
def unbar(devices: tuple[str, ...], as_json: bool) -> None:
    """Give barred devices back to jobs; what was counted against them is forgotten."""
    from orchestrator import device_orders

    try:
        names = device_orders.unbar(devices, os.environ)
    except device_orders.BadOrder as error:
        fail(str(error))
    except device_orders.NotBarred as error:
        fail(str(error), EXIT_NOT_FOUND)
    except device_orders.NoBook as error:
        fail(str(error), EXIT_FAILED)
    if as_json:
        print_json({"schema": 1, "unbarred": names})
        return
    click.echo(f"{', '.join(names)}: no longer barred")
    click.echo(f"next: muster devices check {' '.join(names)}")
