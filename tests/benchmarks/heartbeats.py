"""One controller and 10 000 ranks: 1250 running jobs of 8, whose supervisors are simulated.

The controller is a real process with its API and its Ray. It finds the jobs in its store, adopts
them, and is looked at from outside while a simulator speaks for all supervisors. The figures:
`heartbeats_10k`, CPU seconds a second of the controller, all threads; `heartbeats_10k_age`, how
old the heartbeats are that its API shows; `heartbeats_10k_adoption`, from the start of its process
until the last job is adopted; `heartbeats_10k_standstill`, from the end of a standstill of 3 s
until no heartbeat is older than 2 s again. There is no peer: none keeps a watch of this kind on
ranks.
"""

from __future__ import annotations

import http.client
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from orchestrator.layout import Home, read_json
from tests.benchmarks.bench import SCRIPTS, Argv, Bench, BenchmarkError, end, tail
from tests.benchmarks.figures import Measurement, PeakMemory, Summary

NAMES = (
    "heartbeats_10k",
    "heartbeats_10k_age",
    "heartbeats_10k_adoption",
    "heartbeats_10k_standstill",
)

JOBS = 1250
SECONDS = 30
SETTLE = 5.0
STANDSTILL = 3.0
FRESH = 2.0
_EVERY = 0.1
_SAMPLE = 25
_ANSWER = 60.0
_PREPARE = 300.0
_ADOPT = 120.0

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Watched:
    """What was seen of a controller, second by second."""

    cores: list[float]
    ages: list[float]
    answers: list[float]
    memory_gb: float
    descriptors: int
    standstill: float
    simulator_cores: float
    looks_per_second: float


def measure(bench: Bench, wanted: frozenset[str]) -> dict[str, Measurement]:
    """One controller, adopted and then watched."""
    home = bench.folder("home")
    with_home = bench.environment(MUSTER_HOME=str(home))
    log = bench.directory / "supervisors"
    script: Argv = [sys.executable, SCRIPTS / "supervisors.py", str(JOBS)]
    simulator = bench.start(script, log, env=with_home)
    try:
        with bench.progress.doing(f"making {JOBS} running jobs"):
            bench.until(lambda: newest(log), _PREPARE, "the jobs", every=0.2)
        adoption, seen = watch_controller(bench, with_home, log)
    except BenchmarkError as error:
        raise BenchmarkError(f"{error}\n{tail(log)}") from error
    finally:
        end(simulator)
    bench.progress.say(told(seen))
    memory = PeakMemory(round(seen.memory_gb, 3))
    found = {
        NAMES[0]: Measurement("cores", Summary.of(seen.cores), memory=memory),
        NAMES[1]: Measurement("s", Summary.of(seen.ages)),
        NAMES[2]: Measurement("s", Summary.of([adoption])),
        NAMES[3]: Measurement("s", Summary.of([seen.standstill])),
    }
    return {name: found[name] for name in NAMES if name in wanted}


def told(seen: Watched) -> str:
    """What the table has no room for."""
    ages = statistics.quantiles(seen.ages, n=100)
    answers = statistics.quantiles(seen.answers, n=100)
    return (
        f"{seen.looks_per_second:.0f} looks/s; simulator {seen.simulator_cores:.2f} cores; "
        f"controller {sum(seen.cores) / len(seen.cores):.2f} cores, {seen.memory_gb:.2f} GB, "
        f"{seen.descriptors} descriptors; age p50 {ages[49]:.2f} p99 {ages[98]:.2f} "
        f"max {max(seen.ages):.2f} s; answer p50 {1e3 * answers[49]:.0f} p99 "
        f"{1e3 * answers[98]:.0f} ms"
    )


def watch_controller(
    bench: Bench, environment: dict[str, str], simulator: Path
) -> tuple[float, Watched]:
    """A controller from its start to its end: seconds to the last adoption, and what was seen."""
    log = bench.directory / "controller"
    began = time.monotonic()
    service = [sys.executable, "-m", "orchestrator.service"]
    controller = bench.start(service, log, env=environment)
    try:
        with bench.progress.doing(f"adopting {JOBS} jobs"):
            line = bench.until(lambda: adopted(controller, simulator), _ADOPT, "the last adoption")
            adoption = line["all_welcomed_at"] - began
            used = cpu_seconds(psutil.Process(controller.pid))
            bench.progress.say(f"adopted after {adoption:.1f} s, {used:.1f} s of them computing")
            home = Home.of(environment)
            bench.until(lambda: read_json(home.address), _ADOPT, "the API")
            time.sleep(SETTLE)
        with bench.progress.doing(f"watching for {SECONDS} s"):
            return adoption, watch(bench, controller, Api(home), simulator)
    except BenchmarkError as error:
        raise BenchmarkError(f"{error}\n{tail(log)}") from error
    finally:
        end(controller, grace=60.0)


