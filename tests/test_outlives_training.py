"""A real training whose controller, Ray and supervisor are killed ends in the very same bits.

A failing seed is told; MUSTER_TEST_SEED replays it.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from model.rehearsal_data import Recipe, make
from tests.kills import Kill, carry_out, kills
from tests.runs import Job, training_job
from tests.services import Service, service
from tests.test_exact_resume import final_state

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("MUSTER_TEST_SEED") or random.SystemRandom().randrange(1 << 32))


def training(directory: Path, steps: int, every: int) -> Path:
    """A job file: two real ranks, as small as may be: one graph, steps of some 60 ms."""
    make(directory / "data", Recipe(images=24, val_images=4, seed=3, size=64))
    return training_job(
        directory, "exact", 9, every=every, clip_norm=30, ema_decay=0.9, max_steps=steps,
        training_shape=64, max_epoch=4000, compile_cache=str(directory / "compiled"),
    )  # fmt: skip


def outlive(head: Service, file: Path, plan: list[Kill], deadline: float) -> tuple[str, list[str]]:
    """Submit, kill as planned, and wait for the end."""
    job = head.submit(file)
    told = carry_out(head, job, plan, deadline)
    assert head.state(job) == "SUCCEEDED", told
    if not head.answers():
        head.kill()
        head.start()
    head.check(job)
    return job, told


def run(tmp_path: Path, *, steps: int, every: int, number: int, longest: float) -> None:
    """An undisturbed run, a disturbed one, and no difference."""
    file = training(tmp_path, steps, every)
    calm = Job(file, tmp_path / "calm")
    done = calm.run(timeout=1800)
    assert done.code == 0, done.text
    supervisors = max(1, number // 12)
    plan = kills(SEED, number, longest=longest, supervisors=supervisors)
    began = time.monotonic()
    with service(tmp_path / "home") as head:
        job, told = outlive(head, file, plan, 1800.0)
        killed = "\n".join([f"MUSTER_TEST_SEED={SEED}", *told, *head.kinds(job)])
        print(f"\n{killed}\n{len(told)} kills in {time.monotonic() - began:.1f} s")
        disturbed = Job(file, head.run(job).root)
        assert final_state(disturbed, steps) == final_state(calm, steps), killed
        lost = sum(" supervisor " in line for line in told)
        assert len(head.started_attempts(job)) <= 1 + lost, killed
        assert len(told) >= 0.9 * number, f"too short a training for {number} kills:\n{killed}"


def test_five_kills_change_no_bit(tmp_path: Path) -> None:
    """Parameters, momentum, averages, every rank's statistics, and the evaluation's figures."""
    run(tmp_path, steps=600, every=60, number=5, longest=4.0)


@pytest.mark.soak
def test_fifty_kills_change_no_bit(tmp_path: Path) -> None:
    """The same, for as long as fifty kills take."""
    run(tmp_path, steps=3600, every=300, number=50, longest=4.0)
