"""The devices of a run: looked for before every attempt, chosen, waited for, and blamed.

Looking is asking tools that may take their time, so it happens in a thread while the controller
goes on with its messages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from cluster.allocate import Placement, Refusal, Request, allocate
from cluster.ascend.place import NoSuchNode
from cluster.device import Inventory
from cluster.device_leases import Leases
from orchestrator import world
from orchestrator.attempt import Unstartable
from orchestrator.found import Found
from orchestrator.plan import request_for
from orchestrator.recorder import Recorder
from orchestrator.spec import DeviceKind, JobSpec
from orchestrator.states import FailureClass

Pump = Callable[[float], None]
Ask = Callable[[Request], Placement | Refusal]
"""Asks a queue for all the devices of a job that runs on fewer: it holds them then; or why not."""

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
        queue: Ask | None = None,
    ) -> None:
        """`placement` is where a queue has put the run, which stays there while it can.

        `queue` is asked before a run in a smaller world gets more; from any thread, it may take
        its time.
        """
        self._spec = spec
        self._given = placement
        self._queue = queue
        self._find = find
        self._recorder = recorder
        self._pump = pump
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="devices")
        self._seen: tuple[float, Found] | None = None
        self._leases = Leases()
        self._glance: Future[Found] | None = None

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

        A job that has run already gets fewer where it may have them (`world.sizes`), after a
        moment, or at once if it has fewer already.
        Raises Unstartable with the allocator's reason.
        """
        patience = self._patience(recovering=recovering)
        self._glance = None  # what was seen for the last attempt
        told = ""
        found = self._look()
        deadline = time.monotonic() + patience  # from the first answer: tools take their time
        all_until = min(deadline, time.monotonic() + self._patience_for_all())
        while True:
            answer = self._all(found)
            if isinstance(answer, Refusal) and time.monotonic() >= all_until:
                answer = self._smaller(found) or answer
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
            before_all = max(0.0, all_until - time.monotonic()) or left
            self._pass(min(_LOOK_AGAIN, left, before_all))
            found = self._look()

    def _all(self, found: Found) -> Placement | Refusal:
        """Devices for every rank, if the queue has nothing against it."""
        asked = self.ask_queue() if self._small else None
        if asked is not None:
            while not asked.done():
                self._pump(_TICK)
            answer = asked.result()
            if isinstance(answer, Refusal):
                return answer
            self._given = answer
        return self._choose(found, self._spec.resources.ranks)

    def ask_queue(self) -> Future[Placement | Refusal] | None:
        """Whether a job that is small may have all its devices; None: there is no queue to ask."""
        if self._queue is None:
            return None
        request = request_for(self._spec, dict(self._recorder.ledger.blamed))
        return self._worker.submit(self._queue, request)

    @property
    def _small(self) -> bool:
        """Whether the run's newest attempt is in a smaller world."""
        was = self._recorder.ledger.world
        return was is not None and not was.whole

    def glance(self) -> Found | None:
        """What is there now, asked for without waiting: None until a later call has the answer."""
        if self._glance is None:
            self._glance = self._worker.submit(self._find)
        if not self._glance.done():
            return None
        future, self._glance = self._glance, None
        try:
            return self._checked(future.result())
        except (NoSuchNode, Unstartable) as error:
            return Found(Inventory(()), missing=str(error))

    def could_have_all(self, found: Found, own: Placement) -> bool:
        """Whether every rank could have a device now.

        Those of its own gang count as free, but for what their tools call faulty.
        """
        if found.missing:
            return False
        mine = {one.device.key for one in own.assignments} - found.unwell.keys()
        blamed = self._recorder.ledger.blamed
        here = {key: why for key, why in found.withheld.items() if key not in mine}
        answers = (
            allocate(found.inventory, request_for(self._spec, withheld))
            for withheld in ({**blamed, **here}, here)
        )
        return any(isinstance(answer, Placement) for answer in answers)

    def ask(self) -> Future[Found] | None:
        """What the tools say now, some time later; None where there are no tools."""
        slots = self._spec.resources.device.is_slot
        return None if slots else self._worker.submit(self._find)

    def whole(self, placement: Placement, faults: Mapping[int, str]) -> bool:
        """Whether all ranks could have a device, by the look that `faults` took.

        Devices of the gang that has ended count as free but for those at fault. What nobody can
        say is not held against it.
        """
        found = self._seen[1] if self._seen else None
        if self._spec.resources.device.is_slot or not found or found.missing or found.silent:
            return True
        well = tuple(one for one in placement.assignments if one.rank not in faults)
        return self.could_have_all(found, replace(placement, assignments=well))

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

    def _patience_for_all(self) -> float:
        """Seconds in which nothing but full size will do."""
        return 0.0 if self._small else world.PATIENCE

    def _smaller(self, found: Found) -> Placement | None:
        """The largest smaller world that can be had, for a job that has run and may shrink."""
        resources = self._spec.resources
        if resources.device.is_slot or not self._recorder.ledger.attempt:
            return None
        was = self._recorder.ledger.world
        most = was.size if was and self._queue else resources.ranks  # a queue gives all or none
        sizes = world.sizes(resources.ranks, self._spec.restart.min_ranks)[1:]
        for size in (size for size in sizes if size <= most):
            chosen = self._choose(found, size)
            if isinstance(chosen, Placement):
                return chosen
        return None

    def _choose(self, found: Found, size: int) -> Placement | Refusal:
        """`size` devices: none that this run has blamed or found slow, if there are others."""
        if found.missing:
            return Refusal(_none_here(self._spec.resources.device, found.missing))
        blamed = self._recorder.ledger.blamed
        slow = self._recorder.ledger.slow_devices if self._spec.health.move_stragglers else {}
        if slow and not self._spec.resources.device.is_slot:
            chosen = self._avoiding(found, {**slow, **blamed}, size)
            if isinstance(chosen, Placement):
                return chosen
        chosen = self._avoiding(found, blamed, size)
        if isinstance(chosen, Refusal) and blamed:
            return self._leased(found, found.withheld, size)
        return chosen

    def _avoiding(self, found: Found, avoided: Mapping[str, str], size: int) -> Placement | Refusal:
        withheld = {**avoided, **found.withheld}
        return self._stay(found, withheld, size) or self._leased(found, withheld, size)

    def _stay(self, found: Found, withheld: Mapping[str, str], size: int) -> Placement | None:
        """The place that was given, if it is of this size and all of it can be had still."""
        if self._given is None or len(self._given.assignments) != size:
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

    def _leased(self, found: Found, withheld: Mapping[str, str], size: int) -> Placement | Refusal:
        """A placement on devices that no other run has, and none can have now."""
        while True:
            request = replace(request_for(self._spec, withheld), ranks=size)
            chosen = allocate(found.inventory, request)
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
