"""queues.yaml: which queues there are and what they may hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.device import DeviceKind
from orchestrator.jobfile import JobFileError
from orchestrator.jobfile.nodes import MAX_BYTES
from orchestrator.queueing import Quota
from orchestrator.queueing.quota_file import QueueRule, Queues, check, load, loads
from orchestrator.spec import Queue

NIGHT = """
queues:
  default: {}
  night: {quota: {ascend: 16, cpu: 4}, priority_max: 60}
"""


def mistakes(text: str) -> list[str]:
    """What is wrong with a text, a line a mistake."""
    with pytest.raises(JobFileError) as caught:
        loads(text, "queues.yaml")
    return str(caught.value).splitlines()


def test_without_a_file_there_is_only_default(tmp_path: Path) -> None:
    """A head that nobody has set up takes jobs in one queue without a quota."""
    queues = load(tmp_path / "queues.yaml")
    assert list(queues.rules) == ["default"]
    assert queues.quotas == ()
    check(queues, Queue(), "job.yaml")


def test_a_file_names_queues_with_quotas(tmp_path: Path) -> None:
    """A kind without a number has no quota, and neither has a queue without one."""
    path = tmp_path / "queues.yaml"
    path.write_text(NIGHT)
    queues = load(path)
    quota = {DeviceKind.ASCEND: 16, DeviceKind.CPU: 4}
    assert queues.rules == {"default": QueueRule(), "night": QueueRule(quota, 60)}
    assert queues.quotas == (Quota("night", quota),)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "queues: {night: {}}"])
def test_default_is_there_in_any_case(text: str) -> None:
    """Jobs that name no queue go to it."""
    assert "default" in loads(text).rules


def test_every_mistake_is_told_at_once() -> None:
    """Each with its line, what was found and what is allowed."""
    text = (
        "queues:\n"
        "  Night: {}\n"
        "  day: {quota: {xyz: 8, gpu: -1}, priority_max: 101}\n"
        "  week: {quotas: {}}\n"
        "more: 1\n"
    )
    told = mistakes(text)
    assert told == [
        "queues.yaml:2: queues.Night: found the key 'Night', allowed: "
        "1 to 63 of a-z 0-9 . _ -, the first a letter or digit",
        "queues.yaml:3: queues.day.quota.xyz: found an unknown key, allowed: ascend, gpu or cpu",
        "queues.yaml:3: queues.day.quota.gpu: found -1 (a number), allowed: integer 0..1000000",
        "queues.yaml:3: queues.day.priority_max: found 101 (a number), allowed: integer 0..100",
        "queues.yaml:4: queues.week.quotas: found an unknown key, allowed: quota or priority_max; "
        "did you mean quota?",
        "queues.yaml:5: more: found an unknown key, allowed: queues",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "a mapping"),
        ("queues: {a: &x {}, b: *x}", "anchor"),
        ("{}", "it is required"),
        ("queues: {a: {}, a: {}}", "the key again"),
        ("queues: !!python/object:os.system {}", "values without tags"),
        ("queues: {a: {quota: {cpu: 1e3}}}", "integer"),
    ],
)
def test_what_is_no_table_of_queues_is_refused(text: str, told: str) -> None:
    """Nothing is constructed and nothing is guessed."""
    assert told in "\n".join(mistakes(text))


def test_a_file_that_cannot_be_read_is_no_missing_file(tmp_path: Path) -> None:
    """A directory, a link to nothing and a huge file are told, not passed over."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "huge").write_bytes(b"#" * (MAX_BYTES + 1))
    for path in (tmp_path, tmp_path / "link", tmp_path / "huge"):
        with pytest.raises(JobFileError):
            load(path)


@settings(deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Never anything else than queues or a list of mistakes."""
    try:
        assert "default" in loads(text).rules
    except JobFileError as error:
        assert error.problems


def test_a_job_of_an_unknown_queue_is_refused_with_the_names() -> None:
    """And with the one that was probably meant."""
    with pytest.raises(JobFileError) as caught:
        check(loads(NIGHT), Queue(name="nigth"), "job.yaml")
    assert str(caught.value) == (
        "job.yaml: queue.name: found 'nigth', allowed: default or night; did you mean night?"
    )


def test_a_priority_above_that_of_the_queue_is_refused() -> None:
    """The highest that is allowed may be had."""
    queues = loads(NIGHT)
    check(queues, Queue(name="night", priority=60), "job.yaml")
    with pytest.raises(JobFileError, match=r"queue\.priority: found 61, allowed: integer 0\.\.60"):
        check(queues, Queue(name="night", priority=61), "job.yaml")


def test_queues_without_rules_are_those_of_no_file() -> None:
    """The default of the value is the default of the file."""
    assert Queues() == loads("")
