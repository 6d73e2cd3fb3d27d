"""The pre-flight of this node: look at every device, then try those that may be touched.

A device that is ill, in use by somebody or left out by a variable is looked at and never tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from cluster import cpu, preflight
from cluster.ascend.pings import pings
from cluster.ascend.place import find
from cluster.ascend.probe import probe
from cluster.ascend.report import DeviceReport, codes_of, devices_of
from cluster.bars import name_of, reasons
from cluster.device import Device, DeviceKind
from cluster.device_leases import Leases
from cluster.gpu import probe as gpu
from cluster.gpu.report import devices_of as gpus_of
from cluster.measured import Measured, Unmeasured
from cluster.preflight import Check, Product, Reduced, Result, Verdict, unmeasured
from cluster.simulated.directory import NodeDirectory
from cluster.simulated.node_file import load
from orchestrator import trials
from orchestrator.device_book import book_for
from orchestrator.found import LOCAL, SIMULATED, note
from orchestrator.trials import Subject

RANK_GB = 0.4
"""Memory that one rank of an all-reduce takes on the CPU backend."""


@dataclass(frozen=True)
class Candidate:
    """A device with what a look at it told; `kept_out` says why it is not to be tried."""

    subject: Subject
    results: tuple[Result, ...] = ()
    kept_out: str = ""

    @property
    def name(self) -> str:
        return self.subject.name


@dataclass(frozen=True)
class Node:
    """What there is to check. `simulated` as in Found.

    `missing`: nothing of the kind can be looked for here; `silent`: there may be devices, but
    whoever knows of them did not answer.
    """

    kind: DeviceKind
    candidates: tuple[Candidate, ...] = ()
    simulated: str = ""
    missing: str = ""
    silent: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Effort:
    """How hard to try: seconds for each stage, the limit for slow, whether to try at all."""

    timeout: float = 120.0
    slow: float = preflight.SLOW
    trials: bool = True
    say: Callable[[str], None] = field(default=lambda text: None)


def look_at(kind: DeviceKind, environment: Mapping[str, str]) -> Node:
    """Everything that can be told without trying. Raises NoSuchNode, BadBook, OSError (book)."""
    if kind is DeviceKind.ASCEND:
        return _ascend(environment)
    if kind is DeviceKind.CPU:
        return Node(kind, _cpus())
    return _gpus(environment)


def _ascend(environment: Mapping[str, str]) -> Node:
    place = find(environment)
    report = probe(place, environment)
    if report.tool is None:
        return Node(DeviceKind.ASCEND, missing="npu-smi was not found")
    book, now = book_for(report.simulated, environment), time.time()
    noted = note(book, codes_of(report), now)
    devices, _ = devices_of(report, SIMULATED if report.simulated else LOCAL)
    by_id = {one.physical: one for one in report.devices}
    echoes = pings(place, [d.index for d in devices if isinstance(by_id[d.index].ip, str)])
    barred = book.barred(devices, now)
    candidates = []
    for device in devices:
        one, name = by_id[device.index], name_of(device)
        echo = echoes.get(device.index, Unmeasured("it has no address"))
        why = reasons(barred.get(device.key, ()), now)
        results = (*preflight.look(name, one, echo), preflight.barred(name, why))
        subject = _subject(device, report.simulated)
        candidates.append(Candidate(subject, results, _kept_out(one, results)))
    notes = tuple(filter(None, [*report.problems, noted]))
    silent = "" if report.answered else "; ".join(report.problems)
    return Node(DeviceKind.ASCEND, tuple(candidates), report.simulated, "", silent, notes)


def _kept_out(report: DeviceReport, results: Iterable[Result]) -> str:
    """Why no process of ours may touch the device. A bar does not: who lifts it wants to know."""
    if report.withheld:
        return report.withheld
    unknown = report.logical.why if isinstance(report.logical, Unmeasured) else ""
    return unknown or _may_be_in_use(results)


def _may_be_in_use(results: Iterable[Result]) -> str:
    """Processes of another container are not listed; their memory is counted."""
    telling = (Check.MEMORY, Check.PROCESSES)
    return next(
        (r.why for r in results if r.check in telling and r.verdict is not Verdict.PASS), ""
    )


def _subject(device: Device, simulated: str) -> Subject:
    subject = Subject(name_of(device), device, simulated=bool(simulated))
    if not simulated:
        return subject
    node = load(NodeDirectory(Path(simulated)).file)
    slow, wrong = (node.fault(kind, device.index) for kind in ("slow", "wrong"))
    return replace(subject, slow=int(slow.value) if slow else 1, wrong=wrong is not None)


def _cpus() -> tuple[Candidate, ...]:
    """A NUMA node each, by its first CPU that may be used."""
    budget = cpu.measure()
    groups = [node.cpus for node in budget.numa] or [budget.cpus]
    return tuple(
        Candidate(Subject(f"cpu:{number}", Device(DeviceKind.CPU, LOCAL, number), cpus=cpus[:1]))
        for number, cpus in enumerate(groups)
        if cpus
    )


def _gpus(environment: Mapping[str, str]) -> Node:
    report = gpu.probe(environment)
    if not report.devices:
        missing, silent = ("", report.why) if report.failed else (report.why, "")
        return Node(DeviceKind.GPU, missing=missing, silent=silent)
    devices, _ = gpus_of(report, LOCAL)
    now = time.time()
    barred = book_for("", environment).barred(devices, now)
    candidates = []
    for device, one in zip(devices, report.devices, strict=True):
        name, why = name_of(device), reasons(barred.get(device.key, ()), now)
        results = (*preflight.look_at_gpu(name, one), preflight.barred(name, why))
        kept_out = one.withheld or _may_be_in_use(results)
        candidates.append(Candidate(Subject(name, device), results, kept_out))
    return Node(DeviceKind.GPU, tuple(candidates), notes=report.problems)


def examine(node: Node, environment: Mapping[str, str], effort: Effort) -> list[Result]:
    """All results of the node's candidates, those of trials included."""
    told = [result for candidate in node.candidates for result in candidate.results]
    if not effort.trials:
        return told
    with _held(node) as candidates:
        return told + _tried(candidates, environment, effort)


