"""Trials of devices: a process for each, started, bounded in time, and never left behind.

On hardware the processes would see exactly the devices on trial; that was never run. On the CPU,
and for rehearsal nodes, whose devices are no hardware, they use MindSpore's CPU backend.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import IO, Any, TypeVar

from cluster.device import Device, DeviceKind
from cluster.measured import Measured, Unmeasured
from cluster.ports import lease_port
from cluster.preflight import Product, Reduced
from orchestrator.device_trial import ORDER, PHASE, Order
from orchestrator.plan import user_environment
from orchestrator.processes import kill_quietly

PROGRAM = (sys.executable, "-m", "orchestrator.device_trial")
"""What every trial runs."""

_T = TypeVar("_T")
_TARGETS = {DeviceKind.ASCEND: "Ascend", DeviceKind.GPU: "GPU", DeviceKind.CPU: "CPU"}
_SIZE = {"CPU": 640, "Ascend": 2048, "GPU": 2048}
_GB_EACH = 0.6
_POLL_SECONDS = 0.05
_LEAVE_SECONDS = 5.0
_TOLD = 200
_MOST_SAID = 1 << 16
_HOST = "127.0.0.1"
_SCHEDULER = "scheduler"


@dataclass(frozen=True)
class Subject:
    """A device on trial. `simulated`: it runs on the CPU backend, with faults of its node.

    `cpus` empty: any that are free.
    """

    name: str
    device: Device
    simulated: bool = False
    cpus: tuple[int, ...] = ()
    slow: int = 1
    wrong: bool = False

    @property
    def target(self) -> str:
        """MindSpore's name of what it computes with."""
        return "CPU" if self.simulated else _TARGETS[self.device.kind]


def width(cpus: Sequence[int], free_gb: float) -> int:
    """How many trials run side by side: each has a CPU and some memory to itself."""
    return max(1, min(len(cpus), int(free_gb / _GB_EACH)))


def products(
    subjects: Sequence[Subject],
    environment: Mapping[str, str],
    cpus: Sequence[int],
    *,
    at_once: int,
    timeout: float,
    say: Callable[[str], None],
) -> dict[str, Measured[Product]]:
    """A matrix product on each device, `at_once` of them side by side, each at most `timeout` s."""
    found: dict[str, Measured[Product]] = {}
    for first in range(0, len(subjects), at_once):
        group = subjects[first : first + at_once]
        say(f"matrix product on {_listed(group)} ({first + len(group)} of {len(subjects)})")
        with _children() as children:
            for place, subject in enumerate(group):
                order = _order(subject, subjects, "product")
                order = replace(order, cpus=subject.cpus or _own(cpus, place, at_once))
                children.start(subject.name, order, _environment(subjects, environment))
            found |= {name: _read(Product, said) for name, said in children.wait(timeout).items()}
    return found


def all_reduce(
    subjects: Sequence[Subject],
    environment: Mapping[str, str],
    *,
    timeout: float,
    say: Callable[[str], None],
) -> dict[str, Measured[Reduced]]:
    """One all-reduce of all devices together, in a cluster that is formed for it."""
    say(f"all-reduce of {_listed(subjects)}")
    base = _environment(subjects, environment)
    size = len(subjects)
    with lease_port(_HOST) as lease, _children() as children:
        order = replace(_order(subjects[0], subjects, "scheduler"), target="CPU")
        variables = _rendezvous("MS_SCHED", size, lease.port) | {"RANK_ID": "0"}
        children.start(_SCHEDULER, order, base | variables)
        for rank, subject in enumerate(subjects):
            own = {"RANK_ID": str(rank), "RANK_SIZE": str(size), "MS_NODE_ID": str(rank)}
            children.start(
                subject.name,
                _order(subject, subjects, "all-reduce"),
                base | own | _rendezvous("MS_WORKER", size, lease.port),
            )
        said = children.wait(timeout, besides=_SCHEDULER)
    return {subject.name: _read(Reduced, said[subject.name]) for subject in subjects}


def _rendezvous(role: str, size: int, port: int) -> dict[str, str]:
    return {
        "MS_ROLE": role,
        "MS_WORKER_NUM": str(size),
        "MS_SCHED_HOST": _HOST,
        "MS_SCHED_PORT": str(port),
    }


def _order(subject: Subject, subjects: Sequence[Subject], role: str) -> Order:
    ids = sorted(one.device.asked_for for one in subjects)
    return Order(
        role=role,
        target=subject.target,
        device_id=ids.index(subject.device.asked_for),
        parent=os.getpid(),
        size=_SIZE[subject.target],
        slow=subject.slow,
        wrong=subject.wrong,
    )


