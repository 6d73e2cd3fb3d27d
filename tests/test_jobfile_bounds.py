"""A job file may be anything: the reader ends soon, with a job or with a list of problems."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.jobfile import JobFileError, loads
from orchestrator.jobfile.nodes import MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_TEXT
from orchestrator.jobfile.units import parse_duration, parse_size
from orchestrator.spec import JobSpec

BASE = """version: 1
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

# Generous, because the machine may be busy; without bounds these would take hours or memory.
SECONDS = 30.0

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def outcome(text: str, *overrides: str) -> JobSpec | JobFileError:
    """The job, or the error; any other exception fails the test."""
    start = time.monotonic()
    try:
        result: JobSpec | JobFileError = loads(text, overrides)
    except JobFileError as error:
        assert error.problems
        assert str(error)
        result = error
    assert time.monotonic() - start < SECONDS
    return result


def said(text: str) -> str:
    """The message about a text that is refused."""
    result = outcome(text)
    assert isinstance(result, JobFileError)
    return str(result)


def repeated(pattern: str) -> str:
    """As much of a pattern as fits."""
    return (pattern * (MAX_BYTES // len(pattern) + 1))[:MAX_BYTES]


class TestBounds:
    """What could make a small file large or a reading long."""

    def test_alias_bomb(self) -> None:
        """Nested aliases are refused, not followed."""
        lines = ["a0: &a0 [x, x]"]
        lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
        assert "aliases are not read" in said("\n".join(lines))

    def test_recursive_alias(self) -> None:
        """A list that holds itself is refused."""
        assert "found the alias *a" in said(BASE + "command: &a [*a]")

    @pytest.mark.parametrize("opening", ["[", "{", "- ", "? ", "{a: ", "[[["])
    def test_deep_nesting(self, opening: str) -> None:
        """Depth is bounded, however it is written."""
        assert f"allowed: {MAX_DEPTH} levels" in said(repeated(opening))

    def test_deep_indentation(self) -> None:
        """Depth by indentation is bounded too, and the line is named."""
        text = "\n".join(" " * level + "a:" for level in range(500))
        assert said(text).startswith(f"<text>:{MAX_DEPTH}: found deeper nesting")

    def test_many_values(self) -> None:
        """The number of values is bounded."""
        assert f"more than {MAX_NODES} values" in said("a: [" + "1, " * (MAX_NODES + 1) + "]")

    def test_ten_megabytes(self) -> None:
        """A string of 10 MB is refused before it is parsed."""
        assert f"allowed: at most {MAX_BYTES}" in said("name: " + "x" * 10_000_000)

    def test_long_value(self) -> None:
        """A single value is bounded, also when escapes or folding make it long."""
        assert f"allowed: at most {MAX_TEXT}" in said(BASE + "workdir: " + "x" * (MAX_TEXT + 1))
        assert f"allowed: at most {MAX_TEXT}" in said(f'a: "{chr(92)}x41' + "y" * MAX_TEXT + '"')

    def test_many_problems(self) -> None:
        """Of very many problems a readable number is told, and how many more there are."""
        text = BASE + "".join(f"key{i}: 1\n" for i in range(1000))
        result = outcome(text)
        assert isinstance(result, JobFileError)
        assert len(result.problems) == 100
        assert str(result).endswith("and 900 more problems")

    @pytest.mark.parametrize(
        "text",
        [
            *map(repeated, ["a ", "a\n", "%a\n", "#\n", "\n", " ", "*a ", "&a ", "!a ", '"', "'"]),
            *map(
                repeated, ["a: |\n b\n", ": ", "? a\n", "-\n", "---\n", "...\n", "\\x41", ",", "|"]
            ),
            "version: " + "9" * MAX_TEXT,
            "version: 1" + ":1" * (MAX_TEXT // 3),
            "restart: {rules: [{class: oom, log: '" + "(" * 900 + "'}]}",
            "restart: {rules: [{class: oom, log: 'a{99999999999999999999}'}]}",
            "%YAML 1." + "9" * 5000 + "\n--- a",
            'a: "\\UFFFFFFFF"',
            "!!int a: b",
            "name: !!int x",
            "resources: {ranks: !!int x, device: !!bool 7}",
            "? {a: b}\n: c",
        ],
        ids=lambda text: repr(text[:12]),
    )
    def test_ends_soon(self, text: str) -> None:
        """Whatever is repeated to the limit of size, the reader ends with problems."""
        said(text)


class TestProperties:
    """Properties over generated input."""

    @PATIENT
    @given(st.binary(max_size=300))
    def test_random_bytes(self, raw: bytes) -> None:
        """Bytes give problems, never another exception."""
        outcome(raw.decode("latin-1"))
        outcome(raw.decode("utf-8", errors="surrogateescape"))

    @PATIENT
    @given(st.text(alphabet="{}[],:-?&*!|>'\"%@`#~ \n\tab01.<=", max_size=60))
    def test_random_yaml(self, text: str) -> None:
        """Text made of YAML's own characters gives problems, never another exception."""
        outcome(text)
        outcome(BASE + text)
        outcome(BASE, "args.a=" + text, text)

    @PATIENT
    @given(st.data())
    def test_mutated_file(self, data: st.DataObject) -> None:
        """A job file with pieces cut out, doubled or replaced gives a job or problems."""
        text = BASE
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.integers(0, len(text)))
            end = data.draw(st.integers(start, min(len(text), start + 20)))
            piece = data.draw(
                st.sampled_from(["", text[start:end] * 2, "\n", "\t", ": ", "null", "on", "{}"])
                | st.text(max_size=5)
            )
            text = text[:start] + piece + text[end:]
        outcome(text)

    @PATIENT
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            ),
            max_leaves=6,
        ),
        st.sampled_from(
            ["args.x", "env", "resources", "restart.rules", "notify", "then", "command"]
        ),
    )
    def test_any_value_anywhere(self, value: object, path: str) -> None:
        """Whatever value stands at a field gives a job or problems."""
        outcome(BASE, f"{path}={value!r}")

    @given(st.integers(0, 9), st.integers(0, 99), st.integers(0, 99), st.integers(0, 999))
    def test_durations_add_up(self, hours: int, minutes: int, seconds: int, millis: int) -> None:
        """A duration is the sum of its parts."""
        expected = hours * 3600 + minutes * 60 + seconds + millis / 1000
        found = parse_duration(f"{hours}h{minutes}m{seconds}s{millis}ms")
        assert found == pytest.approx(expected)

    @given(st.decimals(min_value=0, max_value=10**6, places=3))
    def test_plain_numbers_are_seconds(self, number: object) -> None:
        """A number without a unit is a number of seconds."""
        assert parse_duration(str(number)) == float(str(number))

    @given(st.text(max_size=12))
    def test_durations_and_sizes_never_raise(self, text: str) -> None:
        """Any text is a duration or size, or it is not."""
        seconds, size = parse_duration(text), parse_size(text)
        assert seconds is None or seconds >= 0
        assert size is None or size >= 0

    @pytest.mark.parametrize(
        "text",
        ["", "h", "10 m", "1m1h", "1m1m", "-1s", "1,5h", "1w", "٣s", "1s ", "m1", "1e3"],
    )
    def test_wrong_durations(self, text: str) -> None:
        """Units out of order, twice or unknown, signs, blanks and foreign digits are refused."""
        assert parse_duration(text) is None

    @given(st.integers(0, 2**30), st.sampled_from(["", "Ki", "Mi", "Gi", "Ti"]))
    def test_sizes_are_binary(self, amount: int, unit: str) -> None:
        """A size is its number times a power of 1024."""
        power = ["", "Ki", "Mi", "Gi", "Ti"].index(unit)
        assert parse_size(f"{amount}{unit}") == amount * 1024**power

    @pytest.mark.parametrize("text", ["", "Gi", "4G", "4GB", "4gi", "1.5Gi", "-1", "4 Gi", "1e3"])
    def test_wrong_sizes(self, text: str) -> None:
        """Decimal units, fractions, signs and blanks are refused."""
        assert parse_size(text) is None
