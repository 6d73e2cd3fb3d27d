"""Thousands of random histories of faults in virtual time: what must hold holds at every event.

A history that breaks something tells its seed and all that happened; MUSTER_TEST_SEED plays it
alone, and `python -m tests.simulation SEED` tells it.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from orchestrator import (
    checkpoints,
    controller,
    devices,
    ending,
    growth,
    health,
    judge,
    ledger,
    snapshot_slots,
    snapshots,
    vault,
    world,
)
from orchestrator.checkpoints import Broken as BrokenCheckpoint
from orchestrator.snapshot_keeper import SnapshotKeeper
from orchestrator.states import FailureClass
from tests.simulation import history
from tests.simulation.faults import FAULTS
from tests.simulation.history import Ended, Plot, play
from tests.simulation.watch import Broken

HISTORIES = 1500
SOAK = 20_000
FEW = 400
"""Histories within which a planted mistake is found; most are in the first ten."""


def play_all(seeds: range) -> list[Ended]:
    """Play one history a seed, or the one that is asked for."""
    asked = os.environ.get("MUSTER_TEST_SEED")
    return [play(seed) for seed in ([int(asked)] if asked else seeds)]


def test_what_must_hold_holds_in_every_history() -> None:
    """One gang at a time, no start twice, exact budgets, no step lost, legal moves, an end."""
    ended = play_all(range(1, HISTORIES + 1))
    if len(ended) == 1:
        return
    # A simulation in which nothing happens would prove nothing.
    faults = Counter(fault for one in ended for fault in one.faults)
    assert faults.keys() == FAULTS.keys()
    assert sum(one.failures for one in ended) > HISTORIES / 4
    assert sum(one.deaths for one in ended) > HISTORIES / 8
    assert sum(one.from_snapshots for one in ended) > HISTORIES / 20
    assert sum(one.promoted for one in ended) > HISTORIES / 40
    assert sum(one.shrunk for one in ended) > HISTORIES / 50
    assert sum(one.grown for one in ended) > HISTORIES / 200
    states = Counter(one.state.value for one in ended)
    assert min(states["SUCCEEDED"], states["FAILED"], states["CANCELLED"]) > 5, states


@pytest.mark.soak
def test_what_must_hold_holds_in_very_many_histories() -> None:
    """Other histories at every run."""
    first = random.SystemRandom().randrange(1 << 40)
    play_all(range(first, first + SOAK))


def test_a_history_is_the_same_whenever_it_is_played() -> None:
    """A failing seed replays."""
    for seed in (3, 11, 19):
        assert play(seed) == play(seed)


PLOTS = {
    "supervisor and controller die together": Plot(
        ((45.0, "kill-controller"), (46.0, "kill-supervisor")), 200.0
    ),
    "a rank, its supervisor and the controller die": Plot(
        ((45.0, "kill-controller"), (46.0, "kill-rank"), (48.0, "kill-supervisor")), 20.0
    ),
    "an order before the supervisor has dialled": Plot(
        ((45.0, "kill-controller"), (46.0, "freeze-supervisor"), (66.5, "requeue")), 20.0
    ),
    "the supervisor stands still once it has dialled": Plot(
        ((45.0, "kill-controller"), (45.3, "freeze-supervisor")), 0.05
    ),
    "something happens while it grows": Plot(
        ((45.0, "lose-devices"), (46.0, "while-it-grows")), 0.05, shrinks=True
    ),
    "the machine is wanted back": Plot(((45.0, "terminate"),), 0.05, served=False),
}
"""Histories that were judged wrongly once: as a hang, or with the loss of an earlier supervisor; or
that lost what only a snapshot held.
"""


@pytest.mark.parametrize("plot", PLOTS)
def test_what_went_wrong_once_goes_well(plot: str) -> None:
    """Nobody is blamed for what did not happen, and nothing runs that is on record as stopped."""
    for seed in range(1, 61):
        play(seed, PLOTS[plot])


def no_stop(_: Callable[..., Any]) -> Callable[..., Any]:
    """The gang is taken for stopped."""

    def stop(self: Any, way: Any, *, grace: float = 0.0) -> None:
        way.gang.stopped_at = 0.0

    return stop


def twice(real: Callable[..., Any]) -> Callable[..., Any]:
    """Every failure is charged twice."""

    def charge(known: Any, event: Any) -> None:
        real(known, event)
        real(known, event)

    return charge


def one_more(real: Callable[..., Any]) -> Callable[..., Any]:
    """Every budget is one larger than the job says."""

    def decide(finding: Any, past: Any, restart: Any, **more_of_it: Any) -> Any:
        more = {k: v if v is None else v + 1 for k, v in restart.budgets.items()}
        return real(finding, past, replace(restart, budgets=more), **more_of_it)

    return decide


def started_again(real: Callable[..., Any]) -> Callable[..., Any]:
    """Every attempt is started a second time."""

    def begin(self: Any) -> Any:
        way = real(self)
        self.node.start(self.ledger.attempt, way.gang.plan)
        return way

    return begin


def oldest(real: Callable[..., Any]) -> Callable[..., Any]:
    """The oldest checkpoint that is whole is chosen."""

    def newest(self: Any, *_: Any, **__: Any) -> Any:
        for one in reversed(self.catalogue()):
            result = checkpoints.verify(one)
            if not isinstance(result, BrokenCheckpoint):
                yield result
                return

    return newest


def all_of_them(_: Callable[..., Any]) -> Callable[..., Any]:
    """Nothing is worth keeping."""
    return lambda present, keep, spared=(): [one.path for one in present]


def never(_: Callable[..., Any]) -> Callable[..., Any]:
    """The answer is always no."""
    return lambda *_, **__: False


def any_done(_: Callable[..., Any]) -> Callable[..., Any]:
    """One rank at its third step will do."""
    return lambda seen: any(view.succeeded or (view.beat and view.beat.step > 3)
                            for view in seen.ranks)  # fmt: skip


def nothing(_: Callable[..., Any]) -> Callable[..., Any]:
    """Nothing is done."""
    return lambda *_, **__: None


def alone(_: Callable[..., Any]) -> Callable[..., Any]:
    """No peer was ever busy."""
    return lambda *_: -1e9


def rank_0_alone(real: Callable[..., Any]) -> Callable[..., Any]:
    """What rank 0 has sealed counts as whole."""

    def whole(path: Any, seals: Any) -> Any:
        return real(path, {rank: {**seals[0], "rank": rank} for rank in range(8)} if seals else {})

    return whole


def none_there(_: Callable[..., Any]) -> Callable[..., Any]:
    """No snapshot is ever found."""
    return lambda *_: iter(())


def thrown_away(_: Callable[..., Any]) -> Callable[..., Any]:
    """Snapshots are removed instead of promoted."""
    return lambda self, *_: self.remove()


def first_slot(_: Callable[..., Any]) -> Callable[..., Any]:
    """Every snapshot is written over the one before."""
    return lambda self: snapshot_slots.snapshot_slot(self.directory, 0)


def any_size(_: Callable[..., Any]) -> Callable[..., Any]:
    """Every number of ranks makes a world."""
    return lambda ranks, least: range(ranks, 0, -1)


def always(_: Callable[..., Any]) -> Callable[..., Any]:
    """The answer is always yes."""
    return lambda *_, **__: True


def charged(real: Callable[..., Any]) -> Callable[..., Any]:
    """A job that grows pays for it."""

    def growing(known: Any, event: Any) -> None:
        real(known, event)
        for failure in FailureClass:
            ledger._charge(known, failure)

    return growing


def half(real: Callable[..., Any]) -> Callable[..., Any]:
    """A restart is content with fewer devices at once."""

    def allocate(self: Any, *, recovering: bool, smaller: bool = False) -> Any:
        size = world.sizes(self._spec.resources.ranks, self._spec.restart.min_ranks)[-1]
        found = self._look()
        chosen = self._choose(found, size) if recovering and found.devices else None
        if isinstance(chosen, devices.Placement):
            return devices.Allocation(chosen, found)
        return real(self, recovering=recovering)

    return allocate


Planted = tuple[Any, str, Callable[[Callable[..., Any]], Callable[..., Any]], str]
MISTAKES: dict[str, Planted] = {
    "no stop before a restart": (ending.Ending, "stop", no_stop, "processes run|two gangs"),
    "charged twice": (ledger, "_failure", twice, "budget left|restarts left by the record"),
    "a restart too many": (judge, "decide", one_more, "is used up|restarts left by the record"),
    "started twice": (controller.Controller, "_begin", started_again, "is started twice"),
    "an old checkpoint": (vault.Vault, "newest", oldest, "was there whole"),
    "retention takes all": (
        checkpoints,
        "expendable",
        all_of_them,
        "there whole|deletes the newest",
    ),
    "never at its end": (controller, "finished", never, "looks"),
    "at its end too early": (controller, "finished", any_done, "the last step was never made"),
    "devices not given back": (devices.Devices, "close", nothing, "devices are leased"),
    "a part of a snapshot": (
        snapshots,
        "whole",
        rank_0_alone,
        "sealed by all|resumed from step|not sealed",
    ),
    "snapshots are not found": (SnapshotKeeper, "newest_first", none_there, "from step|is gone"),
    "no promotion": (SnapshotKeeper, "promote", thrown_away, r"snapshot of step \d+ is gone"),
    "one slot only": (snapshot_slots.Slots, "next", first_slot, "steps are lost"),
    "a world of any size": (world, "sizes", any_size, "processes compute"),
    "never at full size again": (growth.Growth, "watch", nothing, "it does not grow"),
    "to full size too early": (devices.Devices, "could_have_all", always, "that are not there"),
    "growth is charged": (ledger, "_growing", charged, "restarts left by the record"),
    "smaller without need": (devices.Devices, "allocate", half, "though all devices are well"),
    "silence while a peer is busy": (health, "_waited_until", alone, "blamed as hang"),
}
"""By what is wrong: where it is planted, how, and what is then said to be broken."""

SHRINKS = Plot(((45.0, "lose-devices"),), 0.05, shrinks=True)
GROWS = replace(
    SHRINKS, faults=(*SHRINKS.faults, *((n, "kill-rank") for n in range(200, 800, 100)))
)

GROWING = {
    "never at full size again": SHRINKS,
    "to full size too early": SHRINKS,
    "growth is charged": GROWS,
}
"""In what else would rarely come to it."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_simulation_finds_planted_mistakes(
    mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these would be found, and by what it breaks."""
    place, name, change, found = MISTAKES[mistake]
    changed = change(getattr(place, name))
    monkeypatch.setattr(place, name, changed)
    if place is ledger:
        monkeypatch.setitem(ledger._HANDLERS, name.removeprefix("_"), changed)
    monkeypatch.setattr(history, "BOUND", 2000.0 if mistake == "never at its end" else 30_000.0)
    with pytest.raises(Broken, match=rf"^[^\n]*({found})"):
        for seed in range(1, FEW + 1):
            play(seed, GROWING.get(mistake))
