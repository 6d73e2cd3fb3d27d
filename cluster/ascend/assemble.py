"""From what the tools said to a report: pure, so that every mishap is a test without a process.

Where two sources speak of one thing, the worse counts. A device whose file is there and that
npu-smi does not list is reported too: as lost, with nothing measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from cluster.ascend import hccn, npu_smi
from cluster.ascend.faults import judge
from cluster.ascend.main_table import Chip, MainTable
from cluster.ascend.npu_smi import HealthAnswer, Mapped
from cluster.ascend.place import Place
from cluster.ascend.report import DeviceReport, NodeReport
from cluster.ascend.super_pod import SuperPodAnswer, parse_super_pod
from cluster.ascend.topology import Topology, documented_ring, parse_topology, rings
from cluster.ascend.transcript import (
    MAPPING,
    MATRIX,
    TOTAL,
    Transcript,
    has_super_pod,
    health,
    identify,
    port,
    super_pod,
)
from cluster.ascend.values import Health, Measured, Unmeasured
from cluster.ascend.visible import VARIABLE, parse_visible

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Shared:
    """What is said of all devices at once, read once."""

    transcript: Transcript
    table: MainTable
    mapped: Measured[Mapping[tuple[int, int], Mapped]]
    rings: Measured[Mapping[int, int]]
    addresses: Mapping[int, str]
    asked: tuple[int, ...] | None


def assemble(place: Place, transcript: Transcript, environment: Mapping[str, str]) -> NodeReport:
    """The report of a node. `environment` is that of a process which would use the devices."""
    shared, problems = _share(transcript, environment)
    table = transcript.table
    listed = [
        _device(shared, chip, _agreed(shared, chip, physical))
        for chip, physical in zip(
            shared.table.chips, identify(shared.table.chips, transcript.files), strict=True
        )
    ]
    known = {one.physical for one in listed}
    lost = [_lost(shared, number) for number in sorted(transcript.files) if number not in known]
    devices = sorted([*listed, *lost], key=_order)
    return NodeReport(
        tool=place.npu_smi,
        simulated="" if place.simulated is None else str(place.simulated),
        version=shared.table.version,
        answered=not isinstance(table, Unmeasured),
        devices=tuple(_no_twins(devices)),
        looked_for=place.looked_for,
        problems=tuple(dict.fromkeys((*problems, *_twins(devices)))),
    )


def _share(transcript: Transcript, environment: Mapping[str, str]) -> tuple[_Shared, list[str]]:
    problems: list[str] = []
    table = transcript.table
    if isinstance(table, Unmeasured):
        problems.append(table.why)
        table = MainTable()
    problems += table.problems
    addresses, wrong = hccn.parse_configuration(_or_nothing(transcript.configuration))
    problems += wrong
    asked = _asked(environment, problems)
    shared = _Shared(
        transcript=transcript,
        table=table,
        mapped=_mapped(transcript, table, problems),
        rings=_rings(transcript, table, problems),
        addresses=addresses,
        asked=asked,
    )
    problems += _missing(transcript, table)
    return shared, problems


def _or_nothing(text: Measured[str]) -> str:
    return "" if isinstance(text, Unmeasured) else text


def _asked(environment: Mapping[str, str], problems: list[str]) -> tuple[int, ...] | None:
    """The logical ids of ASCEND_RT_VISIBLE_DEVICES; None where it is not set."""
    if VARIABLE not in environment:
        return None
    ids, wrong = parse_visible(environment[VARIABLE])
    problems += wrong
    return ids


def _mapped(
    transcript: Transcript, table: MainTable, problems: list[str]
) -> Measured[Mapping[tuple[int, int], Mapped]]:
    text = transcript.said(MAPPING)
    if isinstance(text, Unmeasured):
        if table.chips:
            problems.append(text.why)
        return text
    rows, wrong = npu_smi.parse_mapping(text)
    problems += wrong
    return {(row.card, row.chip): row for row in rows}


def _agreed(shared: _Shared, chip: Chip, physical: Measured[int]) -> Measured[int]:
    """The physical id, unless npu-smi's two tables name different ones for the chip (A3)."""
    row = _row(shared, chip)
    if isinstance(row, Unmeasured) or None in (chip.physical, row.physical):
        return physical
    if chip.physical == row.physical:
        return physical
    return Unmeasured(f"npu-smi info names physical id {chip.physical}, its -m {row.physical}")


