"""When a smaller world is left for the full one."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.allocate import Placement, Refusal
from orchestrator import world
from orchestrator.growth import Grows, Growth
from orchestrator.ledger import Ledger
from orchestrator.states import JobState
from orchestrator.world import World

FOUND = object()


@dataclass
class Scene:
    """A run in a smaller world, in which nothing is there that this does not say."""

    size: int = 4
    stepping_for: float | None = 1000.0
    listens: bool = True
    looks: list[Any] = field(default_factory=lambda: [None, FOUND])
    devices_are_back: bool = True
    says: list[Future[Any]] | None = None
    """What the queue says, one after another; None: there is none."""
    done: list[str] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)

    def growth(self) -> Growth:
        """The watcher, with everybody it talks to."""
        self.ledger.world = World(8, self.size)

        def told(name: str) -> Callable[..., None]:
            return lambda *_, **__: self.done.append(name)

        def record(kind: str, reason: str, *, state: JobState | None = None) -> None:
            self.done.append(kind if state else f"{kind}: {reason}")
            self.ledger.state = state or self.ledger.state

        return Growth(
            SimpleNamespace(
                glance=lambda: self.looks.pop(0) if self.looks else FOUND,
                could_have_all=lambda found, own: self.devices_are_back,
                ask_queue=self.ask_queue,
            ),  # type: ignore[arg-type]
            SimpleNamespace(ledger=self.ledger, record=record),  # type: ignore[arg-type]
            SimpleNamespace(let_save=told("let_save"), stop=told("stop"), record=told("record")),  # type: ignore[arg-type]
            SimpleNamespace(settle=told("settle")),  # type: ignore[arg-type]
        )

    def ask_queue(self) -> Future[Any] | None:
        return None if self.says is None else self.says.pop(0)

    def way(self) -> Any:
        """The attempt under way."""
        ago = self.stepping_for
        beat = SimpleNamespace(stops=self.listens)
        gang = SimpleNamespace(
            first_step_at=None if ago is None else time.monotonic() - ago,
            views=[SimpleNamespace(beat=beat)],
            plan=SimpleNamespace(placement=None),
        )
        return SimpleNamespace(gang=gang)


def test_all_devices_that_are_back_end_the_smaller_world() -> None:
    """The first call begins to look, the one that has the answer says so."""
    scene = Scene()
    growth = scene.growth()
    growth.watch(scene.way())
    assert scene.looks == [FOUND]
    with pytest.raises(Grows, match="all 8 ranks"):
        growth.watch(scene.way())


def says(*answers: Placement | Refusal) -> list[Future[Any]]:
    """A queue that answers at once."""
    futures: list[Future[Any]] = []
    for answer in answers:
        futures.append(Future())
        futures[-1].set_result(answer)
    return futures


def test_a_queue_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it refuses is not taken, and told once; the gang goes on until it gives."""
    monkeypatch.setattr(world, "LOOK_EVERY", 0.0)
    no, yes = Refusal("job w goes before it"), Placement(())
    scene = Scene(looks=[FOUND] * 4, says=says(no, no, yes))
    growth = scene.growth()
    growth.watch(scene.way())
    growth.watch(scene.way())
    told = "waiting: stays on 4 of 8 ranks' devices (2 virtual ranks each): job w goes before it"
    assert scene.done == [told]
    with pytest.raises(Grows):
        growth.watch(scene.way())


def test_a_queue_that_takes_its_time_is_not_waited_for() -> None:
    """Its answer is taken when it is there; one to an attempt that has ended is nobody's."""
    slow: Future[Any] = Future()
    scene = Scene(looks=[FOUND, FOUND], says=[slow, *says(Refusal("not now"))])
    growth = scene.growth()
    growth.watch(scene.way())
    growth.watch(scene.way())
    assert scene.done == [] and scene.looks == [FOUND]
    slow.set_result(Placement(()))
    scene.ledger.attempt += 1
    growth._next_look = 0.0
    growth.watch(scene.way())
    assert len(scene.done) == 1 and "not now" in scene.done[0]


@pytest.mark.parametrize(
    "scene",
    [
        Scene(size=8),
        Scene(stepping_for=None),
        Scene(stepping_for=world.SETTLED / 2),
        Scene(stepping_for=1.5 * world.SETTLED, ledger=Ledger(growths=1)),
        Scene(listens=False),
    ],
    ids=["whole", "no step yet", "just begun", "was in vain", "cannot be asked to save"],
)
def test_nobody_looks_before_it_is_worth_it(scene: Scene) -> None:
    """A look costs the devices' tools, a restart costs steps."""
    scene.growth().watch(scene.way())
    assert len(scene.looks) == 2


def test_looks_have_a_pause_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not there now is asked for again after LOOK_EVERY."""
    scene = Scene(looks=[FOUND, FOUND, FOUND], devices_are_back=False)
    growth = scene.growth()
    growth.watch(scene.way())
    growth.watch(scene.way())
    assert len(scene.looks) == 2
    monkeypatch.setattr(world, "LOOK_EVERY", 0.0)
    growth._next_look = 0.0
    growth.watch(scene.way())
    growth.watch(scene.way())
    assert len(scene.looks) == 0


def test_it_is_recorded_before_the_gang_is_asked_and_saved_before_it_is_stopped() -> None:
    """A kill after the record is taken up by the next controller, which finishes it."""
    scene = Scene()
    growth = scene.growth()
    assert not growth.begun()
    growth.begin(scene.way(), "all are back")
    assert scene.done == ["growing", "let_save", "stop", "record", "settle", "next"]
    assert scene.ledger.state is JobState.RECOVERING
    scene.ledger.attempt = scene.ledger.growing = 2
    assert not growth.begun(), "it is finished"
    scene.ledger.state = JobState.STOPPING
    assert growth.begun()
    scene.ledger.attempt = 3
    assert not growth.begun(), "it was an earlier attempt"
