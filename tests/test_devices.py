"""The devices of a run: which are chosen, when a run waits, what a failure is blamed on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.allocate import Placement, Refusal, Request
from cluster.ascend.place import NoSuchNode
from cluster.cpu import CpuBudget
from cluster.device import Device, DeviceKind, Fabric, Inventory, Node
from cluster.measured import Memory
from orchestrator import devices as devices_module
from orchestrator import world
from orchestrator.attempt import Unstartable
from orchestrator.devices import Devices
from orchestrator.found import Found, of_report
from orchestrator.journal import Event, Journal
from orchestrator.layout import RunDirectory
from orchestrator.recorder import Recorder
from orchestrator.states import FailureClass
from orchestrator.world import World
from tests.runs import poll
from tests.simulated import node as simulated_node
from tests.simulated import report
from tests.support_core import job

TWO = """
version: 1
name: small
module: train
workdir: /
resources: {device: ascend, ranks: 2}
"""


NODE = f"/node-of-{os.getpid()}"
"""A rehearsal node whose devices tests of other sessions do not lease."""


def found(*ids: int, simulated: str = NODE, silent: str = "", **withheld: str) -> Found:
    """A node with these devices; `withheld` as d1="why"."""
    devices = tuple(Device(DeviceKind.ASCEND, "here", i, fabric=Fabric.MESH) for i in ids)
    node = Node("here", "10.0.0.1", CpuBudget((0, 1, 2, 3)), devices)
    why = {f"here/ascend:{name[1:]}": text for name, text in withheld.items()}
    return Found(Inventory((node,)), withheld=why, unwell=why, simulated=simulated, silent=silent)


class Quiet:
    """Nobody looks."""

    def event(self, event: Event) -> None:
        """Nothing is shown."""


class Bench:
    """Devices of a run whose finds are scripted: the last one stays."""

    def __init__(
        self, directory: Path, *finds: Found | Exception, overrides: str = "", text: str = TWO
    ) -> None:
        run = RunDirectory(directory)
        self.recorder = Recorder(Journal(run.events), Quiet())
        self.finds = list(finds)
        self.looks = 0
        spec = job(*overrides.split(), text=text)
        self.devices = Devices(spec, self._find, self.recorder, time.sleep)

    def _find(self) -> Found:
        self.looks += 1
        now = self.finds.pop(0) if len(self.finds) > 1 else self.finds[0]
        if isinstance(now, Exception):
            raise now
        return now

    def ids(self, *, recovering: bool = False) -> list[int]:
        """Physical ids of the devices that are given out."""
        placement = self.devices.allocate(recovering=recovering).placement
        return [a.device.index for a in placement.assignments]

    def placement(self) -> Placement:
        return self.devices.allocate(recovering=False).placement


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes one, and ends it."""
    made: list[Bench] = []

    def make(*finds: Found | Exception, **more: str) -> Bench:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        made.append(Bench(directory, *finds, **more))
        return made[-1]

    yield make
    for one in made:
        one.devices.close()


def blame(bench: Bench, device: str) -> None:
    """As the journal has it after a failure of class device."""
    bench.recorder.ledger.blamed[f"here/{device}"] = "it was lost"


def test_a_blamed_device_is_avoided_where_there_are_others(bench: Callable[..., Bench]) -> None:
    """It may be well again by its tools: another one is better all the same."""
    one = bench(found(0, 1, 2))
    blame(one, "ascend:1")
    assert one.ids() == [0, 2]


def test_a_blamed_device_is_taken_where_there_is_no_other(bench: Callable[..., Bench]) -> None:
    """Else a server of eight could never resume a job of eight."""
    one = bench(found(0, 1))
    blame(one, "ascend:1")
    assert one.ids() == [0, 1]


MOVE = "health.straggler=1.5 health.move_stragglers=true"


@pytest.mark.parametrize(
    ("overrides", "ids", "expected"),
    [(MOVE, (0, 1, 2), [0, 2]), (MOVE, (0, 1), [0, 1]), ("", (0, 1, 2), [0, 1])],
)
def test_a_slow_device_is_avoided_by_choice(
    bench: Callable[..., Bench], overrides: str, ids: tuple[int, ...], expected: list[int]
) -> None:
    """Only where the job says so, and only where others will do."""
    one = bench(found(*ids), overrides=overrides)
    one.recorder.ledger.slow_devices["here/ascend:1"] = "its rank was slow"
    assert one.ids() == expected


