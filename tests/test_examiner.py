"""A close look by the controller: bounded, without harm, and taken back if the hang is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.controller import Controller
from orchestrator.examiner import Examiner, notable
from orchestrator.health import NOT_DETERMINED, Limits, Observation, Sign, Suspect
from orchestrator.journal import Event, Journal
from orchestrator.layout import RunDirectory
from orchestrator.recorder import Recorder
from orchestrator.secrets import Redactor
from tests.support_core import done, training, view

HANG = Suspect(None, 5.0, Sign.HANG, "no step for 60 s while training" + NOT_DETERMINED)

ASLEEP = 'Current thread 0x1 (most recent call first):\n  File "/job/train.py", line 40 in main\n'
INSIDE = (
    "Current thread 0x1 (most recent call first):\n"
    '  File "/v/site-packages/mindspore/common/api.py", line 9 in __call__\n'
    '  File "/job/train.py", line 30 in main\n'
)
GONE = 'Current thread 0x1 (most recent call first):\n  File "t.py", line 1 in _shutdown\n'


class Quiet:
    """Nobody looks."""

    def event(self, event: Event) -> None:
        """Nothing is shown."""


class Scene:
    """An examiner whose supervisor is scripted: it answers after so many waits, or never."""

    def __init__(self, root: Path, *, answers: bool = True, supervised: bool = True) -> None:
        self.directory = RunDirectory(root)
        self.files = self.directory.attempt(0)
        self.files.create()
        self.recorder = Recorder(Journal(self.directory.events), Quiet())
        self.asked: list[float] = []
        self.answers = answers
        self.ranks: list[dict[str, Any]] = []
        views = (view(0, beat=training(9, 1.0)), view(1, beat=training(9, 1.0)))
        self.gang = SimpleNamespace(
            examined=None, redactor=Redactor({"TOKEN": "hush-hush-4711"}), views=views,
            view=lambda rank: self.gang.views[rank],
        )  # fmt: skip
        node = SimpleNamespace(
            supervised=supervised, examine=lambda attempt, patience: self.asked.append(patience)
        )
        self.examiner = Examiner(node, self.recorder, self.directory, self._hear)  # type: ignore[arg-type]
        self.way: Any = SimpleNamespace(gang=self.gang, seen_at=None)

    def _hear(self, seconds: float) -> None:
        if self.answers:
            self.gang.examined = self.ranks
        else:
            time.sleep(seconds)

    def rank(self, rank: int, dump: str, **fields: Any) -> None:
        """What the supervisor saw of a rank, after something older in its file."""
        self.files.stacks(rank).write_text("older\n" + dump)
        known = {"pid": 10 + rank, "state": "S", "wchan": "ep_poll", "cpu_used": 0.0}
        place = {"stacks": [6, 6 + len(dump.encode())], "no_stacks": "", "watched_seconds": 0.2}
        self.ranks.append({"rank": rank, **known, **place, **fields})

    def examine(self, suspect: Suspect = HANG) -> Suspect:
        return self.examiner.examine(self.way, suspect)

    def recorded(self) -> list[Event]:
        return [event for event in self.recorder.events() if event.kind == "examined"]


@pytest.fixture
def scene(tmp_path: Path) -> Callable[..., Scene]:
    """Makes one."""
    return lambda **how: Scene(tmp_path, **how)


def test_a_hang_gets_its_name_from_the_stacks(scene: Callable[..., Scene]) -> None:
    """Files, a line for every rank, and the cause say the same."""
    one = scene()
    one.rank(0, INSIDE)
    one.rank(1, ASLEEP)
    found = one.examine()
    assert found.rank == 1 and "/job/train.py:40 in main, while rank 0 waits" in found.cause
    [event] = one.recorded()
    assert event.data["ranks"] == [1]
    assert (
        "state S in ep_poll; 0.00 s of CPU in 0.2 s; step 9 in phase train"
        in (event.data["summary"]["1"])
    )
    assert one.files.examined(1).is_file() and len(event.data["files"]) == 4
    assert one.way.seen_at is not None


def test_no_secret_is_kept(scene: Callable[..., Scene]) -> None:
    """In no file of the evidence, and in nothing that is said of it."""
    one = scene()
    one.rank(0, INSIDE)
    one.rank(1, ASLEEP.replace("train", "hush-hush-4711"), threads=[{"name": "hush-hush-4711"}])
    assert "[secret TOKEN]" in one.examine().cause
    kept = [*one.files.evidence.iterdir(), one.directory.events]
    assert all("hush" not in file.read_text() for file in kept)


def test_who_is_done_is_not_blamed_for_leaving(scene: Callable[..., Scene]) -> None:
    """Its peers do not wait for it any more."""
    one = scene()
    one.gang.views = (view(0, beat=training(9, 1.0)), view(1, beat=done(2.0)))
    one.rank(0, INSIDE)
    one.rank(1, GONE)
    assert one.examine().rank is None


def test_a_supervisor_that_does_not_answer_is_not_waited_for(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gang is stopped all the same, and that nothing was seen is told."""
    monkeypatch.setattr("orchestrator.examiner._DEADLINE", 0.2)
    one = scene(answers=False)
    assert one.examine() == HANG
    assert one.recorded() == []
    assert "could not be examined" in one.recorder.events()[-1].reason


def test_without_a_supervisor_nobody_is_asked(scene: Callable[..., Scene]) -> None:
    """Its ranks have died with it."""
    one = scene(supervised=False)
    assert one.examine() == HANG and one.asked == []


def test_another_failure_does_not_wait(scene: Callable[..., Scene]) -> None:
    """The kernel's word about who lives comes with the end of the gang; most of it says nothing."""
    one = scene(answers=False)
    exited = Suspect(1, 5.0, Sign.EXIT, "killed by SIGKILL")
    assert one.examine(exited) == exited
    assert one.asked == [0.0] and one.recorded() == []
    one.rank(0, "", state="D", wchan="nfs_wait")
    one.rank(1, "")
    one.gang.examined = one.ranks
    [line] = notable(one.gang)
    assert (
        line
        == "rank 0: its process was in uninterruptible sleep when the gang was ended (nfs_wait)"
    )


def test_a_full_disk_does_not_keep_a_hung_gang_alive(scene: Callable[..., Scene]) -> None:
    """The evidence is lost then, the verdict is not."""
    one = scene()
    one.rank(0, INSIDE)
    one.rank(1, ASLEEP)
    for rank in (0, 1):
        one.files.examined(rank).mkdir()
    assert one.examine().rank == 1
    assert one.recorded()[0].data["files"] == []


@pytest.mark.parametrize(("stepped_at", "hung"), [(9.0, True), (99.0, False)])
def test_a_hang_that_is_over_after_the_look_is_none(
    scene: Callable[..., Scene], stepped_at: float, hung: bool
) -> None:
    """Ranks that went on while they were looked at were slow, and are not stopped."""
    one = scene()
    one.rank(0, INSIDE)
    one.rank(1, ASLEEP)
    ranks = tuple(view(rank, beat=training(9, stepped_at)) for rank in (0, 1))
    one.gang.observe = lambda: Observation(now=100.0, ranks=ranks, step_times=(0.1,))
    controller: Any = SimpleNamespace(_examiner=one.examiner, _recorder=one.recorder)
    suspect = Controller._looked_at(controller, one.way, HANG, Limits({}, None))
    assert (suspect is not None) == hung
    assert ("no hang" in one.recorder.events()[-1].reason) != hung
