"""How stragglers are made known: the journal's words, and what tools say of the device."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.device import Device, DeviceKind, Inventory
from orchestrator.found import Found
from orchestrator.journal import Journal
from orchestrator.layout import RunDirectory
from orchestrator.recorder import Recorder
from orchestrator.slow_ranks import SlowRanks
from orchestrator.stragglers import COMPUTES, News, Slow
from tests.test_devices import Quiet

DEVICE = Device(DeviceKind.ASCEND, "here", 5)


class Scene:
    """A gang of whose ranks somebody has news, and tools that answer later."""

    def __init__(self, directory: Path, answer: Future[Found] | None) -> None:
        self.recorder = Recorder(Journal(RunDirectory(directory).events), Quiet())
        self.asked = 0
        self._answer = answer
        self.slow_ranks = SlowRanks(self.recorder, self)  # type: ignore[arg-type]

    def ask(self) -> Future[Found] | None:
        """As `Devices.ask`."""
        self.asked += 1
        return self._answer

    def tell(self, *news: News, attempt: int = 1) -> list[dict[str, Any]]:
        """What is in the journal after one more look."""
        assignment = SimpleNamespace(rank=3, node="here", device=DEVICE)
        plan = SimpleNamespace(
            ranks=[SimpleNamespace(assignment=assignment)],
            attempt=SimpleNamespace(number=attempt),
        )
        self.slow_ranks.tell(SimpleNamespace(plan=plan, stragglers=lambda: list(news)))  # type: ignore[arg-type]
        return [event.data for event in self.recorder.events()]


def answered(**fields: Any) -> Future[Found]:
    """An answer of the tools that is there already."""
    future: Future[Found] = Future()
    future.set_result(Found(Inventory(()), **fields))
    return future


SLOW = News(3, Slow(2.0, COMPUTES), 30.0, over=False)


def test_what_is_known_is_told_at_once(tmp_path: Path) -> None:
    """Nobody asks tools about a rank that waits for its data, or that is not slow any more."""
    scene = Scene(tmp_path, answered())
    slow = Slow(1.75, "it waits for its data")
    told = scene.tell(News(3, slow, 31.26, over=False), News(3, SLOW.slow, 90.0, over=True))
    assert scene.asked == 0
    assert [(one["rank"], one["factor"], one["over"]) for one in told] == [
        (3, 1.75, False), (3, 2.0, True),
    ]  # fmt: skip
    assert told[0] == {
        "rank": 3, "factor": 1.75, "likely": "it waits for its data", "seconds": 31.3,
        "over": False, "node": "here", "device": "ascend:5",
    }  # fmt: skip
    reason = scene.recorder.events()[0].reason
    assert reason.startswith("rank 3 needed 1.75 times as long as its peers")


@pytest.mark.parametrize(
    ("fields", "likely"),
    [
        ({"concerns": {"here/ascend:5": ("hot: 91 °C",)}}, "its device: hot: 91 °C"),
        ({"unwell": {"here/ascend:5": "alarm"}}, "its device: alarm"),
        ({"unwell": {"here/ascend:6": "alarm"}}, COMPUTES),
    ],
)
def test_the_tools_explain_what_the_process_does_not(
    tmp_path: Path, fields: dict[str, Any], likely: str
) -> None:
    """What they say of this rank's device is the likely reason."""
    scene = Scene(tmp_path, answered(**fields))
    assert [one["likely"] for one in scene.tell(SLOW)] == [likely]


def test_it_waits_for_tools_without_standing_still(tmp_path: Path) -> None:
    """Told when they answer, also when they fail; not of an attempt that is over by then."""
    late: Future[Found] = Future()
    scene = Scene(tmp_path, late)
    assert scene.tell(SLOW) == []
    late.set_exception(OSError("no tool"))
    assert [one["likely"] for one in scene.tell()] == [COMPUTES]
    assert len(scene.tell()) == 1
    late = Future()
    scene = Scene(tmp_path / "other", late)
    (tmp_path / "other").mkdir()
    assert scene.tell(SLOW) == []
    late.set_result(Found(Inventory(())))
    assert scene.tell(attempt=2) == []
