"""The store: jobs, moves, events and what hangs on them, as its callers see it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.bars import Bar
from orchestrator.ledger import fold
from orchestrator.states import FailureClass, JobState, RankState
from orchestrator.store import errors
from orchestrator.store.values import (
    AttemptRecord,
    CheckpointRecord,
    Filter,
    IncidentRecord,
    Page,
    RankRecord,
    happened,
)
from tests.stores import TEXT, Head, submission

QUEUED, HELD, STARTING, RUNNING = (
    JobState.QUEUED,
    JobState.HELD,
    JobState.STARTING,
    JobState.RUNNING,
)
STOPPING, RECOVERING, FAILED, CANCELLED = (
    JobState.STOPPING,
    JobState.RECOVERING,
    JobState.FAILED,
    JobState.CANCELLED,
)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    """A new store with its first controller."""
    with Head(tmp_path / "store" / "muster.db") as head:
        yield head


def test_a_job_is_there_as_submitted(head: Head) -> None:
    """Queued, with an id of its name, its run directory, its file and a first event."""
    job = head.submit(None, "queue.priority=70", "limits.run=2h")
    assert job.job.startswith("small-") and job.name == "small" and job.user == "ann"
    assert job.run_dir == f"/runs/{job.job}"
    assert (job.state, job.priority, job.ranks, job.run_limit) == (QUEUED, 70, 2, 7200.0)
    assert head.store.job(job.job) == job
    file = head.store.job_file(job.job)
    assert file.text == TEXT.encode() and file.spec["queue"]["priority"] == 70
    (created,) = head.store.events(job.job)
    assert (created.sequence, created.event.kind, created.event.state) == (1, "created", QUEUED)


def test_secrets_are_not_stored(head: Head, tmp_path: Path) -> None:
    """Where they lie is kept; what they say is in no file of the store, nor in a backup."""
    secret = tmp_path / "token"
    secret.write_text("xyzzy-1234567890")
    secret.chmod(0o600)
    job = head.submit(None, f"secrets.S3_TOKEN={secret}")
    assert head.store.job_file(job.job).spec["secrets"] == {"S3_TOKEN": str(secret)}
    head.store.backup(tmp_path / "backup.db")
    head.store.close()
    files = [*head.store.path.parent.iterdir(), tmp_path / "backup.db"]
    assert any(str(secret).encode() in file.read_bytes() for file in files)
    assert not any(b"xyzzy-1234567890" in file.read_bytes() for file in files)


def test_a_name_may_be_submitted_again(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs of a name have two ids, even when the same suffix is drawn twice."""
    drawn = iter(["aaaaaa", "aaaaaa", "bbbbbb"])
    monkeypatch.setattr("orchestrator.store.jobs.secrets.token_hex", lambda _: next(drawn))
    assert [head.submit().job, head.submit().job] == ["small-aaaaaa", "small-bbbbbb"]


def test_a_repeated_submission_makes_one_job(head: Head) -> None:
    """The same key and body give the same job, however far it is; a key belongs to its user."""
    job = head.submit("k")
    head.walk(job.job, STARTING, RUNNING)
    assert head.submit("k") == head.store.job(job.job)
    assert head.submit("k", user="bob").job != job.job
    assert head.submit().job != head.submit().job
    assert len(head.store.jobs().jobs) == 4


def test_a_key_with_another_body_is_refused(head: Head) -> None:
    """The error names the job that has the key, and nothing is made."""
    job = head.submit("k")
    with pytest.raises(errors.KeyReused, match=rf"'k' was used for {job.job}"):
        head.submit("k", "resources.ranks=4")
    assert [one.job for one in head.store.jobs().jobs] == [job.job]