def _row(shared: _Shared, chip: Chip) -> Measured[Mapped]:
    if isinstance(shared.mapped, Unmeasured):
        return shared.mapped
    absent = Unmeasured("npu-smi info -m does not list the chip")
    return shared.mapped.get((chip.card, chip.chip), absent)


def _rings(
    transcript: Transcript, table: MainTable, problems: list[str]
) -> Measured[Mapping[int, int]]:
    text = transcript.said(MATRIX)
    if isinstance(text, Unmeasured):
        if table.chips:
            problems.append(text.why)
        return text
    topology: Topology = parse_topology(text)
    problems += topology.problems
    return rings(topology)


def _missing(transcript: Transcript, table: MainTable) -> list[str]:
    """Cards that `-l` counts and the table does not show."""
    if not table.chips:
        return []
    total = npu_smi.parse_total(_or_nothing(transcript.said(TOTAL)))
    cards = len({chip.card for chip in table.chips})
    if isinstance(total, Unmeasured) or total == cards:
        return []
    return [f"npu-smi info -l counts {total} cards, its table shows {cards}"]


def _device(shared: _Shared, chip: Chip, physical: Measured[int]) -> DeviceReport:
    key = (chip.card, chip.chip)
    said = shared.transcript.said(health(*key))
    answer = (
        HealthAnswer(said, said) if isinstance(said, Unmeasured) else npu_smi.parse_health(said)
    )
    state = _worse(chip.health, answer.health)
    judgement = judge(state, answer.codes)
    row = _row(shared, chip)
    logical = row if isinstance(row, Unmeasured) else row.logical
    ring = _of(shared.rings, _label(chip), "npu-smi -t topo has no row for the device")
    blank = _unmeasured(shared, physical, Unmeasured("not stated"))
    pod = _super_pod(shared, chip, blank)
    return replace(
        blank,
        logical=logical,
        card=chip.card,
        chip=chip.chip,
        model=chip.name,
        bus_id=chip.bus_id,
        health=state,
        codes=answer.codes,
        level=judgement.level,
        usable=judgement.usable,
        why=judgement.why,
        memory=chip.memory,
        numa=shared.transcript.numa.get(chip.bus_id, Unmeasured("not read")),
        ring=documented_ring(chip.name, physical) if isinstance(ring, Unmeasured) else ring,
        processes=shared.table.processes(*key),
        visible=_visible(shared, logical),
        notes=(*blank.notes, *(f"npu-smi: {text}" for text in answer.information)),
        sdid=pod.sdid,
        super_pod=pod.pod,
    )


def _super_pod(shared: _Shared, chip: Chip, blank: DeviceReport) -> SuperPodAnswer:
    if not has_super_pod(chip):
        return SuperPodAnswer(blank.sdid, blank.super_pod)
    said = shared.transcript.said(super_pod(chip.card, chip.chip))
    return SuperPodAnswer(said, said) if isinstance(said, Unmeasured) else parse_super_pod(said)


def _label(chip: Chip) -> int:
    """The id by which the matrix names a chip."""
    return chip.card if chip.physical is None else chip.physical


def _of(held: Measured[Mapping[_T, int]], key: _T, otherwise: str) -> Measured[int]:
    return held if isinstance(held, Unmeasured) else held.get(key, Unmeasured(otherwise))


def _worse(one: Measured[Health], other: Measured[Health]) -> Measured[Health]:
    """The worse of two statements; what one source failed to state is not well."""
    if isinstance(one, Unmeasured):
        return one
    if isinstance(other, Unmeasured):
        return other if one is Health.OK else one
    return max(one, other, key=lambda health: health.severity)


