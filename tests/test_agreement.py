"""Digests of the trainable parameters: what they cover, when, and since when."""

from __future__ import annotations

from dataclasses import dataclass, field

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, ops

from model import agreement
from model.agreement import EVERY_STEPS, Agreement, digest
from tests.test_step import linear_step


@dataclass
class Voice:
    """A rank of two, and what it told."""

    size: int = 2
    told: list[tuple[int, int, int]] = field(default_factory=list)

    def digest(self, step: int, value: int, since: int) -> None:
        """As `Rank.digest`."""
        self.told.append((step, value, since))


def parameters(*sizes: int) -> list[Parameter]:
    """Parameters of so many numbers each, all different."""
    return [
        Parameter(Tensor(np.arange(size, dtype=np.float32) + i, ms.float32), name=f"p{i}")
        for i, size in enumerate(sizes)
    ]


def told(rows: list[Parameter], steps: int, *, start: int = 0, size: int = 2) -> list[tuple]:
    """What a rank tells that trains from `start` for so many steps."""
    voice = Voice(size)
    watch = Agreement(rows, voice, start)  # type: ignore[arg-type]
    for step in range(start + 1, start + steps + 1):
        watch.after(step)
    return voice.told


def test_a_small_network_is_read_as_a_whole() -> None:
    """Each time; what differs has come since the digest before, or since it was loaded."""
    rows = parameters(3, 5)
    value = digest(rows)
    assert told(rows, 160, start=7) == [(50, value, 7), (100, value, 50), (150, value, 100)]


def test_a_large_one_is_read_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every parameter is in one part; the part follows from the step, on a resumed rank too."""
    monkeypatch.setattr(agreement, "PART_BYTES", 40)
    rows = parameters(5, 5, 20, 1)
    parts = [rows[:2], rows[2:3], rows[3:]]
    expected = [(50 * n, digest(parts[n % 3]), max(100, 50 * n - 150)) for n in range(3, 9)]
    assert told(rows, 300, start=100) == expected


@pytest.mark.parametrize("which", [0, 1])
def test_one_changed_bit_changes_the_digest(which: int) -> None:
    """Wherever it is, and be it the sign of a zero."""
    rows = parameters(3, 5)
    before = digest(rows)
    values = rows[which].asnumpy().copy()
    values[0] = np.nextafter(values[0], np.float32(9)) if which else -0.0
    rows[which].set_data(Tensor(values))
    assert digest(rows) != before


def test_one_rank_has_nobody_to_agree_with() -> None:
    """Then nothing is read; nor where nothing is trained."""
    assert told(parameters(3), EVERY_STEPS, size=1) == []
    assert told([], EVERY_STEPS) == []


def test_what_is_trained_alike_agrees_until_a_number_is_changed() -> None:
    """And never again: gradients that are the same for all leave the difference as it is."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ours, theirs = linear_step(), linear_step()
    x = np.array([4.0, -8.0], np.float32)

    def digests() -> list[int]:
        for one in (ours, theirs):
            one.train([x], 0.125)
        return [digest(one.optimizer.parameters) for one in (ours, theirs)]

    before, after = digests(), digests()
    assert before[0] == before[1] and after[0] == after[1] and before[0] != after[0]
    weight = theirs.optimizer.parameters[-1]
    ops.assign(weight, Tensor(weight.asnumpy() + np.float32(0.001)))
    for _ in range(3):
        ours_now, theirs_now = digests()
        assert ours_now != theirs_now