def test_a_move_and_its_event_are_one(head: Head) -> None:
    """The row follows the event; the ledger folded over the events says the same."""
    job = head.submit().job
    head.move(job, STARTING, "devices found", attempt=1, at=100.0)
    head.move(job, RUNNING, attempt=1, at=101.0)
    head.move(job, STOPPING, "rank 3 died", attempt=1, at=102.0)
    head.move(job, FAILED, "no budget", attempt=1, at=103.0)
    row = head.store.job(job)
    ledger = fold(told.event for told in head.store.events(job))
    assert (row.state, row.reason, row.ended_at) == (ledger.state, ledger.reason, ledger.ended_at)
    assert (row.attempt, row.started_at, row.ended_at) == (1, 100.0, 103.0)
    assert row.last_event == 5
    assert row.queued_at == row.submitted_at
    head.move(job, QUEUED, "resumed by hand", at=104.0)
    head.move(job, QUEUED, "waits on", at=105.0)
    again = head.store.job(job)
    assert (again.ended_at, again.queued_at) == (None, 104.0)


def test_an_illegal_move_leaves_nothing(head: Head) -> None:
    """Neither a state nor an event, nor what was to go with it."""
    job = head.submit().job
    with pytest.raises(errors.IllegalMove, match="QUEUED, which may not become SUCCEEDED"):
        head.move(job, JobState.SUCCEEDED, records=[AttemptRecord(attempt=1, started_at=1.0)])
    assert head.store.job(job).state is QUEUED
    assert len(head.store.events(job)) == 1 and head.store.attempts(job) == ()


def test_a_caller_that_saw_an_older_state_is_refused(head: Head) -> None:
    """Of two who decide on the same sight, the second is told what the first did."""
    job = head.submit().job
    head.move(job, CANCELLED, seen=QUEUED)
    with pytest.raises(errors.Moved, match="is CANCELLED by now, no longer QUEUED") as refused:
        head.move(job, STARTING, seen=QUEUED)
    assert refused.value.found is CANCELLED
    assert [told.event.state for told in head.store.events(job)] == [QUEUED, CANCELLED]


def test_an_event_without_a_move(head: Head) -> None:
    """It is recorded, and leaves the state; why a job waits becomes its reason."""
    job = head.submit().job
    head.store.transition(job, happened("drill", "x", rank=3), seen=QUEUED, epoch=head.epoch)
    assert head.store.job(job).reason == "job small"
    waiting = happened("waiting", "needs 8 devices, 7 are free")
    head.store.transition(job, waiting, seen=QUEUED, epoch=head.epoch)
    assert head.store.job(job).reason == "needs 8 devices, 7 are free"
    assert [told.event.data for told in head.store.events(job, after=1)] == [{"rank": 3}, {}]


def test_a_successor_silences_its_predecessor(head: Head) -> None:
    """Every writing call of an older epoch is refused, and writes nothing."""
    store, job = head.store, head.submit().job
    old, new = head.epoch, head.store.begin_epoch()
    assert (old, new, store.epoch) == (1, 2, 2)
    calls = [
        lambda: store.submit(submission(), epoch=old),
        lambda: store.transition(job, happened("x"), seen=QUEUED, epoch=old),
        lambda: store.record(job, AttemptRecord(attempt=1, started_at=1.0), epoch=old),
        lambda: store.bar("n", [Bar("ascend:0", "x", 1.0)], epoch=old),
        lambda: store.unbar("n", ["ascend:0"], epoch=old),
    ]
    for call in calls:
        with pytest.raises(errors.StaleEpoch, match="of controller epoch 1; it is 2 now"):
            call()
    assert len(store.jobs().jobs) == 1 and store.job(job).last_event == 1
    assert store.attempts(job) == () and store.bars() == ()


def test_the_queue_is_in_order(head: Head) -> None:
    """Priority; then what was started before and lost its devices; then first in, first out."""
    low, first, second = head.submit(None, "queue.priority=10"), head.submit(), head.submit()
    high = head.submit(None, "queue.priority=90")
    assert head.queue() == [high.job, first.job, second.job, low.job]
    head.walk(second.job, STARTING, RUNNING, STOPPING, RECOVERING, QUEUED)
    assert head.queue() == [high.job, second.job, first.job, low.job]
    # Held and released: its old place. Ended and resumed by a person: the last of its priority.
    head.walk(first.job, HELD, QUEUED)
    assert head.queue() == [high.job, second.job, first.job, low.job]
    head.walk(second.job, CANCELLED, QUEUED)
    assert head.queue() == [high.job, first.job, second.job, low.job]
    head.walk(second.job, STARTING, STOPPING, QUEUED)
    assert head.queue() == [high.job, second.job, first.job, low.job]
    head.walk(second.job, STARTING, STOPPING, FAILED, QUEUED)
    assert head.queue() == [high.job, first.job, second.job, low.job]
    head.walk(first.job, STARTING)
    assert head.queue() == [high.job, second.job, low.job]


