"""The program that asks NVML: every question and its answer, a line of JSON each, at once.

A process of its own, because NVML may hang with the driver: whoever started it ends it, and what
was said before is kept. Should nobody be left to end it, it ends itself after as many seconds as
its argument says. Run by its file, so it needs the standard library and pynvml alone (the package
nvidia-ml-py; never the copy inside Ray). A line is `{"of": [], "asked": "driver",
"value": ...}`, or with `"error"` and `"text"` for a question that failed; `of` has no number for
the node, one for a GPU, two for a pair.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from collections.abc import Callable
from itertools import combinations
from typing import Any

MAX_GPUS = 64
_UNCORRECTED, _SINCE_LOAD, _EVER = 1, 0, 1  # nvml.h: error types, counters
_RETIREMENT_CAUSES = (0, 1)  # single-bit errors more than once, double-bit errors
_SENSOR = 0  # the only one
_OVER_NVLINK = 2  # nvmlGpuP2PCapsIndex_t
_LINKS_END_HERE = ("NVMLError_InvalidArgument",)

Question = Callable[[Any, Any], Any]
"""Called with the binding and a GPU's handle; returns what JSON can hold or raises."""


def main() -> None:
    """Ask everything that NVML has to say of this node."""
    signal.alarm(int(sys.argv[1]))
    try:
        import pynvml
    except ImportError as error:
        _say((), "init", {"error": "NoBinding", "text": str(error)})
        return
    if _ask((), "init", _begin, pynvml):
        _ask_all(pynvml)
        _say((), "end", {"value": True})


def _begin(nvml: Any) -> bool:
    nvml.nvmlInit()
    return True


def _ask_all(nvml: Any) -> None:
    _ask((), "driver", nvml.nvmlSystemGetDriverVersion)
    _ask((), "cuda", nvml.nvmlSystemGetCudaDriverVersion_v2)
    _ask((), "nvml", nvml.nvmlSystemGetNVMLVersion)
    count = _ask((), "count", nvml.nvmlDeviceGetCount) or 0
    handles = {index: _handle(nvml, index) for index in range(min(count, MAX_GPUS))}
    held = {index: handle for index, handle in handles.items() if handle is not None}
    for index, handle in held.items():
        for asked, question in GPU_QUESTIONS.items():
            _ask((index,), asked, question, nvml, handle)
    for one, other in combinations(held, 2):
        pair = (held[one], held[other])
        _ask((one, other), "ancestor", nvml.nvmlDeviceGetTopologyCommonAncestor, *pair)
        _ask((one, other), "p2p", nvml.nvmlDeviceGetP2PStatus, *pair, _OVER_NVLINK)


