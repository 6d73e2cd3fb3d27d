"""Thousands of broken job files: each is a job or an error that can be told, soon, in bounds."""

from __future__ import annotations

import json
import os
import random
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from orchestrator.jobfile import JobFileError, from_document, load, loads
from orchestrator.jobfile.nodes import MAX_BYTES
from orchestrator.spec import JobSpec, to_document

JOBS = sorted((Path(__file__).parent.parent / "jobs").glob("*.yaml"))
SMALL = b"""version: 1
name: job
module: train
args: {lr: 0.001, sides: [320, 352], note: 'x'}
env: {GLOG_v: "2"}
resources: {device: cpu, ranks: 8, cpus_per_rank: auto}
launch: {mode: dynamic, bind: numa, preload: [json]}
checkpoint: {every_steps: 500, keep: 5}
health: {heartbeat_timeout: auto, phase_timeouts: {init: 10m}}
restart:
  budgets: {process: 3, preemption: unlimited}
  backoff: {first: 1s, factor: 2, max: 60s}
  rules: [{log: 'EI0006', class: node}]
limits: {wait: 24h}
notify: [{url: 'https://example.org', events: [failed]}]
"""
HOSTILE = (
    *(
        "../../x",
        "..",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "%2e%2e%2f",
        "a..",
        "CON",
        "-rf",
        "a" * 64,
        ".",
    ),
    *("9" * 400, "-1", "0x7fffffffffffffff", "1e999", ".inf", ".nan", "18446744073709551616"),
    *(
        "a\u202eb",
        "\ufeff",
        "\u200b",
        "e\u0301",
        "\U0001f4a9",
        "\ufdd0",
        "\u0000",
        "\ud800",
        "\x1b[2J",
    ),
    *("!!python/object:os.system [x]", "!!python/name:os.system", "!!binary a", "!<!> a", "! a"),
    *(
        "&a",
        "*a",
        "<<: *a",
        "<<",
        "=",
        "~",
        "null",
        "yes",
        "0o17",
        "1:30",
        "2024-01-01",
        "''",
        '""',
    ),
    *(
        "%TAG ! tag:x,2000:\n---",
        "%YAML 9.9\n---",
        "---",
        "...",
        "\n---\n",
        "\t",
        "\r\n",
        "\r",
        "\x85",
    ),
    *("{", "}", "[", "]", "? ", ": ", "- ", "|", ">", "|9", "'", '"', "\\", '"\\ud800"', '"\\x00"'),
    *(
        "[" * 30,
        "{a: " * 30,
        "- " * 30,
        "*a " * 9,
        "x" * 5000,
        "${HOME}",
        "$(id)",
        "; rm -rf /",
        "{{7}}",
    ),
)
CPU_SECONDS = 10.0
"""Of processor time, for one file: none takes a tenth of it."""
MEMORY = 64 << 20


