"""`muster rank-table`: make, check, merge and compare HCCL rank tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from cluster.rank_table import (
    Checked,
    Model,
    RankTable,
    check_file,
    check_table,
    differences,
    digest_of,
    file_name,
    make,
    merge,
    text_of,
)
from orchestrator.cli import EXIT_FAILED, EXIT_NOT_FOUND
from orchestrator.cli.common import fail, json_option, print_json
from orchestrator.cli.table_findings import counted, document_of, show
from orchestrator.cli.table_live import Compared, ThisNode, about, ask, compare, servers_here
from orchestrator.cli.table_servers import device_ids, one_server, servers_in
from orchestrator.jobfile import JobFileError
from orchestrator.layout import write_bytes

_F = TypeVar("_F", bound=Callable[..., Any])
_MODELS = click.Choice([model.value for model in Model])


def _model_option(function: _F) -> _F:
    text = "Take the rules of this model for errors."
    return click.option("--model", type=_MODELS, help=text)(function)


def _output_options(function: _F) -> _F:
    text = "Where to write; - for stdout. Default: the ModelZoo's name, hccl_8p_….json."
    function = click.option("--force", is_flag=True, help="Overwrite a file.")(function)
    return click.option("-o", "--out", metavar="FILE", help=text)(function)


@click.group("rank-table")
def rank_table() -> None:
    """Make, check, merge and compare Ascend rank tables (HCCL, versions 1.0 and 1.2).

    The rules are those of HCCL's documents; no table was ever given to a real HCCL here.
    """


@rank_table.command("check")
@click.argument("file", type=click.Path())
@click.option("--live", is_flag=True, help="Compare with what this node's tools say now.")
@click.option("--server", metavar="ID", help="The server of the table that this node is.")
@_model_option
@json_option
def check_command(
    file: str, live: bool, server: str | None, model: str | None, as_json: bool
) -> None:
    """Check FILE against every rule.

    Exit code 1 if there is an error, 0 with warnings alone. With --live the rules of this node's
    own model are taken, and code 2 says that there is no npu-smi here.
    """
    if server is not None and not live:
        fail("--server says which server of the table this node is: it belongs to --live")
    wanted = _model(model)
    _exists(file)
    node = ask() if live else None
    checked = check_file(file, wanted or (node.model if node else None))
    compared = compare(checked, node, server=server, model=wanted) if node else None
    if compared is not None:
        checked = compared.checked
    if as_json:
        print_json({"schema": 1, "file": file, **document_of(checked), **_live(compared)})
    else:
        if compared is not None:
            compared.show()
        show(file, checked)
    sys.exit(0 if checked.ok else EXIT_FAILED)


@rank_table.command("make")
@click.option("--server", metavar="ID", help="The server's address or name.")
@click.option("--devices", metavar="IDS", help="Physical ids: 0-7, 0,1,4-5 or [0,8).")
@click.option("--ip", "ips", multiple=True, metavar="N=ADDRESS", help="Address of device N.")
@click.option("--hccn-conf", metavar="FILE", help="Take addresses from a copy of /etc/hccn.conf.")
@click.option("--super-pod", metavar="ID", help="The super-pod it is in: makes version 1.2.")
@click.option("--sdid", "sdids", multiple=True, metavar="N=SDID", help="SDID of device N.")
@click.option("--servers", "servers_file", metavar="FILE", help="A YAML list of servers instead.")
@_model_option
@_output_options
@json_option
def make_command(
    server: str | None,
    devices: str | None,
    ips: tuple[str, ...],
    hccn_conf: str | None,
    super_pod: str | None,
    sdids: tuple[str, ...],
    servers_file: str | None,
    model: str | None,
    out: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write the table of this node, of one server, or of a list of them.

    Of this node it takes what npu-smi and hccn_tool say now, all devices that are well, and this
    machine's address, unless --devices and --server say otherwise. Ranks go from 0 in the order
    of servers and devices. Nothing is written that has an error.

    \b
    muster rank-table make
    muster rank-table make --server 10.0.0.1 --devices 0-7 --hccn-conf /etc/hccn.conf
    muster rank-table make --servers servers.yaml, with
      - {id: 10.0.0.1, devices: 0-1, ips: {0: 192.168.100.101, 1: 192.168.101.101}}
    """
    by_hand = any((hccn_conf, super_pod, ips, sdids))
    beside = bool(servers_file) and any((by_hand, server, devices))
    if beside or (by_hand and not (server and devices)):
        fail("give --server and --devices (and what belongs to them), or --servers FILE alone")
    _check_out(out, as_json=as_json)
    node = None
    try:
        if servers_file:
            servers = servers_in(servers_file)
        elif by_hand:
            servers = one_server(server or "", devices or "", ips, hccn_conf, super_pod, sdids)
        else:
            ids = device_ids(devices) if devices else None
            node = ask("; with --ip or --hccn-conf, or --servers, nothing is asked")
            servers = servers_here(node, server, ids)
    except (JobFileError, ValueError) as error:
        fail(str(error))
    _write(make(servers), out, _model(model), force=force, as_json=as_json, node=node)


