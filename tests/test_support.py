"""What `run` refuses by name because it is not built yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.jobfile import loads
from orchestrator.support import GAPS, not_built

RUNNABLE = """
version: 1
name: small
module: train
resources: {device: cpu, ranks: 8}
"""


def refused(*overrides: str, text: str = RUNNABLE) -> list[str]:
    """The paths that `run` refuses."""
    return [problem.path for problem in not_built(loads(text, overrides))]


def test_defaults_are_never_refused() -> None:
    """A job that gives nothing unusual runs, although some defaults have no behaviour yet."""
    assert refused() == []


@pytest.mark.parametrize(
    "override",
    [
        "resources.ranks_per_node=8",
        "resources.cpus_per_rank=1",
        "launch={mode: dynamic, bind: blocks, start: spawn, preload: [json]}",
        "launch.mode=none",
        "checkpoint={every_steps: 5, keep: 2}",
        "health={heartbeat_timeout: 60, phase_timeouts: {init: 1m}, hang: {floor: 2m}}",
        "restart={backoff: {first: 0}, no_progress: 1, min_ranks: 4, rules: []}",
        "restart.budgets={process: 1}",
        "restart={replenish_after: 1h, fallback: {args: {lr: 0.1}}}",
        "args={lr: 0.1}",
        "env={A: b}",
        "checkpoint.snapshot_every_steps=5",
    ],
)
def test_built_fields_run(override: str) -> None:
    """What is built is accepted."""
    assert refused(override) == []


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("resources.ranks_per_node=4", "resources.ranks_per_node"),
        ("resources.memory_per_rank=1Gi", "resources.memory_per_rank"),
        ("resources.nodes.labels.pool=train", "resources.nodes"),
        ("notify=[{url: 'https://example.org'}]", "notify"),
    ],
)
def test_missing_behaviour_is_refused_by_name(override: str, path: str) -> None:
    """A given field that nothing acts on yet is named."""
    assert refused(override) == [path]


def test_secrets_run(tmp_path: Path) -> None:
    """Secrets are handed to ranks."""
    secret = tmp_path / "token"
    secret.touch(mode=0o600)
    secret.write_text("s3cret-value")
    assert refused(f"secrets.TOKEN={secret}") == []


def test_every_gap_is_named_at_once() -> None:
    """All refusals come together, in the order of the table."""
    paths = refused("notify=[{url: 'https://example.org'}]", "resources.memory_per_rank=1Gi",
                    "limits.run=1h", "limits.wait=1h")  # fmt: skip
    assert paths == ["resources.memory_per_rank", "notify"]


@pytest.mark.parametrize("device", ["ascend", "gpu"])
def test_jobs_for_accelerators_can_run(device: str) -> None:
    """Whether there are such devices is found out when they are looked for."""
    assert refused(f"resources.device={device}") == []


def test_message_says_what_to_do() -> None:
    """A refusal names the file, the field, its value and what can run."""
    (problem,) = not_built(loads(RUNNABLE, ["resources.ranks_per_node=4"]))
    assert problem.describe("job.yaml") == (
        "job.yaml: resources.ranks_per_node: found 4, allowed: the number of resources.ranks: "
        "one node; "
        "it is valid, but `run` does not act on it yet"
    )


def test_gaps_name_real_fields() -> None:
    """The table has no field twice, and restart budgets are not in it: they are built."""
    paths = [gap.path for gap in GAPS]
    assert len(paths) == len(set(paths))
    assert "restart.budgets" not in paths