def test_events_after_a_sequence_number(head: Head) -> None:
    """Without gaps from 1, after what the caller has, at most as many as it wants."""
    job, other = head.submit().job, head.submit().job
    for _ in range(4):
        head.walk(job, HELD, QUEUED)
    head.walk(other, HELD)

    def sequences(after: int, limit: int = 1000) -> list[int]:
        return [told.sequence for told in head.store.events(job, after, limit)]

    assert sequences(0) == list(range(1, 10))
    assert sequences(7) == [8, 9] and sequences(9) == [] and sequences(2, 3) == [3, 4, 5]


def test_pages_of_jobs(head: Head) -> None:
    """The newest first; pages meet without a gap, also when jobs come in between."""
    made = [head.submit().job for _ in range(7)][::-1]
    page = head.store.jobs(page=Page(3))
    head.submit()
    seen = [one.job for one in page.jobs]
    while page.before is not None:
        page = head.store.jobs(page=Page(3, page.before))
        seen += [one.job for one in page.jobs]
    assert seen == made
    exact = head.store.jobs(page=Page(8))
    assert len(exact.jobs) == 8 and exact.before is None
    for limit in (0, -1, 10_001):
        with pytest.raises(ValueError, match="1 to 10000"):
            Page(limit)


def test_jobs_by_what_they_are(head: Head) -> None:
    """State, user, queue and name, alone and together; and how many are in each state."""
    mine = head.submit()
    night = head.submit(None, "queue.name=night", "name=other")
    theirs = head.submit(user="bob")
    head.walk(theirs.job, STARTING)

    def found(**wanted: object) -> set[str]:
        return {one.job for one in head.store.jobs(Filter(**wanted)).jobs}  # type: ignore[arg-type]

    assert found(user="ann") == {mine.job, night.job}
    assert found(queue="night") == found(name="other") == {night.job}
    assert found(states=frozenset({STARTING, RUNNING})) == {theirs.job}
    assert found(states=frozenset({QUEUED}), user="bob") == set()
    assert head.store.counts() == {QUEUED: 2, STARTING: 1}


def test_what_hangs_on_a_job(head: Head) -> None:
    """Recorded with a move or without, read back as it was, replaced by its key."""
    store, job = head.store, head.submit().job
    attempt = AttemptRecord(attempt=1, started_at=1.5, resumed_step=40)
    ranks = [
        RankRecord(attempt=1, rank=n, node="a", device=f"ascend:{n}", state=RankState.STARTING)
        for n in (1, 0)
    ]
    head.move(job, STARTING, attempt=1, records=[attempt, *ranks])
    assert store.attempts(job) == (attempt,)
    assert store.ranks(job, 1) == (ranks[1], ranks[0]) and store.ranks(job, 2) == ()
    hung = RankRecord(
        attempt=1, rank=0, node="a", device="ascend:0", state=RankState.HUNG, pid=7, start_time=9
    )
    written = CheckpointRecord(
        path=Path("/runs/x/step-00000040"), step=40, digest="d", world_size=2, verified=True,
        written_at=2.0,
    )  # fmt: skip
    store.record(job, hung, written, epoch=head.epoch)
    assert store.ranks(job, 1)[0] == hung and store.checkpoints(job) == (written,)
    failure = IncidentRecord(
        incident=1, attempt=1, failure=FailureClass.HANG, fault_at=3.0, document={"rank": 0}
    )
    head.move(job, STOPPING, attempt=1, records=[failure])
    other = head.submit().job
    store.record(other, failure, epoch=head.epoch)
    assert store.incidents(job) == store.incidents(other) == (failure,)
    assert [one.job for one in store.all_incidents()] == [other, job]
    newest = store.all_incidents(Page(1))[0]
    assert [one.job for one in store.all_incidents(Page(9, newest.number))] == [job]


