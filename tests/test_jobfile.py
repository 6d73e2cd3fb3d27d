"""Job files: what is accepted, and what is said about what is not."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from orchestrator.jobfile import JobFileError, Problem, load, loads
from orchestrator.spec import JobSpec

JOBS = Path(__file__).parent.parent / "jobs"

# Lines are counted in the tables below: `{}` is line 5.
BASE = """version: 1
name: job
module: train
resources: {device: cpu, ranks: 8}
"""
NO_PROGRAM = BASE.replace("module: train", "env: {}")


def problems(text: str, *overrides: str) -> tuple[Problem, ...]:
    """What is wrong with a text; fails if nothing is."""
    with pytest.raises(JobFileError) as caught:
        loads(text, overrides)
    return caught.value.problems


def test_shipped_jobs_are_valid() -> None:
    """Every job file of the repository is a valid job."""
    files = sorted(JOBS.glob("*.yaml"))
    assert files
    for file in files:
        assert isinstance(load(file), JobSpec), file


# (what stands from line 5 on, line, path, words of the message)
WRONG = [
    # unknown keys and the nearest right name
    ("checkpiont: {}", 5, "checkpiont", "did you mean checkpoint?"),
    ("ranks: 4", 5, "ranks", "its place is resources.ranks"),
    ("checkpoint:\n  evry_steps: 1", 6, "checkpoint.evry_steps", "did you mean every_steps?"),
    ("restart: {budgets: {proces: 1}}", 5, "restart.budgets.proces", "did you mean process?"),
    ("health: {phase_timeouts: {boot: 1m}}", 5, "health.phase_timeouts.boot", "allowed: init"),
    # types
    ("checkpoint: 5", 5, "checkpoint", "found 5 (a number), allowed: a mapping"),
    ("checkpoint: [5]", 5, "checkpoint", "found a list"),
    ("checkpoint:", 5, "checkpoint", "leave the key out or write {}"),
    ("checkpoint: {keep: '5'}", 5, "checkpoint.keep", "write 5 without quotes"),
    ("checkpoint: {keep: 0}", 5, "checkpoint.keep", "found 0 (a number), allowed: integer 1.."),
    ("checkpoint: {keep: 1.5}", 5, "checkpoint.keep", "integer"),
    ("checkpoint: {keep: true}", 5, "checkpoint.keep", "integer"),
    ("launch: {mode: tables}", 5, "launch.mode", "did you mean rank_table?"),
    ("launch: {preload: mindspore}", 5, "launch.preload", "write [mindspore]"),
    ("launch: {preload: [a b]}", 5, "launch.preload[0]", "dotted name"),
    ("health: {hang: {factor: 1}}", 5, "health.hang.factor", "number 1.1..1000"),
    ("health: {hang: {factor: .nan}}", 5, "health.hang.factor", "number 1.1..1000"),
    ("health: {hang: {floor: 2m, ceiling: 1m}}", 5, "health.hang.ceiling", "not below floor"),
    ("health: {hang: {ceiling: 5s}}", 5, "health.hang.ceiling", "health.hang.floor is 60 s"),
    ("health: {hang: {floor: 1h}}", 5, "health.hang.floor", "health.hang.ceiling is 1800 s"),
    ("health: {hang: {limit: 1m}}", 5, "health.hang.limit", "allowed: factor, floor or ceiling"),
    ("health: {straggler: 0.5}", 5, "health.straggler", "number 1..1000"),
    ("health: {straggler: 2, move_stragglers: 1}", 5, "health.move_stragglers", "true or false"),
    (
        "health: {straggler: 2, move_stragglers: 'true'}",
        5,
        "health.move_stragglers",
        "write true without quotes",
    ),
    ("health: {move_stragglers: true}", 5, "health.move_stragglers", "health.straggler says how"),
    ("restart: {budgets: {oom: unlimted}}", 5, "restart.budgets.oom", "did you mean unlimited?"),
    ("restart: {budgets: {oom: -1}}", 5, "restart.budgets.oom", "integer 0.."),
    ("queue: {priority: 101}", 5, "queue.priority", "integer 0..100"),
    ("limits: {run: 10 minutes}", 5, "limits.run", "a duration such as"),
    ("limits: {run: 0}", 5, "limits.run", "a duration such as"),
    ("limits: {run: 40000d}", 5, "limits.run", "at most 10 years"),
    # traps of YAML 1.1
    ("on: true", 5, "on", "YAML 1.1 reads on as a boolean"),
    ("args: {yes: 1}", 5, "args.yes", "YAML 1.1 reads yes as a boolean"),
    ("args: {a: off}", 5, "args.a", "YAML 1.1 reads off as a boolean"),
    ("args: {a: 0123}", 5, "args.a", "YAML 1.1 reads 0123 as octal"),
    ("args: {a: 12:30}", 5, "args.a", "YAML 1.1 reads 12:30 as a number to base 60"),
    ("args: {a: 12:30.5}", 5, "args.a", "YAML 1.1 reads 12:30.5 as a number to base 60"),
    ("args: {a: 0x1f}", 5, "args.a", "write it in decimal"),
    ("args: {a: 1_000}", 5, "args.a", "without underscores"),
    ("health: {straggler: 1e1}", 5, "health.straggler", "YAML 1.1 reads 1e1 as text: write 1.0e+1"),
    ("checkpoint: {keep: 1e3}", 5, "checkpoint.keep", "write 1000, without an exponent"),
    ("limits: {run: 12:30}", 5, "limits.run", "write 12h30m or 12m30s"),
    ("env: {VERSION: 1.10}", 5, "env.VERSION", 'put it in quotes: "1.10"'),
    ("env: {DEBUG: no}", 5, "env.DEBUG", "YAML 1.1 reads no as a boolean"),
    ("env: {DEBUG: true}", 5, "env.DEBUG", 'put it in quotes: "true"'),
    ("queue: {name: 2024-01-01}", 5, "queue.name", "YAML 1.1 reads 2024-01-01 as a date"),
    ("queue: {name: 7}", 5, "queue.name", 'put it in quotes: "7"'),
    ("launch: {bind: no}", 5, "launch.bind", "did you mean none?"),
    ("launch: {bind: cores}", 5, "launch.bind", "did you mean blocks?"),
    # arguments and environment
    ("args: {a: }", 5, "args.a", "write '' for an empty value"),
    ("args: {a: null}", 5, "args.a", "found nothing (null)"),
    ("args: {a: {b: 1}}", 5, "args.a", "found a mapping"),
    ("args: {a: [1, [2]]}", 5, "args.a[1]", "found a list"),
    ("args: {a: ['1,2', 3]}", 5, "args.a[0]", "a value without a comma"),
    ('args: {a: "x\\ny"}', 5, "args.a", "found 'x\\ny'"),
    ('args: {a: "x\\0y"}', 5, "args.a", "found 'x\\x00y'"),
    ("args: {--a: 1}", 5, "args.--a", "without dashes in front"),
    ("env: {A: [b]}", 5, "env.A", "found a list"),
    ("env: {1A: b}", 5, "env.1A", "no digit first"),
    ('env: {A: "b\\nc"}', 5, "env.A", "one line of text"),
    ("env: {RANK_ID: '0'}", 5, "env.RANK_ID", "muster sets it for every rank"),
    ("env: {MUSTER_X: '0'}", 5, "env.MUSTER_X", "muster sets it for every rank"),
    ("secrets: {MS_ROLE: /x}", 5, "secrets.MS_ROLE", "muster sets it for every rank"),
    # restart
    ("restart: {rules: [{log: '(', class: node}]}", 5, "restart.rules[0].log", "does not compile"),
    ("restart: {rules: [{log: a, class: nod}]}", 5, "restart.rules[0].class", "did you mean node?"),
    ("restart: {rules: [{log: a}]}", 5, "restart.rules[0].class", "it is required"),
    ("restart: {rules: [{class: oom}]}", 5, "restart.rules[0].class", "without log and exit_code"),
    ("restart: {backoff: {first: 5m}}", 5, "restart.backoff.first", "max is 60 s by default"),
    ("restart: {backoff: {max: 500ms}}", 5, "restart.backoff.max", "max not below first"),
    ("restart: {backoff: {jitter: 1.5}}", 5, "restart.backoff.jitter", "number 0..1"),
    ("restart: {fallback: {}}", 5, "restart.fallback.args", "it is required"),
    ("restart: {fallback: {args: {}, lr: 1}}", 5, "restart.fallback.lr", "an unknown key"),
    ("restart: {fallback: {args: {--lr: 1}}}", 5, "restart.fallback.args.--lr", "without dashes"),
    ("restart: {min_ranks: 3}", 5, "restart.min_ranks", "a divisor of resources.ranks (8): 8, 4"),
    ("restart: {min_ranks: 16}", 5, "restart.min_ranks", "a divisor of resources.ranks"),
    # notify and then
    ("notify: [{url: 'ftp://x'}]", 5, "notify[0].url", "an http or https address"),
    ("notify: [{url: 'http://x', events: [fail]}]", 5, "notify[0].events[0]", "mean failed?"),
    ("notify: [{events: [failed]}]", 5, "notify[0].url", "it is required"),
    ("then: {args: {a: 1}}", 5, "then.module", "neither module nor command"),
    ("then: {module: a, command: [b]}", 5, "then.command", "both module and command"),
    # other combinations
    ("command: [python]", 5, "command", "both module and command"),
    ("launch: {mode: rank_table}", 5, "launch.mode", "rank_table with resources.device cpu"),
    ("workdir: /no/such/folder", 5, "workdir", "a directory that exists"),
    ("workdir: ~nobody-of-this-name/x", 5, "workdir", "a directory that exists"),
    ("secrets: {T: /no/such/file}", 5, "secrets.T", "No such file"),
    ("secrets: {T: /}", 5, "secrets.T", "which is not a file"),
    # YAML itself
    ("checkpoint: {keep: 1}\ncheckpoint: {keep: 2}", 6, "checkpoint", "in line 5 already"),
    ("args: {a: 1, a: 2}", 5, "args.a", "each key once"),
    ("args: &x {a: 1}", 5, "", "found the anchor &x"),
    ("args: {a: *x}", 5, "args.a", "found the alias *x"),
    ("args: {<<: {a: 1}}", 5, "args.<<", "an option's name"),
    ("args: {a: !!binary aGk=}", 5, "args.a", "the tag tag:yaml.org,2002:binary"),
    ("queue: !include other.yaml", 5, "queue", "the tag !include"),
    ("args: !!set {a, b}", 5, "args", "values without tags"),
    ("? [a]\n: b", 5, "", "a key that is not text"),
    ('args: {a: "\\ud800"}', 5, "args.a", "text that UTF-8 can hold"),
    ("\tqueue: {}", 5, "", "found a tab, allowed: spaces"),
    ("---\nversion: 1", 5, "", "found a second document"),
    ("args: {a: 1", 6, "", "allowed: YAML"),
]


@pytest.mark.parametrize(("wrong", "line", "path", "words"), WRONG)
def test_one_mistake(wrong: str, line: int, path: str, words: str) -> None:
    """A mistake is reported once, with its line, its path and what to do."""
    (problem,) = problems(BASE + wrong + "\n")
    assert (problem.line, problem.path) == (line, path)
    assert words in problem.describe("job.yaml")


@pytest.mark.parametrize(
    ("text", "line", "path", "words"),
    [
        (BASE.replace("version: 1", "version: 2"), 1, "version", "found 2 (a number), allowed: 1"),
        (BASE.replace("version: 1", "version: '1'"), 1, "version", "write 1 without quotes"),
        (BASE.replace("version: 1", "env: {}"), 1, "version", "found nothing, allowed: 1; it is"),
        (BASE.replace("job", "My Job"), 2, "name", "found 'My Job', allowed: 1 to 63 of"),
        (BASE.replace("job", "../x"), 2, "name", "the first a letter or digit"),
        (BASE.replace("job", "a" * 64), 2, "name", "1 to 63"),
        (BASE.replace("train", "train.py/x"), 3, "module", "dotted name"),
        (BASE.replace("ranks: 8", "ranks: eight"), 4, "resources.ranks", "did you mean 8?"),
        (BASE.replace("ranks: 8", "ranks: 65537"), 4, "resources.ranks", "integer 1..65536"),
        (BASE.replace("device: cpu, ", ""), 4, "resources.device", "allowed: ascend, gpu or cpu"),
        (BASE.replace("cpu", "npu"), 4, "resources.device", "did you mean ascend?"),
        (BASE.replace("cpu", "CPU"), 4, "resources.device", "did you mean cpu?"),
        (BASE.replace("8}", "8, ranks_per_node: 3}"), 4, "resources.ranks_per_node", "8, 4, 2, 1"),
        (BASE.replace("8}", "8, memory_per_rank: 4GB}"), 4, "resources.memory_per_rank", "4Gi?"),
        (NO_PROGRAM, 1, "module", "neither module nor command"),
        (NO_PROGRAM + "command: python x.py", 5, "command", "write [python, x.py]"),
        (NO_PROGRAM + "command: []", 5, "command", "an empty list"),
        (NO_PROGRAM + "command: [a]\nlaunch: {start: fork}", 6, "launch.start", "runs modules"),
    ],
)
def test_one_mistake_in_the_head(text: str, line: int, path: str, words: str) -> None:
    """The required fields are told apart from what only looks like them."""
    (problem,) = problems(text)
    assert (problem.line, problem.path) == (line, path)
    assert words in problem.describe("job.yaml")


def test_every_problem_at_once() -> None:
    """A file with many mistakes gives them all, in the order of the file."""
    text = """version: 2
