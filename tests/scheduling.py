"""Which worker of `pytest -n` runs which file: files stay whole and in order, the longest go first.

Real trainings are watched for hangs, and a machine with two cores has no room for two at once:
their tests are one unit of work, as if they stood in one file.
"""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

TRAINING = (
    "test_outlives_training.py",
    "test_drill_training.py",
    "test_validation.py",
    "test_exact_resume.py",
    "test_train_options.py",
    "test_device_check.py",
    "test_virtual_training.py",
    "test_hang_training.py",
    "test_simulated_runs.py::test_the_real_trainer_runs_as_an_ascend_job",
    "test_smaller_world.py::test_the_real_trainer_goes_on_with_half_and_comes_back",
)
"""Tests that train or compute in several processes for long, never two at once."""

LONGEST = (
    *(name for name in TRAINING if "::" not in name),
    "test_drill_matrix.py",
    "test_run_failures.py",
    "test_run_hangs.py",
    "test_smaller_world.py",
    "test_stragglers.py",
    "test_drill_reports.py",
    "test_simulated_runs.py",
    "test_run_ends.py",
    "test_standstill.py",
    "test_snapshot_runs.py",
    "test_step.py",
    "test_ray_node.py",
    "test_export.py",
    "test_infer.py",
    "test_golden.py",
    "test_rank_table_node.py",
    "test_supervisor.py",
)
"""Files that begin first, so that no worker is left alone with one at the end."""


def begins(item: pytest.Item) -> int:
    """The place of a test's file among all; those that are not listed follow as collected."""
    name = item.path.name
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


class WholeFiles(LoadScopeScheduling):
    """Work in files, but for tests that must not run side by side."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # else by the number of their tests

    def _split_scope(self, nodeid: str) -> str:
        if any(name in nodeid for name in TRAINING):
            return "training"
        return nodeid.partition("::")[0]