def adopted(controller: subprocess.Popen[bytes], simulator: Path) -> Document | None:
    """The simulator's word that every job has a controller."""
    if controller.poll() is not None:
        raise BenchmarkError(f"the controller ended with {controller.returncode}")
    line = newest(simulator)
    return line if line and line.get("all_welcomed_at") else None


def newest(log: Path) -> Document | None:
    """The simulator's last word."""
    lines = log.read_bytes().split(b"\n")[:-1]
    return json.loads(lines[-1]) if len(lines) > 1 else None


def watch(bench: Bench, controller: subprocess.Popen[bytes], api: Api, simulator: Path) -> Watched:
    """Look at a controller for a while, asking for a status ten times a second."""
    process = psutil.Process(controller.pid)
    jobs = json.loads(simulator.read_bytes().partition(b"\n")[0])["jobs"]
    draw = random.Random(3)
    cores, ages, answers, sizes = [], [], [], []
    first = newest(simulator)
    for _ in range(SECONDS):
        used, since = cpu_seconds(process), time.monotonic()
        while time.monotonic() < since + 1.0:
            asked = time.monotonic()
            ages.append(age(api.get(f"/v1/jobs/{draw.choice(jobs)}/status")))
            answers.append(time.monotonic() - asked)
            time.sleep(_EVERY)
        cores.append((cpu_seconds(process) - used) / (time.monotonic() - since))
        sizes.append(process.memory_info().rss / 1e9)
        bench.progress.tick()
    last = newest(simulator)
    assert first is not None and last is not None
    seconds = last["at"] - first["at"]
    return Watched(
        cores,
        ages,
        answers,
        max(sizes),
        process.num_fds(),
        stand_still(bench, process, api, draw.sample(jobs, min(len(jobs), _SAMPLE))),
        (last["cpu"] - first["cpu"]) / seconds,
        (last["looks"] - first["looks"]) / seconds,
    )


def stand_still(bench: Bench, process: psutil.Process, api: Api, jobs: list[str]) -> float:
    """Stop a controller for a while; seconds that it needs to know all of these jobs again."""
    process.suspend()
    try:
        time.sleep(STANDSTILL)
    finally:
        process.resume()
    resumed = time.monotonic()
    bench.until(
        lambda: all(age(api.get(f"/v1/jobs/{job}/status")) < FRESH for job in jobs),
        _ANSWER,
        "fresh heartbeats after a standstill",
    )
    return time.monotonic() - resumed


def cpu_seconds(process: psutil.Process) -> float:
    """Of all threads of a process, its children left out."""
    times = process.cpu_times()
    return float(times.user + times.system)


def age(status: Document) -> float:
    """Of the oldest heartbeat of a job, when it was answered."""
    ages = [rank["heartbeat_age"] for rank in status["ranks"]]
    if status["state"] != "RUNNING" or not ages or None in ages:
        raise BenchmarkError(f"job {status['job']} is {status['state']} with heartbeats {ages}")
    return float(max(ages))


class Api:
    """The controller's API over one connection."""

    def __init__(self, home: Home) -> None:
        address = urlsplit((read_json(home.address) or {})["url"])
        self._headers = {"Authorization": f"Bearer {home.token.read_text().strip()}"}
        self._connection = http.client.HTTPConnection(
            str(address.hostname), address.port or 80, timeout=_ANSWER
        )

    def get(self, path: str) -> Document:
        """An answer; BenchmarkError if it is no good one."""
        try:
            self._connection.request("GET", path, headers=self._headers)
            answer = self._connection.getresponse()
            body = answer.read()
        except OSError as error:
            raise BenchmarkError(f"GET {path}: {error}") from error
        if answer.status != 200:
            raise BenchmarkError(f"GET {path}: {answer.status} {body[:300]!r}")
        document: Document = json.loads(body)
        return document