@contextmanager
def bounded() -> Iterator[None]:
    """Fails what takes too much processor time, however busy the machine is."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"more than {CPU_SECONDS:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def judged(read: Callable[[], JobSpec]) -> JobSpec | JobFileError:
    """The job or the error, either of which can be written down; anything else fails."""
    with bounded():
        try:
            job = read()
        except JobFileError as error:
            tellable(error)
            return error
        storable(job)
        return job


def tellable(error: JobFileError) -> None:
    """Every problem has words that fit into an answer, a terminal and a log."""
    assert error.problems
    assert len(error.problems) <= 100
    for problem in error.problems:
        assert problem.found and problem.allowed
        for text in (problem.path, problem.found, problem.allowed, problem.hint):
            assert text.isprintable(), repr(text)
            text.encode()
        (problem.override or "").encode()
    assert all(line.isprintable() for line in str(error).split("\n")), repr(str(error))
    assert len(str(error)) < 200_000


def storable(job: JobSpec) -> None:
    """What was accepted can be stored, read again, and made into a path."""
    document = to_document(job)
    assert from_document(json.loads(json.dumps(document, allow_nan=False))) == job
    json.dumps(document, ensure_ascii=False).encode()
    runs = Path("/runs")
    assert Path(os.path.normpath(runs / f"{job.name}-0123ab")).parent == runs
    assert job.workdir.is_absolute()
    for text in (*job.argv_args, *(job.command or ()), *job.env, *job.env.values()):
        assert not {"\0", "\n", "\r"} & set(text)


def mutated(rng: random.Random, source: bytes) -> bytes:
    """A file with a few bytes flipped, pieces cut, doubled, moved or put in."""
    raw = bytearray(source)
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        start = rng.randrange(len(raw) + 1)
        end = min(len(raw), start + rng.choice([0, 1, 4, 40]))
        match rng.randrange(6):
            case 0 if raw:
                raw[min(start, len(raw) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                del raw[start:end]
            case 2:
                raw[start:start] = raw[start:end] * rng.choice([1, 2, 20])
            case 3:
                raw[start:start] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 4)))
            case 4:
                line = raw.find(b": ", start)
                value = rng.choice(HOSTILE).encode(errors="surrogatepass")
                raw[line + 2 : max(raw.find(b"\n", line), line + 2)] = value
            case _:
                raw[start:end] = rng.choice(HOSTILE).encode(errors="surrogatepass")
    if rng.random() < 0.05:
        raw = raw.replace(b"\n", b"\r\n")
    return bytes(raw)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files(seed: int, tmp_path: Path) -> None:
    """Seven hundred mutated job files of each seed are jobs or errors, as bytes and as text."""
    rng = random.Random(seed)
    sources = [SMALL] * 6 + [file.read_bytes() for file in JOBS]
    file = tmp_path / "job.yaml"
    jobs = 0
    for _ in range(700):
        raw = mutated(rng, rng.choice(sources))
        file.write_bytes(raw)
        jobs += isinstance(judged(lambda: load(file)), JobSpec)
        if rng.random() < 0.2:
            text = raw.decode(errors="surrogateescape")
            judged(lambda text=text: loads(text, file="\ud800\n"))  # type: ignore[misc]
    assert 10 < jobs < 600


def test_hostile_values_at_every_field() -> None:
    """Whatever stands at a field, in the file or in an override, is a value or a problem."""
    lines = SMALL.decode().splitlines()
    for value in HOSTILE:
        for i in range(len(lines)):
            name = lines[i].partition(":")[0]
            if i % 3 == len(value) % 3:
                text = "\n".join([*lines[:i], f"{name}: {value}", *lines[i + 1 :]])
                judged(lambda text=text: loads(text))  # type: ignore[misc]
        for override in (f"name={value}", f"args.{value}=1", f"{value}.x={value}", value):
            judged(lambda one=override: loads(SMALL.decode(), [one]))  # type: ignore[misc]


@pytest.mark.parametrize("name", [*HOSTILE, "Job", "jöb", "job ", " ", "job\n", "..a", "a" * 63])
def test_names(name: str) -> None:
    """A name that could be more than one step of a path is no name."""
    quoted = json.dumps(name)
    result = judged(lambda: loads(SMALL.decode().replace("name: job", f"name: {quoted}")))
    if isinstance(result, JobSpec):
        assert set(result.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
        assert result.name[0] not in "._-"


NINE = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
BOMBS = {
    "aliases": "\n".join(["a0: &a0 [x, x]", *NINE]),
    "merges": "a0: &a0 {x: 1}\n"
    + "\n".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 400)),
    "loop": "command: &a [*a, *a]",
    "lists": "[" * 1000,
    "maps": "{a: " * 1000,
    "closed": "[" * 1000 + "]" * 1000,
    "indented": "".join(" " * i + "a:\n" for i in range(700)),
    "dashes": "- " * 1000 + "a",
    "questions": "? " * 1000 + "a",
    "deepest": "[" * MAX_BYTES,
    "text": "name: " + "x" * 10_000_000,
    "quoted": 'name: "' + "\\U0001F4A9" * 9_000 + '"',
    "block": "name: |\n" + " x\n" * 20_000,
    "keys": "".join(f"k{i}: 1\n" for i in range(30_000)),
    "same keys": "a: 1\n" * 12_000,
    "values": "args: {a: [" + "1," * 20_000 + "]}",
    "digits": "version: " + "1" * 100_000,
    "nulls": "\0" * 200_000,
    "comments": "#\n" * 40_000,
    "anchors": "".join(f"k{i}: &a{i} 1\n" for i in range(9_000)),
    "tags": "".join(f"k{i}: !a{i} 1\n" for i in range(9_000)),
    "documents": "---\n" * 20_000,
    "rules": "restart: {rules: ["
    + ", ".join("{class: oom, log: '(?i)" + "[ -\U0010ffff]" * 190 + "'}" for _ in range(200))
    + "]}",
    "pattern": "restart: {rules: [{class: oom, log: '" + "(?:a{0,99}){0,99}" * 55 + "'}]}",
}


def test_bombs() -> None:
    """What is small to write and large to read is refused soon, in the file and in an override."""
    for name, bomb in BOMBS.items():
        assert isinstance(judged(lambda bomb=bomb: loads(bomb)), JobFileError), name  # type: ignore[misc]
        wrong = judged(lambda bomb=bomb: loads(SMALL.decode(), [f"args.a={bomb}"]))  # type: ignore[misc]
        assert isinstance(wrong, JobFileError), name


@pytest.mark.parametrize("name", ["aliases", "merges", "deepest", "text", "quoted"])
def test_memory(name: str) -> None:
    """No bomb takes much memory."""
    tracemalloc.start()
    try:
        judged(lambda: loads(BOMBS[name]))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < MEMORY


def test_many_overrides() -> None:
    """The number of overrides is bounded: each makes the document anew."""
    result = judged(lambda: loads(SMALL.decode(), [f"env.A{i}=b" for i in range(30_000)]))
    assert "at most 1000" in str(result)
