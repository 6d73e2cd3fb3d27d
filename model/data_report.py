"""`python -m model.data check DIR`: the report on a data set, for people or as JSON.

Also the way into the other commands of `model.data`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from model import anchor_report
from model.data_check import check
from model.data_error import EXIT_NOT_READABLE
from model.data_findings import Finding, Report
from model.progress_line import ProgressLine

EXAMPLES_SHOWN = 5
_WIDEST = 300


def lines(report: Report) -> Iterator[str]:
    """Yield the report for people: a few lines for each kind of finding, however many there are."""
    counts = ", ".join(f"{split}: {count} images" for split, count in report.images.items())
    yield f"{report.directory}: {counts or 'nothing could be read'}"
    for count, found in report.groups():
        first = found[0]
        verdict = f"refused ({first.exit_code})" if first.exit_code else "tolerated"
        yield f"{first.kind}, {first.split}: {count}, {verdict}"
        yield f"  treatment: {first.treatment}"
        yield f"  to do:     {first.advice}"
        yield from (f"  - {_line(finding)}" for finding in found[:EXAMPLES_SHOWN])
        if count > EXAMPLES_SHOWN:
            yield f"  ... and {count - EXAMPLES_SHOWN} more of these"
    refused = sum(n for n, found in report.groups() if found[0].exit_code)
    tolerated = sum(report.counts.values()) - refused
    yield f"{refused} findings to mend before training, {tolerated} that training lives with"


def _line(finding: Finding) -> str:
    """One finding on one line of bounded width, whatever characters it holds."""
    named = f"image {finding.image_id}"
    text = finding.found.removeprefix(f"{named}: ")
    if finding.file:
        text = f"{finding.file}: {text}"
    if finding.image_id is not None:
        text = f"{named}, {text}"
    text = text.encode("utf-8", "backslashreplace").decode()
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= _WIDEST else text[:_WIDEST] + " ..."


def document(report: Report) -> dict[str, Any]:
    """Return the report for JSON; of each kind and split `count` found, the first 100 listed."""
    return {
        "format": 1,
        "directory": report.directory,
        "exit_code": report.exit_code,
        "images": report.images,
        "findings": [
            {
                "kind": found[0].kind,
                "split": found[0].split,
                "count": count,
                "exit_code": found[0].exit_code,
                "treatment": found[0].treatment,
                "advice": found[0].advice,
                "examples": [
                    {"image_id": f.image_id, "file": f.file, "found": f.found} for f in found
                ],
            }
            for count, found in report.groups()
        ],
    }


@contextlib.contextmanager
def _decoders_silenced() -> Iterator[TextIO]:
    """Give a stream to the real stderr, while what image libraries print there is dropped.

    They write a line for every damaged file, straight to the descriptor; the report has them all.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        with open(kept, "w", encoding="utf-8", closefd=False) as stream:
            yield stream
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, 64 for values, 65 for what is refused, 66 for what is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m model.data", description="What a data set holds."
    )
    commands = parser.add_subparsers(required=True, metavar="check | anchors")
    _add_check(commands)
    anchor_report.add_command(commands)
    given = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = given.run
    return run(given)


def _add_check(commands: Any) -> None:
    command = commands.add_parser(
        "check", help="name bad data before training; exit 0, 65 (refused) or 66 (missing)"
    )
    command.add_argument("directory", metavar="DIR", help="holds train2017, val2017, annotations")
    command.add_argument(
        "--batch", type=_positive, metavar="N", help="images of one step of all ranks"
    )
    command.add_argument("--json", action="store_true", help="one JSON document on stdout")
    command.add_argument("--full", action="store_true", help="decode every image, not headers only")
    command.set_defaults(run=_run_check)


def _run_check(given: argparse.Namespace) -> int:
    try:
        report = _check(given)
    except OSError as error:
        print(f"{given.directory}: the storage fails: {error}", file=sys.stderr)
        return EXIT_NOT_READABLE
    text = json.dumps(document(report), indent=2) if given.json else "\n".join(lines(report))
    print(text)
    return report.exit_code


def _check(given: argparse.Namespace) -> Report:
    with _decoders_silenced() as stderr:
        progress = ProgressLine(stderr)
        try:
            return check(
                given.directory, global_batch=given.batch, full=given.full, progress=progress
            )
        finally:
            progress.close()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