def test_a_rank_belongs_to_an_attempt(head: Head) -> None:
    """One of an attempt that nobody recorded is refused, with all that came with it."""
    job = head.submit().job
    rank = RankRecord(attempt=2, rank=0, node="a", device="cpu:0", state=RankState.PENDING)
    with pytest.raises(errors.StoreError, match="FOREIGN KEY"):
        head.move(job, STARTING, records=[AttemptRecord(attempt=1, started_at=1.0), rank])
    assert head.store.job(job).state is QUEUED and head.store.attempts(job) == ()


def test_bars_by_node(head: Head) -> None:
    """Kept for the node, renewed by the same hand, gone at their time or when lifted."""
    store = head.store
    store.bar("a", [Bar("ascend:3", "ECC", 1.0), Bar("ascend:1", "hot", 1.0, 60.0)], epoch=1)
    store.bar("b", [Bar("ascend:3", "noisy", 1.0)], epoch=1)
    store.bar("a", [Bar("ascend:3", "ECC again", 2.0)], epoch=1)
    shown = [(one.node, one.bar.device, one.bar.why) for one in store.bars(59.0)]
    assert shown == [
        ("a", "ascend:1", "hot"),
        ("a", "ascend:3", "ECC again"),
        ("b", "ascend:3", "noisy"),
    ]
    store.unbar("a", ["ascend:3"], epoch=1)
    assert [(one.node, one.bar) for one in store.bars(60.0)] == [
        ("b", Bar("ascend:3", "noisy", 1.0))
    ]


def test_a_job_that_is_not_there(head: Head) -> None:
    """Every call that names one says so."""
    store = head.store
    for call in (
        lambda: store.job("no"),
        lambda: store.job_file("no"),
        lambda: store.events("no"),
        lambda: store.attempts("no"),
        lambda: store.ranks("no", 1),
        lambda: store.incidents("no"),
        lambda: store.checkpoints("no"),
        lambda: store.transition("no", happened("x"), seen=QUEUED, epoch=1),
        lambda: store.record("no", epoch=1),
    ):
        with pytest.raises(errors.NoSuchJob, match="no job no"):
            call()


def test_a_reason_in_foreign_bytes_is_kept(head: Head) -> None:
    """Text that is no UTF-8 (a path in a message) is escaped, not refused; NUL is kept."""
    job = head.submit().job
    head.move(job, HELD, "cannot read /data/\udcff\0", path="/data/\udcff")
    (told,) = head.store.events(job, after=1)
    assert told.event.reason == "cannot read /data/\\udcff\0"
    assert told.event.data == {"path": "/data/\udcff"}
    assert head.store.job(job).reason == told.event.reason


def test_what_is_known_outlives_the_store_object(tmp_path: Path) -> None:
    """Closed and opened again: the same instance, the next epoch, all jobs."""
    path = tmp_path / "store" / "muster.db"
    with Head(path) as head:
        job, instance = head.submit("k"), head.store.instance
    with pytest.raises(errors.StoreClosed):
        head.store.job(job.job)
    with pytest.raises(errors.StoreClosed):
        head.submit()
    with Head(path) as head:
        assert (head.store.instance, head.epoch) == (instance, 2)
        assert head.submit("k") == job


@pytest.mark.parametrize(
    "error",
    [
        errors.Moved("j", QUEUED, CANCELLED),
        errors.KeyReused("k", "j"),
        errors.StaleEpoch(1, 2),
        errors.NoSuchJob("j"),
        errors.IllegalMove("j", QUEUED, RUNNING),
        errors.StoreFull("no room"),
    ],
)
def test_errors_survive_pickling(error: errors.StoreError) -> None:
    """They may come from another process."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error) and vars(copy) == vars(error)
