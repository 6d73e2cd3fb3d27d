"""From NVML's answers to a report: pure, so that every mishap is a test without a GPU."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from cluster.gpu import topology
from cluster.gpu.ask import GPU_QUESTIONS, MAX_GPUS
from cluster.gpu.report import Driver, GpuNodeReport, GpuReport
from cluster.gpu.rules import judge
from cluster.gpu.topology import End, NvLink
from cluster.gpu.transcript import NODE, Subject, Transcript
from cluster.gpu.values import (
    Failure,
    Gpu,
    GpuProcess,
    NvLinks,
    RemappedRows,
    Switch,
)
from cluster.gpu.visible import visible
from cluster.measured import Measured, Memory, Unmeasured

_T = TypeVar("_T")

_ABSENT = {
    "DriverNotLoaded": "the NVIDIA driver is not loaded (its library is there)",
    "LibraryNotFound": "no NVIDIA driver here (libnvidia-ml.so.1 was not found)",
    "NoBinding": "GPUs cannot be looked for: the Python package nvidia-ml-py is not installed",
}
_REMEDIES = {
    "LibRmVersionMismatch": ": the driver was changed while loaded, restart the node",
    "NoPermission": ": this user may not open /dev/nvidiactl",
}
_RECOVERY = {
    0: "",
    1: "a reset of the GPU",
    2: "a restart of the node",
    3: "an end of what uses its links to other GPUs",
    4: "an end of what runs on it, then a reset",
    5: "a recovery of the IMEX domain",
    6: "a reset of the bus",
    7: "a restart of the system",
}  # nvmlDeviceGpuRecoveryAction_t
_COMPUTE_MODES = {0: "default", 1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}
_FABRIC = {0: "none", 1: "not started", 2: "in progress", 3: "completed"}
_SLOWED = {
    0x08: "a hardware slowdown",
    0x20: "the driver for heat",
    0x40: "the hardware for heat",
    0x80: "the power supply's brake",
}  # bits of nvmlClocksEventReasons; idling and the usual power cap are none
_BUS_ID = re.compile(r"([0-9A-Fa-f]{4,8}):([0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])")
_MB = 1 << 20


def assemble(transcript: Transcript, environment: Mapping[str, str]) -> GpuNodeReport:
    """The report of a node. `environment` is that of a process which would use the GPUs."""
    refused = transcript.failures.get((NODE, "init"))
    said = transcript.said(NODE, "init")
    if refused is not None:
        return _nothing(*_refusal(refused))
    if isinstance(said, Unmeasured):
        return _nothing(Driver.FAILED, f"GPUs could not be measured: {said.why}")
    count = _read(transcript, NODE, "count", lambda said: min(int(said), MAX_GPUS))
    if isinstance(count, Unmeasured):
        return _nothing(Driver.FAILED, f"GPUs could not be counted: {count.why}")
    gpus = _with_notes(_joined(transcript, [_gpu(transcript, index) for index in range(count)]))
    chosen, problems = visible(
        environment,
        {gpu.index: gpu.uuid for gpu in gpus},
        alike=len({gpu.name for gpu in gpus}) <= 1,
    )
    silence = [transcript.silence] if transcript.silence else []
    return GpuNodeReport(
        state=Driver.ANSWERS,
        why="" if gpus else "the NVIDIA driver lists no GPU",
        driver=_read(transcript, NODE, "driver", _text),
        cuda=_read(transcript, NODE, "cuda", _cuda),
        nvml=_read(transcript, NODE, "nvml", _text),
        devices=tuple(
            GpuReport(gpu, judge(gpu), chosen is None or gpu.index in chosen) for gpu in gpus
        ),
        problems=(*silence, *problems),
    )


def bus_id(text: str) -> str:
    """A PCI address as the kernel writes it; NVML writes 8 digits of domain, in upper case.

    Raises ValueError for anything else.
    """
    match = _BUS_ID.fullmatch(text)
    if match is None:
        raise ValueError(f"not a PCI bus id: {text[:40]!r}")
    return f"{int(match[1], 16):04x}:{match[2].lower()}"


def _refusal(failure: Failure) -> tuple[Driver, str]:
    if failure.kind in _ABSENT:
        return Driver.ABSENT, _ABSENT[failure.kind]
    text = f"GPUs could not be measured: NVML: {failure.text}{_REMEDIES.get(failure.kind, '')}"
    return Driver.FAILED, text


def _nothing(state: Driver, why: str) -> GpuNodeReport:
    unknown = Unmeasured(why)
    return GpuNodeReport(state, why, unknown, unknown, unknown)


def _text(said: Any) -> str:
    if not isinstance(said, str):
        raise TypeError("not a text")
    return said


def _cuda(value: Any) -> str:
    return f"{int(value) // 1000}.{int(value) % 1000 // 10}"


def _read(
    transcript: Transcript, of: Subject, asked: str, convert: Callable[[Any], _T]
) -> Measured[_T]:
    said = transcript.said(of, asked)
    if isinstance(said, Unmeasured):
        return said
    try:
        return convert(said)
    except (ValueError, TypeError, LookupError, ArithmeticError):
        return Unmeasured(f"NVML: an answer that makes no sense: {str(said)[:60]!r}")


def _gpu(transcript: Transcript, index: int) -> Gpu:
    of = (index,)

    def read(asked: str, convert: Callable[[Any], _T]) -> Measured[_T]:
        return _read(transcript, of, asked, convert)

    address = read("bus_id", bus_id)
    return Gpu(
        index=index,
        name=read("name", _text),
        uuid=read("uuid", _text),
        bus_id=address,
        numa=_kernels(transcript.numa, address),
        memory=read("memory", lambda said: Memory(int(said[0]) // _MB, int(said[1]) // _MB)),
        ecc=read("ecc", _switch),
        uncorrected=read("uncorrected", int),
        uncorrected_ever=read("uncorrected_ever", int),
        retired_pages=read("retired", int),
        retirement_pending=read("retirement_pending", bool),
        remapped_rows=read("remapped", _rows),
        recovery=read("recovery", lambda said: _RECOVERY.get(said, f"action {int(said)}")),
        fabric=read("fabric", _fabric),
        xid=_xid(transcript, address),
        temperature=read("temperature", int),
        slowed_by=read("slowed_by", _slowed),
        mig=read("mig", _switch),
        persistence=read("persistence", bool),
        compute_mode=read("compute_mode", _COMPUTE_MODES.__getitem__),
        nvlinks=read("nvlinks", lambda said: NvLinks(sum(bool(x[0]) for x in said), len(said))),
        processes=_processes(transcript, of),
        failures=_failures(transcript, of),
    )


def _kernels(held: Mapping[str, Measured[_T]], address: Measured[str]) -> Measured[_T]:
    """What the kernel says of the device at an address."""
    if isinstance(address, Unmeasured):
        return address
    return held.get(address, Unmeasured("not read"))


def _xid(transcript: Transcript, address: Measured[str]) -> Measured[tuple[int, ...]]:
    """Xid codes of the kernel log: NVML tells of one only to who listens as it happens."""
    if isinstance(transcript.xid, Unmeasured):
        return transcript.xid
    return address if isinstance(address, Unmeasured) else transcript.xid.get(address, ())


def _switch(said: Any) -> Switch:
    return Switch(on=bool(said[0]), after_reset=bool(said[1]))


def _rows(said: Any) -> RemappedRows:
    return RemappedRows(int(said[0]), int(said[1]), pending=bool(said[2]), failed=bool(said[3]))


def _fabric(said: Any) -> str:
    state, status = said
    return "failed" if state == 3 and status else _FABRIC[state]


def _slowed(said: Any) -> tuple[str, ...]:
    return tuple(word for bit, word in _SLOWED.items() if said & bit)


def _processes(transcript: Transcript, of: Subject) -> Measured[tuple[GpuProcess, ...]]:
    """Who computes, and who only draws; without the first list nobody can be said to be absent."""
    found: dict[int, GpuProcess] = {}
    unknown: Unmeasured | None = None
    for use in ("graphics", "compute"):
        listed = _read(transcript, of, use, lambda said: [(int(p), m) for p, m in said])
        unknown = listed if isinstance(listed, Unmeasured) else None
        for pid, memory in [] if isinstance(listed, Unmeasured) else listed:
            found[pid] = GpuProcess(pid, transcript.names.get(pid, ""), use, _held(memory))
    return unknown if unknown and not found else tuple(found[pid] for pid in sorted(found))


def _held(memory: Any) -> Measured[int]:
    known = isinstance(memory, int)
    return memory // _MB if known else Unmeasured("NVML does not tell it for this process")


def _failures(transcript: Transcript, of: Subject) -> tuple[Failure, ...]:
    """Errors of a GPU that is not well; not to be answered at all is one."""
    failed = transcript.failed(of)
    if failed or transcript.complete(of, GPU_QUESTIONS):
        return failed
    return (Failure("Silence", transcript.silence or "NVML was not asked for it"),)


def _joined(transcript: Transcript, gpus: list[Gpu]) -> list[Gpu]:
    """The GPUs with the closeness of every other one that could be found out."""
    ends = {gpu.index: _end(transcript, gpu) for gpu in gpus}
    near: dict[int, list[tuple[int, int]]] = {gpu.index: [] for gpu in gpus}
    for one in ends:
        for other in ends:
            pair = (min(one, other), max(one, other))
            number = one != other and topology.closeness(
                ends[pair[0]],
                ends[pair[1]],
                _read(transcript, pair, "ancestor", int),
                _read(transcript, pair, "p2p", int),
            )
            if isinstance(number, int) and number:
                near[one].append((other, number))
    return [replace(gpu, near=tuple(near[gpu.index])) for gpu in gpus]


def _end(transcript: Transcript, gpu: Gpu) -> End:
    return End(gpu.bus_id, _read(transcript, (gpu.index,), "nvlinks", _links))


def _links(said: Any) -> tuple[NvLink, ...]:
    return tuple(
        NvLink(bool(active), kind, bus_id(peer) if peer else None) for active, kind, peer in said
    )


def _with_notes(gpus: list[Gpu]) -> list[Gpu]:
    """A GPU with fewer active NVLinks than others of its model says so."""
    most: Counter[object] = Counter()
    for gpu in gpus:
        if isinstance(gpu.nvlinks, NvLinks):
            most[gpu.name] = max(most[gpu.name], gpu.nvlinks.active)
    return [replace(gpu, notes=tuple(_fewer(gpu, most[gpu.name]))) for gpu in gpus]


def _fewer(gpu: Gpu, most: int) -> Iterable[str]:
    if isinstance(gpu.nvlinks, NvLinks) and gpu.nvlinks.active < most:
        yield f"{gpu.nvlinks.active} NVLinks are active, {most} on others of its model"