def _visible(shared: _Shared, logical: Measured[int]) -> Measured[bool]:
    if shared.asked is None:
        return True
    if isinstance(logical, Unmeasured):
        return Unmeasured(f"{VARIABLE} is set and the logical id is unknown: {logical.why}")
    return logical in shared.asked


def _lost(shared: _Shared, physical: int) -> DeviceReport:
    table = shared.transcript.table
    lost = Unmeasured(f"lost: npu-smi does not list it, though /dev/davinci{physical} is there")
    return _unmeasured(shared, physical, table if isinstance(table, Unmeasured) else lost)


def _unmeasured(shared: _Shared, physical: Measured[int], why: Unmeasured) -> DeviceReport:
    """A device of which npu-smi says nothing; hccn_tool may speak of its port."""
    report = DeviceReport(
        physical=physical,
        logical=why,
        card=why,
        chip=why,
        model=why,
        bus_id=why,
        health=why,
        codes=why,
        level=why,
        usable=False,
        why=why.why,
        memory=why,
        numa=why,
        ring=why,
        ip=why,
        ip_source="",
        link=why,
        net_health=why,
        processes=why,
        visible=True,
    )
    if isinstance(physical, Unmeasured):
        return replace(report, ip=physical, link=physical, net_health=physical)
    return _with_port(shared, report, physical)


def _with_port(shared: _Shared, report: DeviceReport, physical: int) -> DeviceReport:
    said = {item: shared.transcript.said(port(item, physical)) for item in ("link", "net_health")}
    ip, source, notes = _address(shared, physical)
    return replace(
        report,
        ip=ip,
        ip_source=source,
        link=_read(said["link"], hccn.parse_link),
        net_health=_read(said["net_health"], hccn.parse_net_health),
        notes=notes,
    )


def _read(text: Measured[str], parse: Callable[[str], Measured[_T]]) -> Measured[_T]:
    return text if isinstance(text, Unmeasured) else parse(text)


def _address(shared: _Shared, physical: int) -> tuple[Measured[str], str, tuple[str, ...]]:
    """hccn_tool's address; hccn.conf's only if the tool could not be asked.

    The file is what was configured, not what is in force: where the tool answers, it decides.
    """
    said = shared.transcript.said(port("ip", physical))
    written = shared.addresses.get(physical)
    if isinstance(said, Unmeasured):
        return (said, "", ()) if written is None else (written, "/etc/hccn.conf", ())
    ip = hccn.parse_address(said)
    if written is None or ip == written:
        return ip, "" if isinstance(ip, Unmeasured) else "hccn_tool", ()
    if isinstance(ip, Unmeasured):
        why = f"{ip.why}; /etc/hccn.conf names {written}, `hccn_tool -i {physical} -cfg recovery` "
        return replace(ip, why=why + "applies it"), "", ()
    return ip, "hccn_tool", (f"/etc/hccn.conf names {written}, hccn_tool {ip}",)


def _order(device: DeviceReport) -> tuple[bool, int, int, int]:
    ids = (device.physical, device.card, device.chip)
    numbers = [one if isinstance(one, int) else 0 for one in ids]
    return (isinstance(device.physical, Unmeasured), numbers[0], numbers[1], numbers[2])


def _no_twins(devices: Iterable[DeviceReport]) -> Iterable[DeviceReport]:
    """Two chips with one physical id: neither can be named, so neither may be used."""
    held = list(devices)
    counts = Counter(d.physical for d in held)
    for device in held:
        if counts[device.physical] > 1 and isinstance(device.physical, int):
            why = Unmeasured(f"npu-smi shows physical id {device.physical} twice")
            device = replace(device, physical=why)
        yield device


def _twins(devices: Iterable[DeviceReport]) -> list[str]:
    counts = Counter(d.ip for d in devices if isinstance(d.ip, str))
    return [f"{n} devices have the address {ip}" for ip, n in counts.items() if n > 1]
