"""The resume proof: what ranks say they loaded against what they were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import resume
from orchestrator.checkpoints import Verified
from orchestrator.health import Sign
from orchestrator.layout import RunDirectory, write_json

CHOSEN = Verified(Path("/c/step-00000040"), 40, "a" * 64, 2)


def proof(rank: int, digest: str = "a" * 64, **fields: Any) -> dict[str, Any]:
    """What a rank leaves."""
    known = {"rank": rank, "step": 40, "digest": digest, "learning_rate": 0.1}
    return {**known, "next_samples": [1, 2], **fields}


def blamed(first: dict[int, int], *proofs: dict[str, Any]) -> tuple[int | None, Sign] | None:
    """Rank and sign of a contradiction."""
    suspect = resume.contradiction(CHOSEN, first, proofs, 1.0)
    return None if suspect is None else (suspect.rank, suspect.sign)


def test_all_began_where_they_were_told() -> None:
    """The step after the checkpoint's, from the chosen digest; a rank may say nothing."""
    assert blamed({0: 41, 1: 41}, proof(0), proof(1)) is None
    assert blamed({0: 41, 1: 41}, proof(0)) is None
    assert blamed({0: 41, 1: 41}) is None


def test_a_rank_that_began_elsewhere_is_named() -> None:
    """From scratch, or one step off: the script does not do what it is told."""
    assert blamed({0: 41, 1: 1}, proof(0), proof(1)) == (1, Sign.IGNORED_RESUME)
    assert blamed({0: 42, 1: 41}) == (0, Sign.IGNORED_RESUME)


def test_another_checkpoint_is_not_the_one() -> None:
    """All ranks agree on a digest, but it is not the chosen one; or one differs."""
    other = "b" * 64
    assert blamed({0: 41, 1: 41}, proof(0, other), proof(1, other)) == (0, Sign.WRONG_RESUME)
    assert blamed({0: 41, 1: 41}, proof(0), proof(1, other)) == (1, Sign.WRONG_RESUME)


@pytest.mark.parametrize("spoilt", [[], 1, {}, {"digest": None}, {"digest": 5}])
def test_what_is_no_proof_is_left_out(tmp_path: Path, spoilt: object) -> None:
    """Anybody can write that file: only a record with a digest is taken."""
    files = RunDirectory(tmp_path).attempt(1)
    files.create()
    write_json(files.resumed(0), spoilt)
    write_json(files.resumed(1), proof(1))
    assert resume.read_proofs(files, [0, 1, 2]) == [proof(1)]


def test_the_summary_needs_no_more_than_the_digest() -> None:
    """A record with nothing else in it can be shown."""
    assert "a" * 12 in resume.summary({"digest": "a" * 64})
    assert "[1, 2]" in resume.summary(proof(0))