def test_a_slow_device_is_better_than_a_blamed_one(bench: Callable[..., Bench]) -> None:
    """With both and no third: what is only slow is used."""
    one = bench(found(0, 1, 2), overrides=MOVE)
    one.recorder.ledger.slow_devices["here/ascend:1"] = "its rank was slow"
    blame(one, "ascend:2")
    assert one.ids() == [0, 1]


def test_two_runs_never_have_the_same_device(bench: Callable[..., Bench]) -> None:
    """Its tools call it free until a rank has opened it; a run that ends gives it back."""
    one, other, third = (bench(found(0, 1, 2, 3)) for _ in range(3))
    assert one.ids() == [0, 1] and other.ids() == [2, 3]
    with pytest.raises(Unstartable, match="in use by another run of muster"):
        third.ids()
    one.devices.close()
    assert third.ids() == [0, 1]


def test_a_run_that_moves_on_gives_back_what_it_left(bench: Callable[..., Bench]) -> None:
    """Its next attempt keeps the devices that it goes on with."""
    one, other = bench(found(0, 1, 2), found(1, 2)), bench(found(0, 1, 2, 3))
    assert one.ids() == [0, 1]
    one.devices._seen = None
    assert one.ids() == [1, 2] and other.ids() == [0, 3]


def test_a_first_start_does_not_wait(bench: Callable[..., Bench]) -> None:
    """The user stands there: the reason at once."""
    one = bench(found(0, 1, d1="ECC twice"))
    with pytest.raises(Unstartable) as refused:
        one.ids()
    assert refused.value.failure is FailureClass.USER
    assert one.looks == 1


