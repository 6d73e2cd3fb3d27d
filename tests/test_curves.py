"""Curves of precision over recall: they are what the figures are the means of, and can be read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from model.coco_eval import CocoFigures, evaluate_detections
from model.curves import (
    DOCUMENT,
    IOUS,
    MOST_BARS,
    PICTURE,
    ClassCurve,
    Curves,
    draw_curves,
    ranked,
    shown,
    write_curves,
)
from tests.golden_vectors import GOLDEN

TRUTH, DETECTIONS = GOLDEN.truth, GOLDEN.arrays("evaluation.npz")["detections"]
BOX = [10.0, 10.0, 40.0, 30.0]


def curves_of(truth: Any, detections: Any) -> Curves:
    """The curves of an evaluation."""
    curves = evaluate_detections(truth, detections).curves
    assert curves is not None
    return curves


def truth_of(*classes: int, names: tuple[str, ...] = ("cat", "dog")) -> dict[str, Any]:
    """Ten images; each of `classes`, by index, has one object in every image."""
    categories = [{"id": 5 + n, "name": name} for n, name in enumerate(names)]
    images = [{"id": n, "width": 100, "height": 100} for n in range(10)]
    rows = [
        {"id": 1, "image_id": image["id"], "category_id": 5 + n, "bbox": BOX, "area": 1200}
        for image in images
        for n in classes
    ]
    return {"images": images, "annotations": rows, "categories": categories}


def draw(curves: Curves) -> Figure:
    """The figure, in memory."""
    figure = Figure()
    draw_curves(figure, curves)
    return figure


def test_the_recorded_figures_are_means_of_the_curves() -> None:
    """AP, AP50 and AP75 of the original's detections follow from the curves."""
    figures = evaluate_detections(TRUTH, DETECTIONS)
    assert figures.curves is not None
    mean = figures.curves.mean()
    assert mean is not None
    for line, figure in zip(mean, IOUS.values(), strict=True):
        assert line.mean() == pytest.approx(figures[figure], abs=1e-12)
    assert (np.diff(mean, axis=1) <= 1e-12).all()
    assert sum(row.objects for row in figures.curves.classes) == sum(
        not row.get("iscrowd", 0) for row in TRUTH["annotations"]
    )


def test_half_found_with_one_mistake_has_the_curve_computed_by_hand() -> None:
    """Five of ten found, the best detection being wrong: precision 5/6 up to recall 0.5, then 0."""
    wrong = [0, 5, 60.0, 60.0, 20.0, 20.0, 0.99]
    found = [[n, 5, *BOX, 0.9 - n / 100] for n in range(5)]
    (cat, _) = curves_of(truth_of(0), [wrong, *found]).classes
    assert (cat.id, cat.name, cat.objects) == (5, "cat", 10)
    assert cat.precision is not None
    recall = np.linspace(0, 1, 101)
    for line in cat.precision:  # the boxes are exact: each overlap gives the same
        np.testing.assert_allclose(line, np.where(recall <= 0.5, 5 / 6, 0), atol=1e-9)


def test_figures_are_the_same_with_and_without_curves() -> None:
    """Curves take no part in comparing or printing figures, which may lack them."""
    figures = evaluate_detections(TRUTH, DETECTIONS)
    plain = CocoFigures(figures.values, figures.images, figures.detections)
    assert plain == figures and plain.curves is None and repr(plain) == repr(figures)
    assert plain.to_json() == figures.to_json()


def test_a_class_without_objects_is_absent_not_bad() -> None:
    """It is null in the document, -1 as a figure, and leaves the means of the others alone."""
    perfect = [[n, 5, *BOX, 0.9] for n in range(10)]
    curves = curves_of(truth_of(0), [*perfect, [0, 6, *BOX, 0.99]])
    cat, dog = curves.classes
    assert cat.ap("0.50") == pytest.approx(1) and dog.ap("0.50") == -1 and dog.precision is None
    mean = curves.mean()
    assert mean is not None and mean.mean() == pytest.approx(1)
    document = curves.to_json()
    assert document["classes"][1] == {
        "id": 6, "name": "dog", "objects": 0, "AP50": -1, "AP75": -1, "AP": -1, "precision": None,
    }  # fmt: skip
    assert curves.table().splitlines()[-1].split() == ["dog", "0", "-", "-", "-"]
    texts = [text.get_text() for text in draw(curves).axes[1].texts]
    assert texts == ["1.000", "no objects"]


