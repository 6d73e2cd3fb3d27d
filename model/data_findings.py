"""Kinds of findings about a data set: what the trainer does with each, and what to do. Values."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.data_error import EXIT_NOT_READABLE, EXIT_WRONG_CONTENT

TRAIN, VALIDATION = "train2017", "val2017"
EXAMPLES_KEPT = 100


@dataclass(frozen=True)
class Kind:
    """What one kind of finding means; without a ``treatment`` nothing starts.

    ``exit_code`` is 0 if training tolerates it, 65 or 66 if not; ``evaluation_code`` is the same
    for the held-out split, with ``evaluation`` as its treatment.
    """

    advice: str
    treatment: str = ""
    exit_code: int = EXIT_WRONG_CONTENT
    evaluation: str = ""
    evaluation_code: int | None = None


def _tolerated(treatment: str, advice: str, *, scored: bool = True) -> Kind:
    """What training lives with; not ``scored``: evaluation counts its objects as missed."""
    if scored:
        return Kind(advice, treatment, 0)
    return Kind(advice, treatment, 0, "evaluated as an image without detections", 0)


_REPLACED = "another image, drawn from (seed, epoch, image id), is trained in its place"
_CONVERTED = "converted to 8-bit RGB: "
KINDS: dict[str, Kind] = {
    "layout": Kind("complete the directory, or give another", exit_code=EXIT_NOT_READABLE),
    "image_missing": Kind(
        "copy the file again or take it out of the annotations",
        "training does not start; if it vanishes later, another image is trained in its place",
        EXIT_NOT_READABLE,
        "evaluation does not start",
    ),
    "annotation_file": Kind("copy or export the file again"),
    "category_record": Kind("correct the table of categories"),
    "categories_disagree": Kind(
        "use the same ids and names in both",
        evaluation="training does not look; evaluation does not start",
        evaluation_code=EXIT_WRONG_CONTENT,
    ),
    "unlisted_category": Kind("list the category or take the annotation out"),
    "image_record": Kind("correct the record"),
    "annotation_record": Kind("correct the annotation or take it out"),
    "box_outside": Kind("correct the box or take it out; COCO's form is x, y, width, height"),
    "image_too_large": Kind("shrink the image with its boxes, or cut it up"),
    "too_few_images": Kind("lower per_batch_size or the number of ranks, or add images"),
    "image_undecodable": _tolerated(_REPLACED, "replace the file", scored=False),
    "image_size": _tolerated(_REPLACED, "correct the file or the annotated size", scored=False),
    "no_validation": _tolerated("trained; there is nothing to evaluate on", "add val2017"),
    "box_without_area": _tolerated("never learned: dropped", "take it out if it is a mistake"),
    "box_sticks_out": _tolerated(
        "kept; what leaves the network's input is cut off", "clip the box to its image"
    ),
    "image_without_boxes": _tolerated(
        "left out of training, counted in the log", "nothing, or annotate it"
    ),
    "crowds_only": _tolerated("trained as an image without objects", "nothing, or annotate it"),
    "grey": _tolerated(_CONVERTED + "grey in all three channels", "nothing"),
    "alpha": _tolerated(
        _CONVERTED + "alpha is dropped, hidden colours show", "flatten it if they disturb"
    ),
    "cmyk": _tolerated(_CONVERTED + "CMYK without its colour profile", "save it as RGB"),
    "deep": _tolerated(
        _CONVERTED + "the high 8 of 16 bits (TIFF: rounded)", "stretch it if it uses fewer bits"
    ),
    "orientation_ignored": _tolerated(
        "read as stored, which is the annotated size", "check that its boxes fit as stored"
    ),
    "orientation_applied": _tolerated(
        "turned as its EXIF tag says, which gives the annotated size", "nothing"
    ),
    "large_image": _tolerated(
        "decoded in full by a data worker each time", "shrink it with its boxes: training is faster"
    ),
}
"""By name, worst first: the order of the report."""


@dataclass(frozen=True)
class Finding:
    """One thing found: where, and in words. ``image_id`` and ``file`` where it concerns one."""

    kind: str
    split: str
    found: str
    image_id: int | None = None
    file: str = ""

    @property
    def exit_code(self) -> int:
        """0 if the trainer lives with it, 65 for wrong content, 66 for what is missing."""
        kind = KINDS[self.kind]
        if self.split == VALIDATION and kind.evaluation_code is not None:
            return kind.evaluation_code
        return kind.exit_code

    @property
    def advice(self) -> str:
        """What to do about it."""
        return KINDS[self.kind].advice

    @property
    def treatment(self) -> str:
        """What the trainer does with it."""
        kind = KINDS[self.kind]
        if self.split == VALIDATION:
            return kind.evaluation or kind.treatment or "evaluation does not start"
        return kind.treatment or "training does not start"


@dataclass
class Report:
    """All findings, counted; of each kind and split the first hundred are kept."""

    directory: str
    images: dict[str, int] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    examples: dict[tuple[str, str], list[Finding]] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        """Count ``finding``, and keep it if it is among the first of its kind."""
        key = (finding.kind, finding.split)
        self.counts[key] = self.counts.get(key, 0) + 1
        kept = self.examples.setdefault(key, [])
        if len(kept) < EXAMPLES_KEPT:
            kept.append(finding)

    def groups(self) -> list[tuple[int, list[Finding]]]:
        """(count, first findings) of each kind and split, worst first, training first."""
        order = {name: place for place, name in enumerate(KINDS)}
        keys = sorted(self.counts, key=lambda key: (order[key[0]], key[1]))
        groups = [(self.counts[key], self.examples[key]) for key in keys]
        return sorted(groups, key=lambda group: -group[1][0].exit_code)

    @property
    def exit_code(self) -> int:
        """66 if anything is missing, else 65 if anything is refused, else 0."""
        return max((found[0].exit_code for found in self.examples.values()), default=0)
