"""The resume proof: every rank must have loaded the very checkpoint that was chosen. Pure, but
for reading the ranks' own records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.checkpoints import Verified
from orchestrator.health import Sign, Suspect
from orchestrator.layout import AttemptDirectory, read_json


def read_proofs(files: AttemptDirectory, ranks: Sequence[int]) -> list[dict[str, Any]]:
    """What the ranks said they had loaded (`Rank.resumed`); a rank may have said nothing."""
    documents = [read_json(files.resumed(rank)) for rank in ranks]
    return [
        document
        for document in documents
        if isinstance(document, dict) and isinstance(document.get("digest"), str)
    ]


def contradiction(
    chosen: Verified,
    first_steps: Mapping[int, int],
    proofs: Sequence[Mapping[str, Any]],
    now: float,
) -> Suspect | None:
    """A rank that began elsewhere, or loaded something else, than it was told; None: all did.

    `first_steps`: the first step that each rank finished in this attempt.
    """
    for rank, step in sorted(first_steps.items()):
        if step != chosen.step + 1:
            cause = (
                f"told to resume from step {chosen.step}, it began with step {step}: the "
                "script does not use MUSTER_RESUME_FROM"
            )
            return Suspect(rank, now, Sign.IGNORED_RESUME, cause)
    for proof in proofs:
        if proof["digest"] != chosen.digest:
            cause = f"it loaded {proof['digest'][:12]} instead of {chosen.digest[:12]}"
            return Suspect(proof.get("rank"), now, Sign.WRONG_RESUME, cause)
    return None


def summary(proof: Mapping[str, Any]) -> str:
    """The proof in one line."""
    samples = list(proof.get("next_samples") or [])[:4]
    return (
        f"step {proof.get('step')}, digest {proof['digest'][:12]}, learning rate "
        f"{proof.get('learning_rate')}, next samples of rank {proof.get('rank')}: {samples}"
    )
