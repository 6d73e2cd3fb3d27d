"""The account of a conversion: what becomes of every tensor of a donor. No MindSpore."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model import donors
from model.donors import Shape

BACKBONE = "feature_map.backbone."
_NAMES_SHOWN = 3
_NO_CLASSIFIER = "no name ends in moving_mean or running_mean: this is no trained classifier"
_DETECTOR = "this already names a detector's backbone: give it to --pretrained_backbone as it is"


@dataclass(frozen=True)
class Account:
    """What becomes of every tensor of a donor, and which of the backbone's get none.

    `mapped` holds (theirs, ours, shape), `ignored` (theirs, reason), `missing` (ours, shape),
    `mismatched` (theirs, ours, its shape, the wanted one). `unknown` are names that nothing here
    takes. `misfits` say in terms of design why the donor does not fit, `differences` how the
    function differs although everything fits. Names of ours lack `feature_map.backbone.`.
    """

    layout: str = "unknown"
    mapped: tuple[tuple[str, str, Shape], ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    unknown: tuple[str, ...] = ()
    missing: tuple[tuple[str, Shape], ...] = ()
    mismatched: tuple[tuple[str, str, Shape, Shape], ...] = ()
    misfits: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    def problems(self) -> list[str]:
        """Why the donor is refused, design first; empty if it fits."""
        unlike = [f"{ours} is {its}, wanted {wanted}" for _, ours, its, wanted in self.mismatched]
        missing = [ours for ours, _ in self.missing]
        counted = [
            (missing, "the backbone's tensors that are missing"),
            (unlike, "tensors of another shape"),
            (list(self.unknown), "tensors nothing here takes (--allow=PATTERN leaves them out)"),
        ]
        found = [f"{what}: {len(names)}: {_some(names)}" for names, what in counted if names]
        return [*self.misfits, *found] if found else []

    def to_json(self) -> dict[str, Any]:
        """Return the account as a document for programs."""
        return {
            "layout": self.layout,
            "mapped": [
                {"from": theirs, "to": BACKBONE + ours, "shape": list(shape)}
                for theirs, ours, shape in self.mapped
            ],
            "ignored": [{"from": theirs, "reason": reason} for theirs, reason in self.ignored],
            "unknown": list(self.unknown),
            "missing": [{"to": BACKBONE + o, "shape": list(shape)} for o, shape in self.missing],
            "mismatched": [
                {"from": theirs, "to": BACKBONE + o, "shape": list(its), "wanted": list(wanted)}
                for theirs, o, its, wanted in self.mismatched
            ],
            "differences": list(self.differences),
        }

    def lines(self) -> list[str]:
        """Return the account for people: a line a tensor, the counts at the end."""
        rows = [f"mapped      {a} -> {BACKBONE}{b} {shape}" for a, b, shape in self.mapped]
        rows += [f"ignored     {name}: {reason}" for name, reason in self.ignored]
        rows += [f"unknown     {name}" for name in self.unknown]
        rows += [f"missing     {BACKBONE}{name} {shape}" for name, shape in self.missing]
        rows += [
            f"mismatched  {a} -> {BACKBONE}{b}: {its}, wanted {wanted}"
            for a, b, its, wanted in self.mismatched
        ]
        rows += [f"differs     {difference}" for difference in self.differences]
        counts = ("mapped", "ignored", "unknown", "missing", "mismatched")
        total = ", ".join(f"{len(getattr(self, kind))} {kind}" for kind in counts)
        return [*rows, f"{self.layout}: {total}"]


def account_of(
    donor: Mapping[str, Shape], wanted: Mapping[str, Shape], allow: Iterable[str] = ()
) -> Account:
    """What becomes of each of the `donor`'s tensors in a backbone with the `wanted` ones."""
    layout = donors.layout_of(donor)
    if layout is None:
        ignored, unknown = _rest(donor, allow)
        missing = tuple(wanted.items())
        return Account("unknown", (), ignored, unknown, missing, misfits=(_NO_CLASSIFIER,))
    places = donors.mapping(donor, layout)
    usable = {name: ours for name, ours in places.items() if ours in wanted}
    fits = {name for name, ours in usable.items() if donor[name] == wanted[ours]}
    ignored, unknown = _rest([name for name in donor if name not in usable], allow)
    detector = any(BACKBONE in name for name in donor)
    misfits = donors.misfits(donor, wanted, layout)
    return Account(
        layout=layout.name,
        mapped=tuple((name, usable[name], donor[name]) for name in usable if name in fits),
        ignored=ignored,
        unknown=unknown,
        missing=tuple((o, s) for o, s in wanted.items() if o not in usable.values()),
        mismatched=tuple((n, o, donor[n], wanted[o]) for n, o in usable.items() if n not in fits),
        misfits=(_DETECTOR,) if detector else tuple(misfits),
        differences=donors.differences(donor, layout),
    )


def _rest(
    names: Iterable[str], allow: Iterable[str]
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Tensors without a place here: those with a reason to be ignored, and the others."""
    allow = tuple(allow)
    ignored, unknown = [], []
    for name in names:
        pattern = donors.allowed_by(name, allow)
        reason = donors.ignored_because(name) or (f"--allow={pattern}" if pattern else "")
        if reason:
            ignored.append((name, reason))
        else:
            unknown.append(name)
    return tuple(ignored), tuple(unknown)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
