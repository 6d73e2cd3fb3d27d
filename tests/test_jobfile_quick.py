"""Two readers, one meaning: what libyaml reads, the careful reader reads alike."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.jobfile import JobFileError, load, loads, quick, reading
from orchestrator.jobfile.problems import Report
from orchestrator.spec import JobSpec

JOBS = sorted((Path(__file__).parent.parent / "jobs").glob("*.yaml"))
BASE = "version: 1\nname: job\nmodule: train\nresources: {device: cpu, ranks: 8}\n"

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
with_libyaml = pytest.mark.skipif(not hasattr(yaml, "CSafeLoader"), reason="no libyaml here")

PIECES = [
    *"{}[],:-|>'\"#~ \n  ab01.<=?!&*%@`\\\t",
    *(": ", "- ", "\n  ", "\n- ", "|\n", "|-\n ", ">+\n  ", "> # x\n  ", "---\n", "...\n", "? "),
    *("é", "中😀", "\u2028", "\x85", "\ufeff", "\r\n", "\\x41", "\\n", "\\\n", '"a"', "'b'"),
    *("[a, b]", "{a: 1}", "yes", "1e3", "1:30", "0x1f", "2024-01-01", "null", " #", "'\n"),
]


def both(text: str, override: str | None = None) -> bool:
    """Whether the quick reader took the text; fails if the careful one reads it differently."""
    try:
        swift = quick.read(text, override)
    except quick.Doubt:
        return False
    report = Report()
    assert repr(reading.careful(text, report, override)) == repr(swift), text
    assert not report, text
    return True


def outcome(text: str) -> JobSpec | str:
    """The job, or all that is wrong with the text."""
    try:
        return loads(text)
    except JobFileError as error:
        return str(error)


@with_libyaml
@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_shipped_jobs_are_read_quickly(file: Path) -> None:
    """No job file of the repository needs the slow reader, and both read the same from it."""
    assert both(file.read_text())


@with_libyaml
def test_texts_of_yaml_pieces() -> None:
    """Texts put together of YAML's own pieces mean the same to both readers."""
    rng = random.Random(20261)
    texts = ("".join(rng.choices(PIECES, k=rng.randint(1, 24))) for _ in range(20_000))
    assert sum(both(text, rng.choice([None, "a=b"])) for text in texts) > 300


@with_libyaml
def test_mutated_job_files() -> None:
    """Parts of job files with pieces put in mean the same to both readers."""
    rng, taken = random.Random(20262), 0
    sources = [file.read_text() for file in JOBS]
    for _ in range(4_000):
        lines = rng.choice(sources).splitlines(keepends=True)
        begin = rng.randrange(len(lines))
        text = "".join(lines[begin : begin + rng.randint(1, 12)])
        for _ in range(rng.randint(1, 3)):
            start = rng.randrange(len(text) + 1)
            text = text[:start] + rng.choice(PIECES) + text[start + rng.choice([0, 0, 1, 3]) :]
        taken += both(text)
    assert taken > 400


VALUES = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(string.printable, max_size=12)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)


@with_libyaml
@PATIENT
@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=5), st.booleans(), st.booleans())
def test_dumped_values(value: dict[str, object], flow: bool, marked: bool) -> None:
    """What PyYAML writes, in whichever style, means the same to both readers."""
    text = yaml.safe_dump(
        value, default_flow_style=flow, explicit_start=marked, allow_unicode=True, width=40
    )
    both(text)


WHOLE = [BASE, *(file.read_text() for file in JOBS)]


@PATIENT
@given(st.data())
def test_whole_jobs_without_libyaml(data: st.DataObject) -> None:
    """With and without libyaml a job file gives the same job or the same words."""
    text = data.draw(st.sampled_from(WHOLE))
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(text)))
        piece = data.draw(st.sampled_from(PIECES))
        text = text[:start] + piece + text[start + data.draw(st.integers(0, 4)) :]
    found = outcome(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.delattr(yaml, "CSafeLoader", raising=False)
        assert outcome(text) == found


def test_pure_python_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyYAML came without libyaml, jobs are read all the same."""
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    with pytest.raises(quick.Doubt):
        quick.read(BASE)
    for file in JOBS:
        assert isinstance(load(file), JobSpec)


@pytest.mark.parametrize(
    "text",
    [
        "a: [b?c]\n",  # PyYAML sees a key
        "a: |# no comment\n  b\n",  # PyYAML refuses it
        "%YAML 1.2\n---\na: b\n",
        "a:\tb\n",
        "a: b\u2028c: d\n",
        "a:\n",
        "a: !x b\n",
        "a: &x b\n",
        "a: 1\na: 2\n",
        "[a]: 1\n",
        "a: 1\n---\nb: 1\n",
        'a: "\\ud800"\n',
        "",
    ],
)
def test_doubts(text: str) -> None:
    """What the readers could see differently, and what is refused, is read with care."""
    with pytest.raises(quick.Doubt):
        quick.read(text)
