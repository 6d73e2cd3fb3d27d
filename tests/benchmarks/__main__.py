"""The command line: choose, measure, print the table, write bench.json.

Exit codes: 0 good; 1 a benchmark failed; 2 an unknown name, or what it needs is not there.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console

from tests.benchmarks import registry
from tests.benchmarks.bench import BenchmarkError, Progress, Unavailable, place
from tests.benchmarks.figures import Entry, FiguresFile, table, this_machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME",
                        help=f"may be repeated: {', '.join(registry.names())}")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("bench.json"), metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        groups = registry.chosen(options.only)
        file = FiguresFile(options.out.absolute())
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return run(groups, file, named=bool(options.only))
    except KeyboardInterrupt:
        print("interrupted; everything that was started has been ended", file=sys.stderr)
        return 1


def run(
    groups: Sequence[tuple[registry.Group, frozenset[str]]], file: FiguresFile, *, named: bool
) -> int:
    """Measure group by group; each is written as soon as it is known."""
    progress = Progress()
    entries: dict[str, Entry] = {}
    code = 0
    for group, wanted in groups:
        try:
            found = measure(group, wanted, progress)
        except Unavailable as error:
            progress.say(f"{', '.join(sorted(wanted))} left out: {error}")
            code = max(code, 2) if named else code
            continue
        except BenchmarkError as error:
            progress.say(f"{', '.join(sorted(wanted))} failed: {error}")
            code = 1
            continue
        file.put(found)
        entries |= found
        if any(entry["ratio"] == 0 for entry in found.values()):
            code = 1
    if not named:
        file.keep_only(registry.names())
    if entries:
        Console().print(table(entries))
        print(f"written to {file.path}", file=sys.stderr)
    return code


def measure(group: registry.Group, wanted: frozenset[str], progress: Progress) -> dict[str, Entry]:
    """The entries of one group, in its order."""
    machine = this_machine()
    progress.say(f"{', '.join(name for name in group.names if name in wanted)}, "
                 f"load {machine['load']}")  # fmt: skip
    with place(progress) as bench:
        found = group.measure(bench, wanted)
    return {name: found[name].entry(machine) for name in group.names if name in wanted}


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