@contextmanager
def _held(node: Node) -> Iterator[tuple[Candidate, ...]]:
    """The candidates, held against runs while they are tried; those of a run are kept out."""
    leases = Leases()
    able = {
        one.subject.device.key: one.subject.device for one in node.candidates if not one.kept_out
    }
    free = {} if node.kind.is_slot else able
    busy: dict[str, str] = {}
    try:
        # Nothing is held while one of them is taken: asked for again without it.
        while taken := leases.take(free.values(), node.simulated):
            busy |= taken
            free = {key: device for key, device in free.items() if key not in taken}
        yield tuple(
            replace(one, kept_out=busy.get(one.subject.device.key, one.kept_out))
            for one in node.candidates
        )
    finally:
        leases.release()


def _tried(
    candidates: Sequence[Candidate], environment: Mapping[str, str], effort: Effort
) -> list[Result]:
    subjects = [one.subject for one in candidates if not one.kept_out]
    kept_out = [
        unmeasured(one.name, check, f"not tried: {one.kept_out}")
        for one in candidates
        if one.kept_out
        for check in (Check.PRODUCT, Check.ALL_REDUCE)
    ]
    if not subjects:
        return kept_out
    cpus = cpu.measure().cpus
    found = trials.products(
        subjects,
        environment,
        cpus,
        at_once=trials.width(cpus, _free_gb()),
        timeout=effort.timeout,
        say=effort.say,
    )
    judged = preflight.judge_products(found, slow=effort.slow)
    reduced = preflight.judge_all_reduce(_reduced(subjects, found, environment, effort))
    return [*judged.values(), *reduced.values(), *kept_out]


def _reduced(
    subjects: Sequence[Subject],
    products: Mapping[str, Measured[Product]],
    environment: Mapping[str, str],
    effort: Effort,
) -> dict[str, Measured[Reduced]]:
    """The all-reduce of those that could multiply; nothing for a device that is alone."""
    able = [one for one in subjects if isinstance(products[one.name], Product)]
    if len(subjects) < 2:
        return {}
    found: dict[str, Measured[Reduced]] = {
        one.name: Unmeasured("not tried: its matrix product gave no answer")
        for one in subjects
        if one not in able
    }
    need = RANK_GB * (len(able) + 1)
    if len(able) < 2:
        return found | {one.name: Unmeasured("no other device is left") for one in able}
    if _free_gb() < need:
        why = Unmeasured(f"needs {need:.1f} GB of memory, {_free_gb():.1f} GB are free")
        return found | {one.name: why for one in able}
    return found | trials.all_reduce(able, environment, timeout=effort.timeout, say=effort.say)


def _free_gb() -> float:
    return float(psutil.virtual_memory().available) / 2**30