def _environment(subjects: Sequence[Subject], inherited: Mapping[str, str]) -> dict[str, str]:
    """The user's environment with one thread each and the devices on trial, and no others."""
    made = {**user_environment(inherited), "OMP_NUM_THREADS": "1"}
    variable = subjects[0].device.kind.visible_variable
    if variable and not subjects[0].simulated:
        made[variable] = ",".join(map(str, sorted(one.device.asked_for for one in subjects)))
        made["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as the ids count; CUDA's own is otherwise
    return made


def _own(cpus: Sequence[int], place: int, at_once: int) -> tuple[int, ...]:
    """The CPUs of one of several trials side by side."""
    return tuple(cpus[place::at_once])[:1] if len(cpus) >= at_once else ()


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[bytes]
    out: IO[bytes]
    errors: IO[bytes]

    @property
    def told(self) -> list[dict[str, Any]]:
        """The documents on stdout so far, a line each; other lines are not ours."""
        whole = _text(self.out).rpartition("\n")[0].splitlines()
        return [found for found in map(_document, whole) if found]

    @property
    def result(self) -> dict[str, Any] | None:
        """What it measured, if it has; the trial may live on for its peers."""
        return next((one for one in self.told if PHASE not in one), None)

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None or self.result is not None

    @property
    def failed(self) -> bool:
        return self.process.poll() is not None and self.result is None

    def said(self, otherwise: str) -> Measured[dict[str, Any]]:
        """The result; how it ended without one; `otherwise` if it did not end."""
        code = self.process.poll()
        found = self.result
        if found is not None:
            return found
        if code is not None:
            return Unmeasured(_ended(code, self.errors))
        phases = [one[PHASE] for one in self.told]
        return Unmeasured(f"{otherwise}; {phases[-1] if phases else 'it did not even start'}")


class _Children:
    """Processes in sessions of their own."""

    def __init__(self) -> None:
        self._held: dict[str, _Child] = {}

    def start(self, name: str, order: Order, environment: Mapping[str, str]) -> None:
        out, errors = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        process = subprocess.Popen(
            PROGRAM,
            env={**environment, ORDER: order.to_json()},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            start_new_session=True,
        )
        self._held[name] = _Child(process, out, errors)

    def wait(self, timeout: float, besides: str = "") -> dict[str, Measured[dict[str, Any]]]:
        """What each said by its end, or why it said nothing; nobody waits for `besides`.

        Ends early once one has failed: those that wait for it in a collective never end.
        """
        deadline = time.monotonic() + timeout
        awaited = {name: child for name, child in self._held.items() if name != besides}
        while time.monotonic() < deadline:
            waiting = [child for child in awaited.values() if not child.ended]
            if not waiting or (besides and any(child.failed for child in self._held.values())):
                break
            time.sleep(_POLL_SECONDS)
        failed = [name for name, child in self._held.items() if child.failed]
        why = f"no answer in {timeout:g} s"
        if time.monotonic() < deadline and failed:
            why = f"given up because {failed[0]} failed"
            if failed[0] == besides:
                why += f": {_ended(self._held[besides].process.wait(), self._held[besides].errors)}"
        return {name: child.said(why) for name, child in awaited.items()}

    def end(self) -> None:
        """Kill what is left, whole sessions. What hangs in a driver is not waited for."""
        for child in self._held.values():
            if child.process.poll() is None:
                kill_quietly(-child.process.pid)
        deadline = time.monotonic() + _LEAVE_SECONDS
        for child in self._held.values():
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
            child.out.close()
            child.errors.close()


@contextmanager
def _children() -> Iterator[_Children]:
    children = _Children()
    try:
        yield children
    finally:
        children.end()


def _text(file: IO[bytes]) -> str:
    """What a child has written; read by place, since the place to write at is the child's too."""
    size = os.fstat(file.fileno()).st_size
    data = os.pread(file.fileno(), _MOST_SAID, max(0, size - _MOST_SAID))
    return data.decode(errors="replace")


def _ended(code: int, errors: IO[bytes]) -> str:
    """How a trial without a result ended, with its last words."""
    words = [line for line in _text(errors).splitlines() if line.strip()]
    how = f"exit {code}" if code >= 0 else f"killed by signal {-code}"
    last = "".join(c if c.isprintable() else "?" for c in words[-1]) if words else "no word"
    return f"the trial ended without a result ({how}): {last[:_TOLD]}"


def _document(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _read(kind: Callable[..., _T], said: Measured[dict[str, Any]]) -> Measured[_T]:
    if isinstance(said, Unmeasured):
        return said
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in said.items()}
    try:
        return kind(**values)
    except TypeError:
        return Unmeasured("the trial's answer makes no sense")


def _listed(subjects: Sequence[Subject]) -> str:
    return ", ".join(subject.name for subject in subjects)
