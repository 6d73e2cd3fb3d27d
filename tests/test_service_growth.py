"""A job of a service in a smaller world: it gets the rest of its devices from the queue alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.simulated.directory import VARIABLE, NodeDirectory
from cluster.simulated.rehearsal import create
from tests.runs import poll
from tests.services import HASTY, Service, service, worker_file
from tests.simulated import node

pytestmark = pytest.mark.slow

EIGHT: dict[str, Any] = {
    "args": {"steps": 100_000, "pause": 0.02},
    "resources": {"device": "ascend", "ranks": 8},
    "launch": {"mode": "rank_table"},
    "checkpoint": {"every_steps": 5},
    "restart": {"min_ranks": 4, "backoff": {"first": 0, "max": 0}},
}


@pytest.fixture
def rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeDirectory:
    """Eight cards that stand in for this machine's devices."""
    directory = NodeDirectory(tmp_path / "node")
    create(directory, node("910B3", 8))
    monkeypatch.setenv(VARIABLE, str(directory.root))
    return directory


@pytest.fixture
def head(tmp_path: Path, rehearsal: NodeDirectory) -> Iterator[Service]:
    """A head that looks for devices often."""
    (tmp_path / "home").mkdir(mode=0o700)
    with service(tmp_path / "home", program=HASTY) as running:
        yield running


def sizes(head: Service, job: str) -> list[int]:
    """How many ranks each attempt of a job has had."""
    return [event["data"]["ranks"] for event in head.events(job) if event["kind"] == "attempt"]


def test_a_job_that_waits_for_the_devices_goes_before_one_that_would_grow(
    head: Service, tmp_path: Path, rehearsal: NodeDirectory
) -> None:
    """The smaller world stays, and says for whom; it grows once nobody waits any more."""
    small = head.submit(worker_file(tmp_path, "small", **EIGHT))
    head.await_step(small, 12)
    assert head.muster("drill", small, "--fault", "lose-device:5").code == 0
    poll(lambda: sizes(head, small) == [8, 4], what="it goes on smaller")
    waits = head.submit(worker_file(tmp_path, "waits", **EIGHT))
    poll(lambda: head.client().job(waits)["position"] == 1, what="the other waits")
    cleared = head.muster("devices", "simulate", "--dir", rehearsal.root, "--clear", "all")
    assert cleared.code == 0, cleared.text

    def why() -> str:
        with head.client() as client:
            return str(client.job(small)["reason"])

    poll(lambda: waits in why(), 60, "a reason that names who goes first")
    assert why().startswith("stays on 4 of 8 ranks' devices")
    assert why() in head.muster("explain", small).out
    assert sizes(head, small) == [8, 4]
    with head.client() as client:
        client.cancel(waits)
    poll(lambda: sizes(head, small) == [8, 4, 8], what="it is whole again")
    assert sizes(head, waits) == []
    with head.client() as client:
        client.cancel(small)
    head.await_state(small, "CANCELLED")
    head.check(small)
