"""What the trainer's loop tells muster after each step; its network is a scripted one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model import train
from model.overflow import Overflows
from model.step import Outcome


@dataclass
class Voice:
    """A rank that keeps what it is told."""

    rank: int = 1
    size: int = 2
    world_size: int = 2
    virtual_ranks: range = range(1, 2)
    attempt: int = 1
    steps: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def step(self, step: int, **told: Any) -> None:
        """As `Rank.step`."""
        self.steps.append((step, told))

    def snapshots(self) -> None:
        """None are taken."""

    def should_stop(self, step: int) -> bool:
        """Never."""
        return False


def trained(monkeypatch: pytest.MonkeyPatch, outcomes: list[Outcome]) -> Voice:
    """What a rank tells of steps with these outcomes."""
    monkeypatch.setattr(train, "save", lambda run, step: Path("/nowhere"))
    voice = Voice()
    coming = iter(outcomes)

    def batches(done: int, total: int, workers: int) -> Iterator[Any]:
        for number in range(done, total):
            yield SimpleNamespace(global_step=number, side=64, inputs=(), replaced=())

    run = SimpleNamespace(
        config=SimpleNamespace(
            per_batch_size=2, log_interval=100, data_workers=1, need_profiler=False
        ),
        rank=voice,
        total_steps=len(outcomes),
        data=SimpleNamespace(
            steps_per_epoch=100, iterate=batches, epoch_of=lambda step: 0,
            replacements=SimpleNamespace(account=lambda: ""),
        ),
        outputs=Path("/nowhere"),
        backend="cpu",
        schedule=SimpleNamespace(learning_rate=lambda step: 0.1),
        network=SimpleNamespace(
            optimizer=SimpleNamespace(parameters=()),
            train=lambda inputs, rate: next(coming),
        ),
        overflows=Overflows(2),
        checkpoint_every=1000,
    )  # fmt: skip
    validation = SimpleNamespace(due=lambda step: False, after=lambda step, latest: False)
    train.advance(run, 0, validation)  # type: ignore[arg-type]
    return voice


def test_a_skipped_step_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """An overflow is the trainer's to count: muster must not take its loss for the run's."""
    well, over = Outcome(0.5, 1.0, {}), Outcome(math.nan, math.inf, {})
    voice = trained(monkeypatch, [well, over, over, well])
    assert [told["loss"] for _, told in voice.steps] == [0.5, None, None, 0.5]
    assert all(told["data_wait"] >= 0 for _, told in voice.steps)


def test_a_bad_loss_of_a_step_that_counts_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a finite gradient it is no overflow."""
    (told,) = trained(monkeypatch, [Outcome(math.inf, 1.0, {})]).steps
    assert told[1]["loss"] == math.inf


def test_gradients_that_stay_infinite_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As FloatingPointError, which is of class numeric."""
    with pytest.raises(FloatingPointError):
        trained(monkeypatch, [Outcome(math.nan, math.inf, {})] * 4)
