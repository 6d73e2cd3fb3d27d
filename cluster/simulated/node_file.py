"""`node.json`, the file of a rehearsal node: read and checked, written whole."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from cluster.simulated.faults import BadFault, Fault, parse
from cluster.simulated.models import MODELS
from cluster.simulated.node import FORMS, BadNode, Process, SimulatedDevice, SimulatedNode

FORMAT = 1
_MAX_BYTES = 1 << 20


def to_document(node: SimulatedNode) -> dict[str, Any]:
    """The node as JSON values."""
    return {
        "format": FORMAT,
        "simulated": True,
        "model": node.model.name,
        "form": node.form,
        "visible": None if node.visible is None else list(node.visible),
        "faults": [str(fault) for fault in node.faults],
        "devices": [
            {
                **{name: getattr(device, name) for name in _DEVICE},
                "processes": [vars(process) for process in device.processes],
            }
            for device in node.devices
        ],
    }


_DEVICE: dict[str, type] = {
    "physical": int,
    "card": int,
    "chip": int,
    "bus_id": str,
    "numa": int,
    "ip": str,
}
_PROCESS: dict[str, type] = {"pid": int, "name": str, "memory": int}


def from_document(document: Any) -> SimulatedNode:
    """The node of a document. Raises BadNode with every mistake."""
    wrong: list[str] = []
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BadNode(
            f"expected an object with format {FORMAT}, as `muster devices simulate` makes"
        )
    model = MODELS.get(str(document.get("model")))
    if model is None:
        wrong.append(f"model {document.get('model')!r}: expected one of {', '.join(MODELS)}")
    form = document.get("form", "a")
    if form not in FORMS:
        wrong.append(f"form {form!r}: expected a or b")
    devices = tuple(_devices(_list(document, "devices", wrong), wrong))
    ids = [device.physical for device in devices]
    if len(set(ids)) < len(ids) or not ids:
        wrong.append("devices: at least one, each physical id once")
    faults = tuple(_faults(_list(document, "faults", wrong), ids, wrong))
    visible = document.get("visible")
    if visible is not None and visible not in _some(visible, ids):
        wrong.append(f"visible {visible!r}: expected null or some of {ids}, ascending")
    if wrong or model is None:
        raise BadNode("\n".join(wrong))
    shown = None if visible is None else tuple(visible)
    ordered = tuple(sorted(devices, key=lambda device: device.physical))
    return SimulatedNode(model, ordered, faults, form, shown)


def _some(value: Any, ids: Collection[int]) -> list[list[int]]:
    """The one list of ids that `value` may be: its own, each once, ascending; empty if none."""
    if not isinstance(value, list) or not all(type(one) is int for one in value):
        return []
    held = sorted(set(value) & set(ids))
    return [held] if held else []


def _list(document: dict[str, Any], name: str, wrong: list[str]) -> list[Any]:
    value = document.get(name, [])
    if isinstance(value, list):
        return value
    wrong.append(f"{name}: expected a list")
    return []


def _faults(texts: Iterable[Any], ids: Collection[int], wrong: list[str]) -> Iterable[Fault]:
    for text in texts:
        try:
            yield parse(str(text), ids)
        except BadFault as error:
            wrong.append(f"faults: {error}")


def _devices(entries: Iterable[Any], wrong: list[str]) -> Iterable[SimulatedDevice]:
    for place, entry in enumerate(entries):
        values = _fields(entry, _DEVICE, f"devices[{place}]", wrong)
        held = _list(entry, "processes", wrong) if isinstance(entry, dict) else []
        found = [_fields(p, _PROCESS, f"devices[{place}].processes", wrong) for p in held]
        processes = tuple(Process(**values) for values in found if values is not None)
        if values is not None:
            yield SimulatedDevice(**values, processes=processes)


def _fields(
    entry: Any, kinds: dict[str, type], where: str, wrong: list[str]
) -> dict[str, Any] | None:
    if not isinstance(entry, dict):
        wrong.append(f"{where}: expected an object")
        return None
    bad = [
        name
        for name, kind in kinds.items()
        if type(entry.get(name)) is not kind or (kind is int and entry[name] < 0)
    ]
    wrong.extend(
        f"{where}.{name} {entry.get(name)!r}: expected "
        + ("a number from 0" if kinds[name] is int else "a text")
        for name in bad
    )
    return None if bad else {name: entry[name] for name in kinds}


def load(file: Path) -> SimulatedNode:
    """The node of a file. Raises BadNode, with the file's name, if there is none to be had."""
    try:
        with open(file, "rb") as opened:
            text = opened.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise BadNode("larger than 1 MiB")
        return from_document(json.loads(text))
    except OSError as error:
        raise BadNode(f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        lines = str(error).splitlines() or ["not JSON"]
        raise BadNode("\n".join(f"{file}: {line}" for line in lines)) from None


def save(file: Path, node: SimulatedNode) -> None:
    """Write the node aside and put it in place: a tool reads the old one or the new one."""
    write_whole(file, _text(to_document(node)))


def _text(document: dict[str, Any]) -> str:
    """JSON with a line for each device, to be edited by hand."""
    devices = ",\n".join("    " + json.dumps(device) for device in document["devices"])
    head = json.dumps({**document, "devices": []}, indent=2)
    return head.replace('"devices": []', f'"devices": [\n{devices}\n  ]') + "\n"


def write_whole(file: Path, text: str, *, mode: int = 0o644) -> None:
    """Write aside, fsync, rename."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    with open(aside, "w", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    os.chmod(aside, mode)
    os.replace(aside, file)