def test_a_recovery_waits_for_a_device(bench: Callable[..., Bench], monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """It looks again until there are enough, and tells once what it waits for."""
    monkeypatch.setattr("orchestrator.devices._LOOK_AGAIN", 0.01)
    sick = found(0, 1, d1="ECC twice")
    one = bench(sick, sick, sick, found(0, 1))
    assert one.ids(recovering=True) == [0, 1]
    assert [e.kind for e in one.recorder.events()].count("waiting") == 1


def test_the_wait_of_a_recovery_ends(bench: Callable[..., Bench]) -> None:
    """`limits.wait` bounds it; the failure is the device's then."""
    one = bench(found(0, 1, d1="ECC twice"), overrides="limits.wait=200ms")
    with pytest.raises(Unstartable, match=r"no devices within 0\.2 s") as refused:
        one.ids(recovering=True)
    assert refused.value.failure is FailureClass.DEVICE


def had(bench: Bench, *devices: str) -> None:
    """As the journal has it after an attempt on these devices."""
    bench.recorder.ledger.places = {r: ("here", device) for r, device in enumerate(devices)}


FULL = replace(found(0, 1), occupied={"here/ascend:1": "30.0 of 64 GB in use"})


def test_a_device_is_used_again_when_its_memory_is_free(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that was killed may leave the driver some seconds to clear up after it."""
    monkeypatch.setattr("orchestrator.devices._RELEASE_LOOK", 0.01)
    one = bench(FULL, FULL, FULL, found(0, 1))
    had(one, "ascend:0", "ascend:1")
    assert one.ids(recovering=True) == [0, 1]
    assert one.looks == 4
    [told] = [e for e in one.recorder.events() if e.kind == "waiting"]
    assert "here/ascend:1: 30.0 of 64 GB in use, and no process is listed" in told.reason


def test_the_wait_for_free_memory_ends(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant that nobody here can see may have it: the start is tried, and that is told."""
    monkeypatch.setattr("orchestrator.devices._RELEASE_LOOK", 0.01)
    monkeypatch.setattr("orchestrator.devices.RELEASE_PATIENCE", 0.1)
    one = bench(FULL)
    had(one, "ascend:0", "ascend:1")
    assert one.ids(recovering=True) == [0, 1]
    assert "not waited for any longer" in one.recorder.events()[-1].reason


def test_memory_of_devices_that_this_run_did_not_have_is_not_waited_for(
    bench: Callable[..., Bench],
) -> None:
    """What fills it is no remains of this run."""
    one = bench(FULL)
    had(one, "ascend:0", "ascend:7")
    assert one.ids(recovering=True) == [0, 1] and one.looks == 1


def test_a_device_is_free_when_its_tool_lists_no_process(bench: Callable[..., Bench]) -> None:
    """By what npu-smi shows: one that a dying process holds is waited for, by whatever name."""
    here = Node("here", "10.0.0.1", CpuBudget((0, 1)))
    held = of_report(report(simulated_node("910B3", 2, "foreign:1=4711/python/30000")), here)
    assert "in use by python (pid 4711)" in held.withheld["simulated/ascend:1"]
    assert held.occupied == {}
    seen = report(simulated_node("910B3", 2))
    left = replace(seen.devices[1], memory=Memory(30000, 65536))
    unseen = of_report(replace(seen, devices=(seen.devices[0], left)), here)
    assert unseen.occupied == {"simulated/ascend:1": "29.3 of 64 GB in use"}
    assert of_report(seen, here).occupied == {}


def test_faults_are_those_of_the_gangs_devices_now(bench: Callable[..., Bench]) -> None:
    """By rank: unwell, or not there any more; a look from before the failure does not count."""
    one = bench(found(0, 1, 2, 3), found(0, 2, 3, d0="alarm", d3="lost"))
    assert one.devices.faults(one.placement()) == {
        0: "here/ascend:0: alarm",
        1: "here/ascend:1: it is not there any more",
    }
    assert one.looks == 2


@pytest.mark.parametrize(
    ("now", "whole"),
    [
        (found(0, 1, 2), True),
        (found(0, 1, d1="alarm"), False),
        (found(0), False),
        (found(0, 1, 2, d1="alarm"), True),
        (replace(found(0, 1, d1="in use by python (pid 7)"), unwell={}), True),
        (found(silent="npu-smi info: no answer within 5 s"), True),
        (NoSuchNode("no rehearsal node there"), True),
    ],
)
def test_whether_all_ranks_could_have_a_device_again(
    bench: Callable[..., Bench], now: Found | Exception, whole: bool
) -> None:
    """Without those at fault, and with spare ones; what nobody can say is held against nobody."""
    one = bench(found(0, 1), now)
    placement = one.placement()
    assert one.devices.whole(placement, one.devices.faults(placement)) is whole


def test_a_busy_device_is_not_at_fault(bench: Callable[..., Bench]) -> None:
    """What keeps a device from jobs is not always a fault of it."""
    busy = replace(found(0, 1, d1="in use by python (pid 7)"), unwell={})
    one = bench(found(0, 1), busy)
    assert one.devices.faults(one.placement()) == {}


@pytest.mark.parametrize(
    "now",
    [
        found(silent="npu-smi info: no answer within 5 s"),
        replace(found(), missing="npu-smi was not found"),
        NoSuchNode("no rehearsal node there"),
    ],
)
def test_silence_is_no_fault(bench: Callable[..., Bench], now: Found | Exception) -> None:
    """Tools that do not answer say nothing against a device; that they did not is told."""
    one = bench(found(0, 1), now)
    assert one.devices.faults(one.placement()) == {}
    assert "nobody can say" in one.recorder.events()[-1].reason


@pytest.mark.parametrize(
    ("fault", "ill"), [("driver-down", 0), ("hang", 0), ("lost:1", 1), ("hang:1", 1)]
)
def test_a_device_is_ill_by_what_was_said_of_it(fault: str, ill: int) -> None:
    """Of one that npu-smi leaves out, or cannot ask, it has spoken; of none when it is silent."""
    here = Node("local", "10.0.0.1", CpuBudget((0, 1)))
    seen = of_report(report(simulated_node("910B3", 2, fault)), here)
    assert len(seen.unwell) == ill and bool(seen.silent) == (ill == 0)


def test_hardware_and_rehearsal_do_not_mix(bench: Callable[..., Bench]) -> None:
    """A run goes on on what it began on."""
    one = bench(found(0, 1, simulated=""))
    one.recorder.ledger.simulated = True
    with pytest.raises(Unstartable, match="began on simulated devices and would go on on hardware"):
        one.ids()


FOUR = TWO.replace("ranks: 2}", "ranks: 4}") + "restart: {min_ranks: 1}\n"


def ran(bench: Bench, size: int = 4) -> Bench:
    """As the journal has it after an attempt of `size` processes."""
    bench.recorder.ledger.attempt = 1
    bench.recorder.ledger.world = World(4, size)
    return bench


def test_a_first_attempt_is_never_smaller(bench: Callable[..., Bench]) -> None:
    """It was asked for with all its ranks: it waits, or is refused."""
    with pytest.raises(Unstartable, match="4"):
        bench(found(0, 1, 2), text=FOUR).ids()


def test_a_job_that_has_run_goes_on_with_the_largest_divisor(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three devices are of no more use to four ranks than two."""
    monkeypatch.setattr(world, "PATIENCE", 0.0)
    for there, taken in (((0, 1, 2), [0, 1]), ((3,), [3]), ((0, 1, 2, 3), [0, 1, 2, 3])):
        one = ran(bench(found(*there), text=FOUR))
        assert one.ids(recovering=True) == taken
        one.devices.close()


def test_all_devices_are_waited_for_a_moment(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that is there again at the second look is not done without."""
    monkeypatch.setattr(devices_module, "_LOOK_AGAIN", 0.01)
    one = ran(bench(found(0, 1, 2), found(0, 1, 2, 3), text=FOUR))
    assert one.ids(recovering=True) == [0, 1, 2, 3]
    assert one.looks == 2


def test_a_job_that_is_small_already_waits_for_nothing(bench: Callable[..., Bench]) -> None:
    """Its devices were waited for when it became so."""
    small = ran(bench(found(0, 1, 2), text=FOUR), size=2)
    assert small.ids(recovering=True) == [0, 1]


def test_a_job_that_may_not_shrink_waits(bench: Callable[..., Bench]) -> None:
    """Without `restart.min_ranks` all ranks are the least."""
    whole = FOUR.replace("restart: {min_ranks: 1}", "limits: {wait: 0.1s}")
    with pytest.raises(Unstartable, match="4"):
        ran(bench(found(0, 1, 2), text=whole), size=2).ids(recovering=True)


def test_a_smaller_place_is_not_where_a_larger_world_stays(bench: Callable[..., Bench]) -> None:
    """What an earlier controller held for two is no place for four."""
    small = ran(bench(found(0, 1), text=FOUR), size=2)
    placement = small.devices.allocate(recovering=True).placement
    small.devices.close()
    one = ran(bench(found(0, 1, 2, 3), text=FOUR), size=2)
    one.devices.hold(placement, NODE)
    assert one.ids(recovering=True) == [0, 1, 2, 3]


def test_own_devices_count_when_it_is_asked_whether_all_are_there(
    bench: Callable[..., Bench],
) -> None:
    """Its ranks are on them, and their tools say so; another's process is another matter."""
    one = ran(bench(found(0, 1), text=FOUR), size=2)
    own = one.devices.allocate(recovering=True).placement
    busy = {"d0": "in use by python (pid 7)", "d1": "in use by python (pid 8)"}

    def all_there(*ids: int, **withheld: str) -> bool:
        return one.devices.could_have_all(replace(found(*ids, **withheld), unwell={}), own)

    assert all_there(0, 1, 2, 3, **busy)
    assert not all_there(0, 1, 2, 3, d3="in use", **busy)
    assert not all_there(0, 1, 2, **busy)


def test_an_own_device_that_is_unwell_does_not_count_as_there(
    bench: Callable[..., Bench],
) -> None:
    """To end an attempt for a larger one that could not begin would be worse than to go on."""
    one = ran(bench(found(0, 1), text=FOUR), size=2)
    own = one.devices.allocate(recovering=True).placement
    seen = found(0, 1, 2, 3)
    key = own.assignments[1].device.key
    seen = replace(seen, withheld={**seen.withheld, key: "alarm"}, unwell={key: "alarm"})
    assert not one.devices.could_have_all(seen, own)


def test_a_glance_waits_for_nobody(bench: Callable[..., Bench]) -> None:
    """The first call begins to look, a later one has the answer; a tool that fails is no device."""
    one = ran(bench(found(0, 1), NoSuchNode("gone"), text=FOUR), size=2)
    poll(lambda: one.devices.glance() is not None, what="an answer")
    seen = poll(one.devices.glance, what="another")
    assert seen.missing == "gone" and seen.devices == ()


@pytest.mark.parametrize("gives", [True, False])
def test_a_small_job_of_a_queue_gets_what_the_queue_gives(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, gives: bool
) -> None:
    """All four devices are free: only the queue knows for whom. It gives all, or no more."""
    before = bench(found(0, 1, 2, 3), text=FOUR)
    whole = before.placement()
    before.devices.close()
    made = ran(bench(found(0, 1, 2, 3, 4, 5), text=FOUR), size=1)
    asked: list[int] = []

    def queue(request: Request) -> Placement | Refusal:
        asked.append(request.ranks)
        return whole if gives else Refusal("job w goes before it")

    monkeypatch.setattr(made.devices, "_queue", queue)
    assert len(made.ids(recovering=True)) == (4 if gives else 1)
    assert asked == [4]
