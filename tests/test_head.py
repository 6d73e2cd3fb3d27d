"""The head without a network, in this process: what becomes of orders that cross a start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.jobfile import load
from orchestrator.orders import OrderKind
from orchestrator.service.head import Head
from orchestrator.states import JobState
from orchestrator.store import Store
from orchestrator.store.values import JobRecord
from tests.runs import poll
from tests.services import worker_file


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    """A head that drives nothing by itself."""
    (tmp_path / "store").mkdir(mode=0o700)
    with Store.open(tmp_path / "store" / "muster.db") as store:
        yield Head(store, tmp_path / "runs", {})


def submit(head: Head, directory: Path) -> JobRecord:
    """A waiting job."""
    file = worker_file(directory)
    return head.submit(load(file), file.read_bytes(), user="ann").result()


@pytest.mark.parametrize("kind", [OrderKind.CANCEL, OrderKind.HOLD])
def test_an_order_that_comes_before_the_start_wins(
    head: Head, tmp_path: Path, kind: OrderKind
) -> None:
    """The queue decided upon a job that was cancelled or held since then: it is not started."""
    seen = submit(head, tmp_path)
    state = head.order(seen.job, kind, "ann").state
    head.drive(seen, None)
    assert not head.driven(seen.job)
    assert head.job(seen.job).state is state
    assert state in (JobState.CANCELLED, JobState.HELD)
    assert not (tmp_path / "runs" / seen.job).exists()


def test_who_waits_for_a_job_hears_that_its_wait_is_over(head: Head, tmp_path: Path) -> None:
    """The end by `limits.wait` is told like any other."""
    told: list[tuple[str, int]] = []
    more = {"resources": {"device": "gpu", "ranks": 2}, "limits": {"wait": "1s"}}
    file = worker_file(tmp_path, **more)
    seen = head.submit(load(file), file.read_bytes(), user="ann").result()
    head.news.subscribe(lambda job, sequence: told.append((job, sequence)))
    head.begin()
    poll(lambda: head.job(seen.job).state is JobState.FAILED, 30, "the end of its wait")
    poll(lambda: told, 5, "word of it")
    assert told == [(seen.job, head.job(seen.job).last_event)]
    head.close(keep_ranks=False)
