"""Which module may import what: the rooms of ARCHITECTURE.md, asserted on the source itself."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("orchestrator", "cluster", "model")
FOLDED = (
    "orchestrator.api",
    "orchestrator.cli",
    "orchestrator.client",
    "orchestrator.drill",
    "orchestrator.jobfile",
    "orchestrator.queueing",
    "orchestrator.report",
    "orchestrator.service",
    "orchestrator.store",
    "cluster.ascend",
    "cluster.gpu",
    "cluster.rank_table",
    "cluster.simulated",
)  # one line each on the map

RAY = {"cluster.ray_driver"}
RICH = {
    "orchestrator.cli.device_check",
    "orchestrator.cli.device_table",
    "orchestrator.cli.gpu_table",
    "orchestrator.cli.plan",
    "orchestrator.cli.progress",
    "orchestrator.display",
    "orchestrator.panel",
}
MATPLOTLIB = {"model.canvas", "model.curves", "model.plots"}  # the latter two for types only
YAML = {"model.config_file", "orchestrator.jobfile.quick", "orchestrator.jobfile.reading"}
PYNVML = {"cluster.gpu.ask"}  # a process of its own: the driver may hang
SQLITE = {  # nobody else knows SQL
    "orchestrator.store.backup",
    "orchestrator.store.connections",
    "orchestrator.store.jobs",
    "orchestrator.store.migrations",
    "orchestrator.store.opening",
    "orchestrator.store.records",
    "orchestrator.store.store",
    "orchestrator.store.writer",
}
SUBPROCESS = {
    "cluster.command",  # asks npu-smi and hccn_tool, and the program that asks NVML
    "cluster.detach",  # a double fork needs a process with one thread
    "cluster.ray_child",  # the keeper starts Ray's driver
    "cluster.ray_client",  # the controller starts Ray's keeper
    "orchestrator.cli.service",  # `muster up` starts the controller
    "orchestrator.drill.rehearsal",  # runs that are broken before a job is trusted
    "orchestrator.drill.throttle",  # slows a rank, and lets it go though its controller dies
    "orchestrator.forkclient",  # the supervisor starts the fork server
    "orchestrator.patterns",  # searches with expressions of others
    "orchestrator.supervisor",  # and ranks
    "orchestrator.trials",  # tries devices before a start
}
SIGNAL = {
    "cluster.command",  # ends a tool that hangs
    "cluster.detach",
    "cluster.gpu.ask",  # an alarm, for when nobody is left to end it
    "cluster.leftovers",
    "cluster.ray_keeper",
    "cluster.ray_node",
    "orchestrator.drill.injection",  # kills on purpose
    "orchestrator.drill.rehearsal",  # Ctrl-C to a run that has shown enough
    "orchestrator.drill.throttle",  # stops and lets go
    "orchestrator.evidence",  # numbers of signals only
    "orchestrator.health",  # names of signals only
    "orchestrator.interrupts",  # Ctrl-C to any command
    "orchestrator.launch",  # dispositions of a rank
    "orchestrator.local_run",  # Ctrl-C
    "orchestrator.patterns",  # an alarm ends a search
    "orchestrator.processes",
    "orchestrator.signature",  # which ones a process brings upon itself
    "orchestrator.service.serve",  # TERM ends the head and leaves ranks running
    "orchestrator.stop_request",  # TERM from outside asks a rank to save itself
    "orchestrator.stack_signal",  # a rank's number for it
    "orchestrator.supervisor",
}
STANDARD_LIBRARY_ONLY = (
    "cluster.detach",  # runs on a node before anything else does
    "cluster.lanes",
    "cluster.leftovers",
    "cluster.ports",
    "cluster.ray_child",
    "cluster.ray_client",
    "cluster.ray_keeper",
    "cluster.simulated.program",  # answers at once, without site-packages
    "orchestrator.client",  # a command starts in a third of the time that an HTTP library takes
    "orchestrator.entry",  # runs in every rank
    "orchestrator.forkserver",
    "orchestrator.rank",  # imported by any training script
    "orchestrator.supervisor",  # survives what it supervises
)


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name and what it imports, inside functions too.

    `imports` are dotted names of modules, ours down to the module; `typing_only` are those
    under `if TYPE_CHECKING:`, which no process ever imports.
    """

    name: str
    tree: ast.Module
    imports: frozenset[str]
    typing_only: frozenset[str]


@cache
def modules() -> dict[str, Module]:
    """All modules of all rooms by name."""
    paths = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    names = {dotted(path): path for path in paths}
    return {name: read(name, path, frozenset(names)) for name, path in names.items()}


def dotted(path: Path) -> str:
    """The module's name as an import says it."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read(name: str, path: Path, known: frozenset[str]) -> Module:
    """Parse a module and collect its imports."""
    tree = ast.parse(path.read_text(), str(path))
    guarded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for node in ast.walk(tree):
        found[node in guarded].update(imported(node, known))
    return Module(name, tree, frozenset(found[False]), frozenset(found[True]))


def imported(node: ast.AST, known: frozenset[str]) -> Iterator[str]:
    """The modules that an import statement names; nothing for any other node."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0 and node.module, "imports are absolute"
        submodules = {f"{node.module}.{alias.name}" for alias in node.names} & known
        if len(submodules) < len(node.names):
            yield node.module
        yield from submodules


