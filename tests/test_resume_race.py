"""A person resumes a failed job while its controller still makes a checkpoint of its snapshot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import snapshot_place, snapshots
from orchestrator.checkpoints import Checkpoint, Verified, catalogue, verify
from orchestrator.keeper import CheckpointKeeper
from orchestrator.layout import RunDirectory
from orchestrator.orders import OrderKind
from orchestrator.recorder import Recorder
from orchestrator.service.head import Head
from orchestrator.service.store_log import StoreLog, all_events
from orchestrator.snapshot_keeper import SnapshotKeeper
from orchestrator.states import JobState
from orchestrator.store import Store
from orchestrator.store.values import JobRecord
from tests.support_core import write_checkpoint
from tests.test_head import submit
from tests.test_snapshots import Nobody, take

RANKS = 2
DURABLE, NEWEST = 10, 15
"""Steps of its newest checkpoint, and of its newest snapshot."""

MOMENTS: dict[str, tuple[Any, str] | None] = {
    "before it begins": None,
    "while it looks for checkpoints": (CheckpointKeeper, "_durable"),
    "while it is copied": (snapshots, "_copy"),
    "before it has its name": (snapshots, "sync_directory"),
    "before it is on record": (SnapshotKeeper, "_record_promoted"),
    "before tmpfs is given back": (snapshot_place, "remove"),
}
"""What the controller is about to do as the order comes."""

TOO_LATE = ("before it begins", "while it looks for checkpoints")
"""Nothing can be recorded any more of what it finds: the snapshot stays for the next controller."""


class Scene:
    """A failed job with a snapshot newer than its checkpoints, whose drive has not ended yet."""

    def __init__(self, head: Head, directory: Path) -> None:
        self.head = head
        self.job = submit(head, directory).job
        self.run = RunDirectory(Path(self.record.run_dir))
        self.run.checkpoints.mkdir(parents=True)
        write_checkpoint(self.run.checkpoints, DURABLE)
        place = snapshot_place.prepare(self.run)
        assert place is not None
        take(0, place, NEWEST, RANKS)
        self.keeper = self.another_keeper()
        self.keeper._recorder.record("refused", "its budget is used up", state=JobState.FAILED)
        head._drives[self.job] = SimpleNamespace(job=self.job)  # type: ignore[assignment]

    @property
    def record(self) -> JobRecord:
        """The job as the store has it."""
        return self.head.job(self.job)

    def another_keeper(self) -> CheckpointKeeper:
        """What a controller has that begins to drive the job now."""
        head = self.head
        kept = StoreLog(
            head.store, self.job, epoch=head.epoch, directory=self.run, news=head.news
        )  # fmt: skip
        recorder = Recorder(kept, Nobody())
        return CheckpointKeeper(self.run, recorder, keep=5, world_size=RANKS)

    def resume(self) -> None:
        """A person's order, by a thread of the API."""
        told = threading.Thread(
            target=self.head.order, args=(self.job, OrderKind.RESUME, "ann"), daemon=True
        )
        told.start()
        told.join(20)
        assert not told.is_alive(), "the order waits for the promotion"
        assert self.record.state is JobState.QUEUED


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Real files, a real store, a head that drives nothing by itself."""
    (tmp_path / "store").mkdir(mode=0o700)
    with Store.open(tmp_path / "store" / "muster.db") as store:
        made = Scene(Head(store, tmp_path / "runs", {}), tmp_path)
        yield made
        snapshot_place.remove(made.run)


def first(do: Callable[[], None], then: Callable[..., Any]) -> Callable[..., Any]:
    """A function before whose first call something else happens."""
    before = [do]

    def call(*arguments: Any, **options: Any) -> Any:
        while before:
            before.pop()()
        return then(*arguments, **options)

    return call


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_job_that_is_resumed_during_a_promotion_goes_on_from_that_step(
    scene: Scene, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is obeyed, every file is whole, and there is one choice, the newest."""
    at = MOMENTS[moment]
    with monkeypatch.context() as patch:
        if at is None:
            scene.resume()
        else:
            patch.setattr(*at, first(scene.resume, getattr(*at)))
        scene.keeper.close()
    assert scene.record.state is JobState.QUEUED

    scene.head.drive(scene.record, None)
    assert isinstance(scene.head._drives[scene.job], SimpleNamespace), "two drives of one job"
    del scene.head._drives[scene.job]

    next_one = scene.another_keeper()
    chosen = next_one.choose(RANKS)
    assert chosen == next_one.choose(RANKS)
    assert chosen is not None and chosen.step == NEWEST
    assert chosen == verify(Checkpoint(chosen.path, NEWEST))
    promoted = chosen.path.parent == scene.run.checkpoints
    assert promoted is (moment not in TOO_LATE)
    names = {one.name for one in scene.run.checkpoints.iterdir()}
    steps = {DURABLE, NEWEST} if promoted else {DURABLE}
    assert names == {f"step-{step:08d}" for step in steps}, "something is left aside"
    assert all(isinstance(verify(one), Verified) for one in catalogue(scene.run.checkpoints))
    kinds = [event.kind for event in all_events(scene.head.store, scene.job)]
    assert kinds.count("again") == 1 and kinds.count("promoted") <= 1
    assert "quarantined" not in kinds


def test_a_job_that_is_resumed_after_a_promotion_has_it_on_record(scene: Scene) -> None:
    """And nothing of it in tmpfs."""
    scene.keeper.close()
    scene.resume()
    kinds = [event.kind for event in all_events(scene.head.store, scene.job)]
    assert kinds[-3:] == ["checkpoint", "promoted", "again"]
    assert snapshot_place.of(scene.run) is None


def test_a_promotion_that_fails_for_a_resumed_job_leaves_it_its_snapshot(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt starts from tmpfs, and spares that slot."""

    def full(*_: object) -> None:
        scene.resume()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "_copy", full)
        scene.keeper.close()
    chosen = scene.another_keeper().choose(RANKS)
    assert chosen is not None and chosen.step == NEWEST
    assert chosen == verify(Checkpoint(chosen.path, NEWEST))
    assert chosen.path.parent == snapshot_place.of(scene.run)