name: Bad Name
module: train
command: train
resources: {device: npu, ranks: 8, ranks_per_node: 3}
args: {a: {}, b: yes, ckpt_interval: 40}
checkpoint: {every_steps: 500, kep: 1}
env: &e {A: 1}
secrets: *e
launch: {mode: rank_table}
"""
    found = [(problem.line, problem.path) for problem in problems(text)]
    assert found == [
        (1, "version"),
        (2, "name"),
        (4, "command"),
        (4, "command"),
        (5, "resources.device"),
        (5, "resources.ranks_per_node"),
        (6, "args.a"),
        (6, "args.b"),
        (6, "args.ckpt_interval"),
        (7, "checkpoint.kep"),
        (8, ""),
        (9, "secrets"),
    ]


def test_message_of_a_file(tmp_path: Path) -> None:
    """The error reads as one line for each problem: place, path, found, allowed, hint."""
    file = tmp_path / "job.yaml"
    file.write_text(BASE.replace("8", "eight") + "chekpoint: {}\n")
    with pytest.raises(JobFileError) as caught:
        load(file, ["args.lr=on"])
    first, second, third = str(caught.value).splitlines()
    assert first == (
        f"{file}:4: resources.ranks: found 'eight', allowed: integer 1..65536; did you mean 8?"
    )
    assert second.startswith(f"{file}:5: chekpoint: found an unknown key, allowed: version,")
    assert second.endswith("did you mean checkpoint?")
    assert third.startswith("--set args.lr=on: args.lr: found on (a boolean)")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("interval", ["500", "'500'"])
def test_equal_intervals_are_no_contradiction(interval: str) -> None:
    """The trainer's interval may repeat the job's own."""
    text = f"args: {{ckpt_interval: {interval}}}\ncheckpoint: {{every_steps: 500}}"
    assert loads(BASE + text).checkpoint.every_steps == 500


def test_contradicting_intervals() -> None:
    """Two different checkpoint intervals are an error that names both."""
    (problem,) = problems(BASE + "checkpoint: {every_steps: 500}\nargs: {ckpt_interval: 40}")
    assert (problem.line, problem.path) == (6, "args.ckpt_interval")
    assert "'40' with checkpoint.every_steps 500" in str(problem)