def _handle(nvml: Any, index: int) -> Any:
    """What NVML knows a GPU by, which no line of JSON can hold; None where it gives none."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except Exception as error:
        _say((index,), "handle", _failure(error))
        return None
    _say((index,), "handle", {"value": True})
    return handle


def _either(nvml: Any, newer: Callable[[], Any], older: Callable[[], Any]) -> Any:
    """Drivers may lack the newer function, and NVIDIA announced the end of the older."""
    try:
        return newer()
    except nvml.NVMLError:
        return older()


def _bus_id(nvml: Any, handle: Any) -> str:
    return _text(nvml.nvmlDeviceGetPciInfo(handle).busId)


def _text(field: bytes | str) -> str:
    """A field of a structure: older versions of the binding give bytes."""
    return field.decode() if isinstance(field, bytes) else field


def _memory(nvml: Any, handle: Any) -> list[int]:
    """Bytes used and total; the second version leaves out what the driver keeps for itself."""
    memory = _either(
        nvml,
        lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2),
        lambda: nvml.nvmlDeviceGetMemoryInfo(handle),
    )
    return [memory.used, memory.total]


def _temperature(nvml: Any, handle: Any) -> int:
    return int(
        _either(
            nvml,
            lambda: nvml.nvmlDeviceGetTemperatureV(handle, _SENSOR),
            lambda: nvml.nvmlDeviceGetTemperature(handle, _SENSOR),
        )
    )


def _slowed_by(nvml: Any, handle: Any) -> int:
    return int(
        _either(
            nvml,
            lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
            lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        )
    )


def _retired(nvml: Any, handle: Any) -> int:
    return sum(len(nvml.nvmlDeviceGetRetiredPages(handle, cause)) for cause in _RETIREMENT_CAUSES)


def _recovery(nvml: Any, handle: Any) -> int:
    (field,) = nvml.nvmlDeviceGetFieldValues(handle, [nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
    if field.nvmlReturn:
        raise nvml.NVMLError(field.nvmlReturn)
    return int(field.value.uiVal)


def _fabric(nvml: Any, handle: Any) -> list[int]:
    information = nvml.c_nvmlGpuFabricInfo_v2_t()
    nvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(information))
    return [information.state, information.status]


def _processes(listing: str) -> Question:
    def question(nvml: Any, handle: Any) -> list[list[int | None]]:
        name = f"nvmlDeviceGet{listing}RunningProcesses"
        found = _either(
            nvml,
            lambda: getattr(nvml, f"{name}_v3")(handle),
            lambda: getattr(nvml, f"{name}_v2")(handle),
        )
        return [[process.pid, process.usedGpuMemory] for process in found]

    return question


def _links(nvml: Any, handle: Any) -> list[list[Any]]:
    """Of each NVLink: whether it is active, the kind of its other end, and that end's bus id."""
    found = []
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            active = bool(nvml.nvmlDeviceGetNvLinkState(handle, link))
        except nvml.NVMLError as error:
            if link == 0 or type(error).__name__ not in _LINKS_END_HERE:
                raise
            break
        kind = _or_none(nvml, nvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link)
        there = _or_none(nvml, nvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)
        found.append([active, kind, _text(there.busId) if there else None])
    return found


def _or_none(nvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except nvml.NVMLError:
        return None


GPU_QUESTIONS: dict[str, Question] = {
    "name": lambda nvml, gpu: nvml.nvmlDeviceGetName(gpu),
    "uuid": lambda nvml, gpu: nvml.nvmlDeviceGetUUID(gpu),
    "bus_id": _bus_id,
    "memory": _memory,
    "ecc": lambda nvml, gpu: nvml.nvmlDeviceGetEccMode(gpu),
    "uncorrected": lambda nvml, gpu: nvml.nvmlDeviceGetTotalEccErrors(
        gpu, _UNCORRECTED, _SINCE_LOAD
    ),
    "uncorrected_ever": lambda nvml, gpu: nvml.nvmlDeviceGetTotalEccErrors(
        gpu, _UNCORRECTED, _EVER
    ),
    "retired": _retired,
    "retirement_pending": lambda nvml, gpu: nvml.nvmlDeviceGetRetiredPagesPendingStatus(gpu),
    "remapped": lambda nvml, gpu: list(nvml.nvmlDeviceGetRemappedRows(gpu)),
    "recovery": _recovery,
    "fabric": _fabric,
    "temperature": _temperature,
    "slowed_by": _slowed_by,
    "mig": lambda nvml, gpu: nvml.nvmlDeviceGetMigMode(gpu),
    "persistence": lambda nvml, gpu: nvml.nvmlDeviceGetPersistenceMode(gpu),
    "compute_mode": lambda nvml, gpu: nvml.nvmlDeviceGetComputeMode(gpu),
    "compute": _processes("Compute"),
    "graphics": _processes("Graphics"),
    "nvlinks": _links,
}
"""What is asked of each GPU, by the name under which the answer stands."""


def _ask(of: tuple[int, ...], asked: str, question: Callable[..., Any], *arguments: Any) -> Any:
    """Put a question and say its answer; None where it failed."""
    try:
        value = question(*arguments)
    except Exception as error:
        _say(of, asked, _failure(error))
        return None
    _say(of, asked, {"value": value})
    return value


def _failure(error: Exception) -> dict[str, Any]:
    return {"error": type(error).__name__.removeprefix("NVMLError_"), "text": str(error)}


def _say(of: tuple[int, ...], asked: str, answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"of": of, "asked": asked, **answer}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
