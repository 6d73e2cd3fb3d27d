"""Every fault in every phase: it ends as the table says, in the very same bits, and leaves nothing.

A failing seed of the soak is told; MUSTER_TEST_SEED replays it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests import matrix

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("MUSTER_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
RUNS, FAULTS = 50, 4


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The state of a run that nobody has disturbed."""
    directory = tmp_path_factory.mktemp("calm")
    task = matrix.job(directory, [], stay=0)
    code, text = matrix.run(task)
    assert code == 0, text
    return matrix.final_state(task)


@pytest.mark.parametrize(("kind", "phase"), matrix.pairwise())
def test_a_fault_in_a_phase_ends_as_the_table_says(
    tmp_path: Path, calm: str, kind: str, phase: str
) -> None:
    """Every kind once and every phase at least once."""
    matrix.hold(tmp_path, kind, phase, calm)


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "phase"), matrix.cells())
def test_every_fault_in_every_phase_ends_as_the_table_says(
    tmp_path: Path, calm: str, kind: str, phase: str
) -> None:
    """The whole matrix."""
    matrix.hold(tmp_path, kind, phase, calm)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(RUNS))
def test_faults_at_random_change_no_bit(tmp_path: Path, calm: str, number: int) -> None:
    """Four faults a run, of any kind, in any phase: every run ends in the same bits."""
    seed = SEED + number
    faults = matrix.drawn(seed, FAULTS)
    task = matrix.job(tmp_path, [matrix.kind_of(fault) for fault in faults])
    code, text = matrix.run(task, *faults)
    matrix.check(task, calm, f"MUSTER_TEST_SEED={SEED} run {number} exit {code}: {faults}\n{text}")
