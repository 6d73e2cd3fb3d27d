"""Threads follow the CPUs that a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model import processors
from model.arguments import parse
from model.processors import MOST_WORKERS, data_workers, usable_cpus


def test_threads_stay_within_what_the_process_may_use(tmp_path: Path) -> None:
    """Affinity and the cgroup's quota bound the threads; an unlimited one does not."""
    quota = tmp_path / "cpu.max"
    cpus = min(16, len(os.sched_getaffinity(0)))
    for text, expected in (("max 100000", cpus), ("50000 100000", 1), ("nonsense", cpus)):
        quota.write_text(text)
        assert usable_cpus(quota) == expected
    assert usable_cpus(tmp_path / "absent") == cpus


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (2, 2), (6, 6), (24, MOST_WORKERS)])
def test_data_workers_follow_the_cpu_set(
    cpus: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a CPU that the rank is bound to, up to a limit; a number that was asked for wins."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    monkeypatch.setattr(processors.usable_cpus, "__defaults__", (Path("/absent"),))
    assert data_workers(parse([]).data_workers) == workers
    assert data_workers(parse(["--data_workers=3"]).data_workers) == 3
    assert data_workers(parse(["--data_workers=0"]).data_workers) == 0
