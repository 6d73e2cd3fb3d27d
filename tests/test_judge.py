"""Whom a failure is blamed on when a device of the gang is not well."""

from __future__ import annotations

from orchestrator.health import Sign, Suspect
from orchestrator.judge import _blame_device

LOST = {0: "here/ascend:0: lost", 2: "here/ascend:2: lost"}


def test_the_failed_ranks_own_device_is_blamed_first() -> None:
    """Its fault and how the rank ended stand side by side."""
    blamed = _blame_device(Suspect(2, 1.0, Sign.EXIT, "killed by SIGKILL"), LOST)
    assert (blamed.rank, blamed.cause) == (2, "here/ascend:2: lost; killed by SIGKILL")


def test_a_rank_that_died_of_anothers_device_keeps_its_own_end() -> None:
    """The rank on the lost device was not killed by anybody but us."""
    blamed = _blame_device(Suspect(1, 1.0, Sign.EXIT, "killed by SIGKILL"), LOST)
    assert (blamed.rank, blamed.cause) == (0, "here/ascend:0: lost; rank 1: killed by SIGKILL")