@rank_table.command("merge")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("--sort", "by_id", is_flag=True, help="Order servers by id, as MindSpore asks for.")
@_model_option
@_output_options
@json_option
def merge_command(
    files: tuple[str, ...],
    by_id: bool,
    model: str | None,
    out: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Make one table of FILES, with new ranks in their order."""
    _check_out(out, as_json=as_json)
    tables = _tables(files, EXIT_FAILED)
    try:
        merged = merge(tables, by_id=by_id)
    except ValueError as error:
        fail(str(error), EXIT_FAILED)
    _write(merged, out, _model(model), force=force, as_json=as_json)


@rank_table.command("diff")
@click.argument("left", type=click.Path())
@click.argument("right", type=click.Path())
@json_option
def diff_command(left: str, right: str, as_json: bool) -> None:
    """Tell what two tables say differently.

    Exit code 1 if anything does, 0 if they mean the same in whatever order.
    """
    found = differences(*_tables((left, right), code=2))
    if as_json:
        rows = [{"where": d.where, "what": d.what, "left": d.left, "right": d.right} for d in found]
        print_json({"schema": 1, "left": left, "right": right, "differences": rows})
    else:
        for difference in found:
            click.echo(str(difference))
    sys.exit(EXIT_FAILED if found else 0)


def _model(text: str | None) -> Model | None:
    return None if text is None else Model(text)


def _live(compared: Compared | None) -> dict[str, Any]:
    return {"live": None if compared is None else compared.document()}


def _exists(file: str) -> None:
    """End with code 3 where there is no file at all."""
    try:
        os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        fail(f"{file}: no such file", EXIT_NOT_FOUND)
    except (OSError, ValueError):
        pass  # the check tells why it cannot be read


def _read(file: str) -> Checked:
    _exists(file)
    return check_file(file)


def _tables(files: Sequence[str], code: int) -> list[RankTable]:
    """The tables of all files; ends with every finding of those that are none."""
    checked = [(file, _read(file)) for file in files]
    for file, found in checked:
        if found.table is None:
            show(file, found, err=True)
    tables = [found.table for _, found in checked if found.table is not None]
    if len(tables) < len(files):
        sys.exit(code)
    return tables


def _check_out(out: str | None, *, as_json: bool) -> None:
    """Refuse what cannot be written, before anything is asked or read."""
    if as_json and out == "-":
        fail("-o - and --json both want stdout")
    if out not in (None, "-") and Path(out or "").suffix != ".json":
        fail(f"{out}: HCCL reads no table whose name does not end in .json")


def _write(
    table: RankTable,
    out: str | None,
    model: Model | None,
    *,
    force: bool,
    as_json: bool,
    node: ThisNode | None = None,
) -> None:
    """Write a table that has no error, whole or not at all, and say what it is.

    One made of `node` may not contradict it either.
    """
    checked = check_table(table, model or (node.model if node else None))
    compared = None
    if node is not None:
        compared = compare(checked, node, server=table.servers[0].server_id, model=model)
        checked = compared.checked
    name = out or file_name(table)
    if name is None:
        fail("the server's id cannot be part of a file name: give -o FILE")
    if checked.ok:
        if name == "-":
            click.echo(text_of(table))
        else:
            _save(Path(name), table, force=force)
    if as_json:
        digest = digest_of(table) if checked.ok else None
        document = document_of(checked) | _live(compared)
        print_json({"schema": 1, "file": name, "sha256": digest, **document})
    else:
        _report(name, table, checked, node)
    sys.exit(0 if checked.ok else EXIT_FAILED)


def _report(name: str, table: RankTable, checked: Checked, node: ThisNode | None) -> None:
    if node is not None:
        click.echo(f"asked: {about(node)}", err=True)
    if checked.findings:
        show(name, checked, err=True)
    if not checked.ok:
        click.echo("nothing was written", err=True)
        return
    size = f"{counted(table.ranks, 'rank')} on {counted(len(table.servers), 'server')}"
    click.echo(f"{name}: {size}, sha256 {digest_of(table)}", err=name == "-")


def _save(path: Path, table: RankTable, *, force: bool) -> None:
    try:
        write_bytes(path, text_of(table).encode(), replace=force)
    except FileExistsError:
        fail(f"{path} is there already: --force overwrites it, -o FILE writes elsewhere")
    except OSError as error:
        fail(f"{path}: {error.strerror}", EXIT_FAILED)
