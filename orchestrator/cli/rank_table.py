"""`muster rank-table`: make, check, merge and compare HCCL rank tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import click

from cluster.rank_table import (
    Checked,
    Finding,
    Model,
    RankTable,
    ServerFacts,
    check_file,
    check_table,
    differences,
    digest_of,
    file_name,
    make,
    merge,
    text_of,
)
from cluster.rank_table import hccn_conf as hccn
from orchestrator.cli import EXIT_FAILED, EXIT_NOT_FOUND
from orchestrator.cli.common import fail, json_option, print_json
from orchestrator.cli.table_servers import Servers, by_device, device_ids, servers_in
from orchestrator.jobfile import JobFileError
from orchestrator.layout import write_bytes

_F = TypeVar("_F", bound=Callable[..., Any])
_SHOWN = 5
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
@_model_option
@json_option
def check_command(file: str, model: str | None, as_json: bool) -> None:
    """Check FILE against every rule.

    Exit code 1 if there is an error, 0 with warnings alone.
    """
    checked = _read(file, _model(model))
    if as_json:
        print_json({"schema": 1, "file": file, **_document(checked)})
    else:
        _show(file, checked)
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
    """Write the table of one server, or of a list of them.

    Ranks go from 0 in the order of servers and devices. Nothing is written that has an error.

    \b
    muster rank-table make --server 10.0.0.1 --devices 0-7 --hccn-conf /etc/hccn.conf
    muster rank-table make --servers servers.yaml, with
      - {id: 10.0.0.1, devices: 0-1, ips: {0: 192.168.100.101, 1: 192.168.101.101}}
    """
    about_one = any((server, devices, hccn_conf, super_pod, ips, sdids))
    if about_one if servers_file else not (server and devices):
        fail("give --server and --devices (and what belongs to them), or --servers FILE alone")
    try:
        if servers_file:
            servers = servers_in(servers_file)
        else:
            servers = _one_server(server or "", devices or "", ips, hccn_conf, super_pod, sdids)
    except (JobFileError, ValueError) as error:
        fail(str(error))
    _write(make(servers), out, _model(model), force=force, as_json=as_json)


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


def _read(file: str, model: Model | None = None) -> Checked:
    try:
        os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        fail(f"{file}: no such file", EXIT_NOT_FOUND)
    except (OSError, ValueError):
        pass  # the check tells why it cannot be read
    return check_file(file, model)


def _tables(files: Sequence[str], code: int) -> list[RankTable]:
    """The tables of all files; ends with every finding of those that are none."""
    checked = [(file, _read(file)) for file in files]
    for file, found in checked:
        if found.table is None:
            _show(file, found, err=True)
    tables = [found.table for _, found in checked if found.table is not None]
    if len(tables) < len(files):
        sys.exit(code)
    return tables


def _one_server(
    server: str,
    devices: str,
    ips: Iterable[str],
    hccn_conf: str | None,
    super_pod: str | None,
    sdids: Iterable[str],
) -> Servers:
    ids = device_ids(devices)
    given = by_device(ips, "--ip", ids)
    numbers = by_device(sdids, "--sdid", ids)
    if wrong := [text for text in numbers.values() if not (text.isascii() and text.isdigit())]:
        raise ValueError(f"--sdid {', '.join(wrong)}: expected a number")
    addresses = {number: tuple(text.split(",")) for number, text in given.items()}
    if hccn_conf is not None:
        try:
            addresses = hccn.addresses(Path(hccn_conf).read_text(errors="replace")) | addresses
        except OSError as error:
            raise ValueError(f"--hccn-conf {hccn_conf}: {error.strerror}") from error
    sdid_of = {number: int(text) for number, text in numbers.items()}
    return [(ServerFacts(server, addresses, sdid_of, super_pod), ids)]


def _write(
    table: RankTable, out: str | None, model: Model | None, *, force: bool, as_json: bool
) -> None:
    """Write a table that has no error, whole or not at all, and say what it is."""
    checked = check_table(table, model)
    name = out or file_name(table)
    if name is None:
        fail("the server's id cannot be part of a file name: give -o FILE")
    if as_json and name == "-":
        fail("-o - and --json both want stdout")
    if checked.ok:
        if name == "-":
            click.echo(text_of(table))
        else:
            _save(Path(name), table, force=force)
    if as_json:
        digest = digest_of(table) if checked.ok else None
        print_json({"schema": 1, "file": name, "sha256": digest, **_document(checked)})
    else:
        _report(name, table, checked)
    sys.exit(0 if checked.ok else EXIT_FAILED)


def _report(name: str, table: RankTable, checked: Checked) -> None:
    if checked.findings:
        _show(name, checked, err=True)
    if not checked.ok:
        click.echo("nothing was written", err=True)
        return
    size = f"{_counted(table.ranks, 'rank')} on {_counted(len(table.servers), 'server')}"
    click.echo(f"{name}: {size}, sha256 {digest_of(table)}", err=name == "-")


def _save(path: Path, table: RankTable, *, force: bool) -> None:
    if path.suffix != ".json":
        fail(f"{path}: HCCL reads no table whose name does not end in .json")
    try:
        write_bytes(path, text_of(table).encode(), replace=force)
    except FileExistsError:
        fail(f"{path} is there already: --force overwrites it, -o FILE writes elsewhere")
    except OSError as error:
        fail(f"{path}: {error.strerror}", EXIT_FAILED)


def _document(checked: Checked) -> dict[str, Any]:
    table = checked.table
    return {
        "ok": checked.ok,
        "errors": checked.errors,
        "warnings": checked.warnings,
        "model": None if checked.model is None else checked.model.value,
        "version": None if table is None else table.version,
        "servers": None if table is None else len(table.servers),
        "ranks": None if table is None else table.ranks,
        "counts": checked.counts,
        "findings": [_row(finding) for finding in checked.findings],
    }


def _row(finding: Finding) -> dict[str, str]:
    rule = finding.rule
    return {
        "code": rule.code,
        "severity": finding.severity.value,
        "path": finding.path,
        "title": rule.title,
        "found": finding.found,
        "why": rule.why,
        "fix": rule.fix,
        "seen": rule.seen,
    }


def _show(file: str, checked: Checked, *, err: bool = False) -> None:
    """Findings by rule: what is wrong, where, why it matters, what to do."""
    for rule, group in groupby(checked.findings, key=lambda finding: finding.rule):
        found = list(group)
        click.echo(f"{found[0].severity.value} {rule.code}: {rule.title}", err=err)
        for finding in found[:_SHOWN]:
            click.echo(f"    {finding}", err=err)
        if (more := checked.counts[rule.code] - len(found[:_SHOWN])) > 0:
            click.echo(f"    and {more} more", err=err)
        seen = f" [{rule.seen}]" if rule.seen else ""
        click.echo(f"  why: {rule.why}{seen}\n  fix: {rule.fix}", err=err)
    errors, warnings = _counted(checked.errors, "error"), _counted(checked.warnings, "warning")
    click.echo(f"{file}: {errors}, {warnings}", err=err)


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
