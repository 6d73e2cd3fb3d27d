"""How many jobs a second a head takes in, each durable before its answer; and a list of them.

`submit_rate`: 10 000 jobs over 32 kept connections into a real controller that cannot start any of
them, client and controller on this machine; each answer is a promise kept by an fsync. `ps_10k`:
all of them listed by `GET /v1/jobs`. The peer of the first is re-created from public calls, in
`scripts/bare_submit.py`: a FastAPI handler that commits one row to SQLite, and nothing else; it
checks no token, reads no job file, and schedules nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

import httpx

from orchestrator.layout import Home, read_json
from tests.benchmarks.bench import MUSTER, SCRIPTS, Bench, BenchmarkError, end, in_turn
from tests.benchmarks.figures import Better, Measurement, Summary

NAMES = ("submit_rate", "ps_10k")

JOBS, CONNECTIONS, ROUNDS, LISTS = 10_000, 32, 3, 5
START = 120.0
PEER = "FastAPI and SQLite, a commit a request; no validation"
# No node has so many: what is queued stays queued.
TEXT = """version: 1
name: small
module: train
workdir: /
resources: {device: gpu, ranks: 1024}
"""


@dataclass(frozen=True)
class Round:
    """What one round found: submissions a second, and the seconds of each list of all jobs."""

    rate: float
    lists: tuple[float, ...] = ()


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """A fresh controller and a fresh peer in turn."""
    with bench.progress.doing(f"{ROUNDS} times {JOBS} submissions on both sides"):
        ours, peer = in_turn(
            ROUNDS if "submit_rate" in wanted else 1,
            lambda _: _head(bench),
            lambda _: _bare(bench) if "submit_rate" in wanted else Round(0.0),
        )
    rates = Summary.of([one.rate for one in ours])
    bare = Summary.of([one.rate for one in peer])
    lists = Summary.of([seconds for one in ours for seconds in one.lists])
    found = {
        "submit_rate": Measurement("1/s", rates, bare, PEER, Better.HIGHER),
        "ps_10k": Measurement("s", lists),
    }
    return {name: found[name] for name in NAMES if name in wanted}


def _head(bench: Bench) -> Round:
    home = Home(bench.folder("home"))
    environment = bench.environment(MUSTER_HOME=str(home.root))
    log = home.root / "log"
    process = bench.start([MUSTER[0], "-m", "orchestrator.service"], log, env=environment)
    try:
        address = bench.until(lambda: read_json(home.address), START, "a controller")
        headers = {"Authorization": f"Bearer {home.token.read_text().strip()}"}
        with httpx.Client(base_url=address["url"], headers=headers, timeout=START) as client:
            # Ray is brought up beside it, and would take its share of the processors.
            bench.until(lambda: client.get("/v1/health").json()["ray_address"], START, "its Ray")
            rate = _rate(address["url"], headers)
            return Round(rate, tuple(_list(client) for _ in range(LISTS)))
    finally:
        end(process)


def _bare(bench: Bench) -> Round:
    folder = bench.folder("bare")
    address = folder / "address.json"
    argv = [MUSTER[0], SCRIPTS / "bare_submit.py", folder / "jobs.db", address]
    process = bench.start(argv, folder / "log")
    try:
        known = bench.until(lambda: read_json(address), START, "the peer")
        return Round(_rate(known["url"], {}))
    finally:
        end(process)


def _list(client: httpx.Client) -> float:
    """Seconds to list all jobs; BenchmarkError unless they are all there."""
    since = time.perf_counter()
    rows = client.get("/v1/jobs", params={"limit": JOBS}).json()["jobs"]
    seconds = time.perf_counter() - since
    if len({row["job"] for row in rows}) != JOBS:
        raise BenchmarkError(f"{len(rows)} jobs are listed, {JOBS} were taken in")
    return seconds


def _rate(url: str, headers: dict[str, str]) -> float:
    since = time.perf_counter()
    asyncio.run(_submit_all(url, headers))
    return JOBS / (time.perf_counter() - since)


async def _submit_all(url: str, headers: dict[str, str]) -> None:
    body = json.dumps({"text": TEXT, "cwd": "/"}).encode()
    host, _, port = url.removeprefix("http://").partition(":")
    fields = {
        "Host": host,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    request = f"POST /v1/jobs HTTP/1.1\r\n{head}\r\n".encode() + body
    left = iter(range(JOBS))
    await asyncio.gather(*(_submit(host, int(port), request, left) for _ in range(CONNECTIONS)))


async def _submit(host: str, port: int, request: bytes, left: Any) -> None:
    """Submit over one connection while there are jobs left. A client library would cost more
    than the controller does."""
    reader, writer = await asyncio.open_connection(host, port)
    for _ in left:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        answer = await reader.readexactly(length)
        if not head.startswith(b"http/1.1 201"):
            raise BenchmarkError(f"not taken in: {answer[:500]!r}")
    writer.close()
    await writer.wait_closed()
