"""The devices of a run: looked for before every attempt, chosen, waited for, and blamed.

Looking is asking tools that may take their time, so it happens in a thread while the controller
goes on with its messages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from cluster.allocate import Placement, Refusal, allocate
from cluster.ascend.place import NoSuchNode
from cluster.device_leases import Leases
from orchestrator.attempt import Unstartable
from orchestrator.found import Found
from orchestrator.plan import request_for
from orchestrator.recorder import Recorder
from orchestrator.spec import DeviceKind, JobSpec
from orchestrator.states import FailureClass

Pump = Callable[[float], None]

RECOVERY_PATIENCE = 1800.0
"""Seconds that a job which has failed waits for devices, unless `limits.wait` says otherwise."""

RELEASE_PATIENCE = 60.0
"""Seconds that the memory of devices has to become free after a gang on them was stopped."""

_TICK = 0.1
_RELEASE_LOOK = 1.0
_LOOK_AGAIN = 5.0
_FRESH = 2.0


@dataclass(frozen=True)
class Allocation:
    """A place for every rank, and what was found when it was chosen."""

    placement: Placement
    found: Found


class Devices:
    """Finds and chooses devices for one run; `pump` is how the controller passes time."""

    def __init__(
        self,
        spec: JobSpec,
        find: Callable[[], Found],
        recorder: Recorder,
        pump: Pump,
        placement: Placement | None = None,
    ) -> None:
        """`placement` is where a queue has put the run, which stays there while it can."""
        self._spec = spec
        self._given = placement
        self._find = find
        self._recorder = recorder
        self._pump = pump
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="devices")
        self._seen: tuple[float, Found] | None = None
        self._leases = Leases()

    def close(self) -> None:
        """Begin no other look, and let other runs have the devices."""
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._leases.release()

    def hold(self, placement: Placement, simulated: str) -> None:
        """Keep the devices of a gang that runs already; `simulated`: of that rehearsal node."""
        self._given = placement
        if not self._spec.resources.device.is_slot:
            self._leases.take([one.device for one in placement.assignments], simulated)

    def allocate(self, *, recovering: bool) -> Allocation:
        """Devices for every rank; waits for them as long as the job may.

        Raises Unstartable with the allocator's reason.
        """
        patience = self._patience(recovering=recovering)
        told = ""
        found = self._look()
        deadline = time.monotonic() + patience  # from the first answer: tools take their time
        while True:
            answer = self._choose(found)
            if isinstance(answer, Placement):
                return Allocation(answer, self._released(answer, found))
            reason = "\n".join((answer.reason, *found.told))
            left = deadline - time.monotonic()
            if left <= 0:
                waited = f"no devices within {patience:g} s: " if patience else ""
                failure = FailureClass.DEVICE if recovering else FailureClass.USER
                raise Unstartable(failure, waited + reason)
            if answer.reason != told:
                told = answer.reason
                self._recorder.record("waiting", f"{told}; looking again for {left:.0f} s")
            self._pass(min(_LOOK_AGAIN, left))
            found = self._look()

    def faults(self, placement: Placement) -> dict[int, str]:
        """What the tools say now against devices of a gang that has failed, by rank.

        That they say nothing is told, and is nothing against a device.
        """
        if self._spec.resources.device.is_slot:
            return {}
        self._seen = None  # what was so before the failure says nothing of it
        try:
            found = self._look()
            silent = found.silent or found.missing
        except Unstartable as error:
            silent = str(error)
        if silent:
            self._recorder.record("note", f"nobody can say whether the devices are well: {silent}")
            return {}
        here = {device.key for device in found.devices}
        unwell = {
            a.rank: (a.device.key, found.unwell.get(a.device.key, ""))
            if a.device.key in here
            else (a.device.key, "it is not there any more")
            for a in placement.assignments
        }
        return {rank: f"{key}: {why}" for rank, (key, why) in unwell.items() if why}

    def _released(self, placement: Placement, found: Found) -> Found:
        """Wait until the memory of devices that this run had is free: else EJ0001 may follow.

        A process that holds one keeps it withheld until it is gone. Memory may stay in use without
        one, by a tenant that is not seen from here, so that wait ends.
        """
        mine = {f"{node}/{device}" for node, device in self._recorder.ledger.places.values()}
        mine &= {assignment.device.key for assignment in placement.assignments}
        deadline = time.monotonic() + RELEASE_PATIENCE
        told = False
        while left := {key: why for key, why in found.occupied.items() if key in mine}:
            text = "; ".join(f"{key}: {why}, and no process is listed" for key, why in left.items())
            if time.monotonic() > deadline:
                self._recorder.record("note", f"not waited for any longer: {text}")
                break
            if not told:
                self._recorder.record("waiting", text)
            told = True
            self._pass(_RELEASE_LOOK)
            found = self._look()
        return found

    def _patience(self, *, recovering: bool) -> float:
        if self._spec.limits.wait is not None:
            return self._spec.limits.wait
        counted = not self._spec.resources.device.is_slot
        return RECOVERY_PATIENCE if recovering and counted else 0.0

    def _choose(self, found: Found) -> Placement | Refusal:
        """Without the devices that this run has blamed, if there are others."""
        if found.missing:
            return Refusal(_none_here(self._spec.resources.device, found.missing))
        blamed = self._recorder.ledger.blamed
        given = self._stay(found, {**blamed, **found.withheld})
        if given is not None:
            return given
        chosen = self._leased(found, {**blamed, **found.withheld})
        if isinstance(chosen, Refusal) and blamed:
            return self._leased(found, found.withheld)
        return chosen

    def _stay(self, found: Found, withheld: Mapping[str, str]) -> Placement | None:
        """The place that was given, if all of it can be had still."""
        if self._given is None:
            return None
        if self._spec.resources.device.is_slot:
            return self._given
        here = {device.key: device for device in found.devices if device.key not in withheld}
        keys = [one.device.key for one in self._given.assignments]
        if any(key not in here for key in keys):
            return None
        if self._leases.take([here[key] for key in keys], found.simulated):
            return None
        moved = (replace(one, device=here[one.device.key]) for one in self._given.assignments)
        return replace(self._given, assignments=tuple(moved))

    def _leased(self, found: Found, withheld: Mapping[str, str]) -> Placement | Refusal:
        """A placement on devices that no other run has, and none can have now."""
        while True:
            chosen = allocate(found.inventory, request_for(self._spec, withheld))
            if isinstance(chosen, Refusal) or self._spec.resources.device.is_slot:
                return chosen
            devices = [assignment.device for assignment in chosen.assignments]
            taken = self._leases.take(devices, found.simulated)
            if not taken:
                return chosen
            withheld = {**withheld, **taken}

    def _look(self) -> Found:
        """What is there now, or was two seconds ago: a stop and the next start look once."""
        if self._seen is None or time.monotonic() - self._seen[0] > _FRESH:
            found = self._checked(self._found())
            self._seen = (time.monotonic(), found)
        return self._seen[1]

    def _found(self) -> Found:
        """Raises Unstartable for a rehearsal node that is not there."""
        if self._spec.resources.device.is_slot:
            return self._find()  # no tool is asked: done before a thread would be
        future = self._worker.submit(self._find)
        while not future.done():
            self._pump(_TICK)
        try:
            return future.result()
        except NoSuchNode as error:
            raise Unstartable(FailureClass.USER, str(error)) from error

    def _checked(self, found: Found) -> Found:
        """Raises Unstartable if the run would change between hardware and rehearsal."""
        ledger = self._recorder.ledger
        if ledger.simulated is not None and ledger.simulated != bool(found.simulated):
            before, now = ("hardware", "simulated devices")[:: -1 if ledger.simulated else 1]
            raise Unstartable(
                FailureClass.USER,
                f"this run began on {before} and would go on on {now}: what it saved is of the "
                "other; set or unset MUSTER_SIMULATED_NODE as it was, or begin a new run",
            )
        return found

    def _pass(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._pump(_TICK)
        self._seen = None


def _none_here(kind: DeviceKind, missing: str) -> str:
    told = f"no {kind.value} device here: {missing}"
    if kind is DeviceKind.ASCEND:
        told += "; `muster devices simulate --model 910B3` makes a node to rehearse on"
    return told