def test_no_detections_are_flat_curves() -> None:
    """Nothing found: precision 0 everywhere, which is a result."""
    curves = curves_of(truth_of(0, 1), [])
    mean = curves.mean()
    assert mean is not None and not mean.any()


def test_the_document_can_be_computed_with(tmp_path: Path) -> None:
    """Lists as long as the recall grid, for three overlaps, of the mean and of every class."""
    curves = curves_of(TRUTH, DETECTIONS)
    picture = write_curves(tmp_path / "out", curves, "golden")
    assert sorted(os.listdir(tmp_path / "out")) == sorted([DOCUMENT, PICTURE])
    assert picture.read_bytes()[:4] == b"\x89PNG"
    document = json.loads((tmp_path / "out" / DOCUMENT).read_text())
    assert document["format"] == 1 and document["recall"] == [n / 100 for n in range(101)]
    present = [row for row in document["classes"] if row["precision"] is not None]
    assert present and all(row["name"] for row in present)
    for iou, figure in IOUS.items():
        lines = np.array([row["precision"][iou] for row in present])
        np.testing.assert_allclose(lines.mean(axis=0), document["mean"][iou], atol=2e-6)
        np.testing.assert_allclose(
            lines.mean(axis=1), [row[figure] for row in present], atol=2e-6
        )  # fmt: skip


def synthetic(count: int) -> Curves:
    """`count` classes whose precision falls at different recalls; every tenth has no object."""
    recall = np.linspace(0, 1, 101)
    rows = [
        ClassCurve(
            n, f"class {n}", 0 if n % 10 == 9 else 3,
            None if n % 10 == 9 else np.array([(recall <= n / count) * 1.0] * 3),
        )
        for n in range(count)
    ]  # fmt: skip
    return Curves(recall, tuple(rows))


@pytest.mark.parametrize(
    ("count", "legend", "lines"), [(0, 0, 0), (1, 3, 3), (4, 4, 8), (80, 4, 76)]
)
def test_the_legend_is_short_however_many_classes(count: int, legend: int, lines: int) -> None:
    """One class is its own mean; of eighty the mean is strong, the classes thin and unnamed."""
    left, right = draw(synthetic(count)).axes
    texts = left.get_legend().get_texts() if legend else []
    assert len(texts) == legend
    assert len(left.lines) == lines
    assert [text.get_text() for text in right.get_yticklabels()] == [
        row.name for row in ranked(synthetic(count))
    ]
    if count == 80:
        widths = sorted(line.get_linewidth() for line in left.lines)
        assert widths[-3] > 3 * widths[0]


def test_more_classes_than_fit_show_the_best_and_the_worst() -> None:
    """Of a thousand, both ends are drawn and a gap says that there are others."""
    rows = shown(ranked(synthetic(1000)))
    assert len(rows) == MOST_BARS + 1 and rows.count(None) == 1
    assert rows[0] is not None and rows[0].ap("0.50") > 0.99
    assert rows[-1] is not None and rows[-1].precision is None
    assert len(draw(synthetic(1000)).axes[1].get_yticks()) == MOST_BARS + 1


def test_strange_names_of_classes_are_drawn_as_they_are(tmp_path: Path) -> None:
    """Formulas, characters without a font and very long names are only text."""
    names = ("price $x^$", "人" * 60, "\x07")
    curves = curves_of(truth_of(0, 1, 2, names=names), [])
    write_curves(tmp_path, curves, "$\\frac$")
    assert [row.name for row in curves.classes] == list(names)