def importers(package: str) -> set[str]:
    """Our modules that import a package of others, however late."""
    return {
        module.name
        for module in modules().values()
        if package in {name.partition(".")[0] for name in module.imports | module.typing_only}
    }


def ours(names: frozenset[str]) -> set[str]:
    """Those imports that lead to a room of ours."""
    return {name for name in names if name.partition(".")[0] in ROOMS}


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        ("orchestrator", ("orchestrator", "cluster")),
        ("cluster", ("cluster",)),
        ("model", ("model", "orchestrator.rank")),
    ],
)
def test_rooms_import_along_the_arrows(room: str, allowed: tuple[str, ...]) -> None:
    """orchestrator → cluster; cluster → nothing of ours; model → the rank contract only."""
    wrong = [
        f"{module.name} imports {name}"
        for module in modules().values()
        if module.name.partition(".")[0] == room
        for name in sorted(ours(module.imports | module.typing_only))
        if not any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("ray", RAY),
        ("pynvml", PYNVML),
        ("subprocess", SUBPROCESS),
        ("signal", SIGNAL),
        ("sqlite3", SQLITE),
        ("rich", RICH),
        ("yaml", YAML),
        ("matplotlib", MATPLOTLIB),
    ],
)
def test_what_touches_the_world_is_listed(package: str, allowed: set[str]) -> None:
    """Few modules start, signal, draw or talk to Ray; another one must be argued for here."""
    assert importers(package) == allowed


def test_mindspore_is_the_models_the_schedulers_and_the_trials() -> None:
    """Outside `model`, only the rendezvous scheduler and a device's trial import MindSpore."""
    outside = {name for name in importers("mindspore") if not name.startswith("model.")}
    assert outside == {"orchestrator.device_trial", "orchestrator.scheduler"}


def test_click_is_the_command_lines() -> None:
    """Only `orchestrator.cli` knows that there is a command line."""
    assert {name for name in importers("click") if not name.startswith("orchestrator.cli")} == set()


@pytest.mark.parametrize("start", STANDARD_LIBRARY_ONLY)
def test_small_processes_need_the_standard_library_only(start: str) -> None:
    """What a supervisor, a rank or a keeper imports, to any depth, is Python's own or ours."""
    seen: set[str] = set()
    waiting = [start]
    foreign = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        # Importing a.b runs a's __init__ too.
        waiting += [parent for parent in (name.rpartition(".")[0],) if parent in modules()]
        for target in modules()[name].imports:
            if target in modules():
                waiting.append(target)
            elif target.partition(".")[0] not in sys.stdlib_module_names:
                foreign.add(f"{name} imports {target}")
    assert foreign == set()


def test_help_imports_nothing_heavy() -> None:
    """`muster --help` imports neither Ray, MindSpore, NumPy, YAML nor rich, nor a command."""
    program = (
        "import json, sys\n"
        "from orchestrator.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "finally:\n"
        "    print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "muster run jobs/rehearsal_8p_cpu.yaml" in done.stdout
    loaded = set(json.loads(done.stderr))
    assert loaded & {"ray", "mindspore", "numpy", "yaml", "rich", "cv2", "subprocess"} == set()
    assert {name for name in loaded if name.startswith("orchestrator")} == {
        "orchestrator",
        "orchestrator.cli",
        "orchestrator.interrupts",
    }


def test_the_package_list_is_what_lies_on_disk() -> None:
    """Setuptools is told every package, and no folder with code is forgotten."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    on_disk = {dotted(path) for room in ROOMS for path in (ROOT / room).rglob("__init__.py")}
    assert sorted(listed) == sorted(on_disk)
    holding_code = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert {dotted(folder / "__init__.py") for folder in holding_code} == on_disk


def test_jobs_and_docker_hold_no_code() -> None:
    """They hold what people read and change."""
    assert [*(ROOT / "jobs").rglob("*.py"), *(ROOT / "docker").rglob("*.py")] == []


def test_no_module_is_called_utils() -> None:
    """A module is named after what it holds."""
    drawers = {"util", "utils", "helper", "helpers", "misc"}
    assert {name for name in modules() if name.rpartition(".")[2] in drawers} == set()


def test_every_module_says_what_it_is() -> None:
    """The docstring is the first thing a reader of a module sees."""
    silent = [
        module.name
        for module in modules().values()
        if not module.name.rpartition(".")[2].startswith("_") and not ast.get_docstring(module.tree)
    ]
    assert silent == []


@pytest.mark.parametrize("room", ROOMS)
def test_the_map_names_every_module(room: str) -> None:
    """ARCHITECTURE.md has a line for each module, so that the map cannot fall behind."""
    table = (
        (ROOT / "ARCHITECTURE.md").read_text().partition(f"### {room}/")[2].partition("\n## ")[0]
    )
    table = table.partition("\n### ")[0]
    shown = [name for name in modules() if name.startswith(f"{room}.") and "__" not in name]
    missing = [
        name
        for name in shown
        if not name.startswith(FOLDED) and f"`{name.rpartition('.')[2]}.py`" not in table
    ]
    assert missing == []
