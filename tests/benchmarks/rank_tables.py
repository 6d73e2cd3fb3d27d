"""Rank tables of 10 000 devices: 1250 servers of 8, from what is known of them to the file.

`rank_table_10k`: ranks, document, text, digest, and the file whole and on disk;
`rank_table_10k_check`: the same file read and held against every rule, without a finding. There is
no peer: the ModelZoo's tools ask one server at a time and check nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cluster.rank_table import Model, ServerFacts, check_file, digest_of, make, text_of
from orchestrator.layout import write_bytes
from tests.benchmarks.bench import Bench, BenchmarkError
from tests.benchmarks.figures import Measurement, Summary

NAMES = ("rank_table_10k", "rank_table_10k_check")

ROUNDS = 10
SERVERS, DEVICES = 1250, 8


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """Both in turn; the table is the same each time."""
    path = bench.folder("table") / "table.json"
    known = [facts(number) for number in range(SERVERS)]
    made, checked = [], []
    with bench.progress.doing(f"{ROUNDS} tables of {SERVERS * DEVICES} devices"):
        for _ in range(ROUNDS):
            made.append(timed(lambda: write(path, known)))
            checked.append(timed(lambda: check(path)))
    bench.progress.say(f"{path.stat().st_size / 1e6:.2f} MB")
    times = zip(NAMES, (made, checked), strict=True)
    found = {name: Measurement("s", Summary.of(seconds)) for name, seconds in times}
    return {name: found[name] for name in NAMES if name in wanted}


def facts(number: int) -> ServerFacts:
    """A server with eight addresses of its own."""
    high, low = divmod(number, 250)
    ips = {device: (f"10.{100 + device}.{high}.{low + 1}",) for device in range(DEVICES)}
    return ServerFacts(f"node-{number:05d}", ips)


def write(path: Path, known: list[ServerFacts]) -> None:
    """What an attempt of a job would do."""
    table = make((server, range(DEVICES)) for server in known)
    write_bytes(path, text_of(table).encode())
    digest_of(table)


def check(path: Path) -> None:
    """BenchmarkError if anything is found, or ranks are missing."""
    found = check_file(path, Model.A910)
    if found.findings or found.table is None or found.table.ranks != SERVERS * DEVICES:
        raise BenchmarkError(f"the table is not what was made: {found.counts}")


def timed(action: Callable[[], None]) -> float:
    """Seconds that it takes."""
    since = time.perf_counter()
    action()
    return time.perf_counter() - since
