"""`muster devices`, and `muster plan` on a rehearsal node."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster.ascend.place import find
from cluster.cpu import measure
from cluster.simulated.directory import VARIABLE, NodeDirectory
from cluster.simulated.node_file import load
from cluster.simulated.rehearsal import create
from orchestrator.cli import main
from orchestrator.cli.devices import look
from tests.simulated import node

ROOT = Path(__file__).resolve().parent.parent
JOB = ROOT / "jobs" / "yolov3_res2net50_8p_ascend.yaml"

off_hardware = pytest.mark.skipif(
    find({"PATH": ""}).npu_smi is not None, reason="this machine has an npu-smi"
)


def muster(*arguments: str, at: Path | None = None) -> Result:
    """A command, with a rehearsal node in the environment or none and no tools on PATH."""
    environment = {VARIABLE: None if at is None else str(at), "PATH": "/usr/bin:/bin"}
    return CliRunner().invoke(main, arguments, env=environment)


@pytest.fixture
def rehearsal(tmp_path: Path) -> NodeDirectory:
    """A node of three devices: one lost, one with an alarm, one well."""
    directory = NodeDirectory(tmp_path / "node")
    create(directory, node("910B3", 3, "lost:0", "alarm:1=80E01801"))
    return directory


def test_a_table_for_people(rehearsal: NodeDirectory) -> None:
    """A row a device, `simulated` on each, and why which are not to be used."""
    done = muster("devices", at=rehearsal.root)
    assert done.exit_code == 0, done.output
    rows = [line for line in done.stdout.splitlines() if line.strip().startswith("ascend:")]
    assert len([row for row in rows if row.strip().endswith("simulated")]) == 3
    assert "nothing here is hardware" in done.stdout
    assert "not to be used: ascend:0: lost" in done.stdout
    assert "RestartBusiness" in done.stdout and "NormalNPU" in done.stdout


@pytest.mark.parametrize(("width", "tables"), [(80, 2), (160, 1)])
def test_no_cell_is_cut(
    rehearsal: NodeDirectory, width: int, tables: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a narrow terminal the table is two, and every cell is whole."""
    from rich.console import Console

    from orchestrator.cli import device_table

    monkeypatch.setenv(VARIABLE, str(rehearsal.root))
    console = Console(width=width, record=True, file=io.StringIO())
    monkeypatch.setattr(device_table, "_console", lambda: console)
    device_table.show(look(), measure())
    text = console.export_text()
    assert text.count("kind") == tables and "…" not in text
    for word in ("ascend:1", "RestartBusiness", "192.168.102.101", "simulated"):
        assert word in text


def test_a_document_for_programs(rehearsal: NodeDirectory) -> None:
    """One JSON document, the same for `devices` and `devices list`."""
    done = muster("devices", "list", "--json", at=rehearsal.root)
    document = json.loads(done.stdout)
    assert document["schema"] == 1 and document["simulated"] == str(rehearsal.root.resolve())
    assert [bool(d["withheld"]) for d in document["devices"]] == [True, True, False]
    assert document["cpus"]["cpus"]


@off_hardware
def test_a_machine_without_npu_smi() -> None:
    """It says what it looked for, shows the CPUs, and that is no failure."""
    done = muster("devices")
    assert done.exit_code == 0
    assert "npu-smi was not found" in done.stdout and "/usr/local/sbin/npu-smi" in done.stdout
    assert "CPUs:" in done.stdout


def test_a_driver_that_is_down(tmp_path: Path) -> None:
    """The list could not be made: exit 1, with the tool's own words."""
    directory = NodeDirectory(tmp_path / "node")
    create(directory, node("910B3", 2, "driver-down"))
    done = muster("devices", at=directory.root)
    assert done.exit_code == 1
    assert "ret is -8005" in done.stdout and "exit 187" in done.stdout


def test_a_variable_that_leads_nowhere(tmp_path: Path) -> None:
    """Exit 2, with what to do."""
    done = muster("devices", at=tmp_path)
    assert done.exit_code == 2 and "muster devices simulate" in done.stderr
    done = muster("devices", at=tmp_path / ("x" * 300))
    assert done.exit_code == 2 and "File name too long" in done.stderr


def test_making_a_node_and_switching_faults(tmp_path: Path) -> None:
    """It is made once, tells how to use it, and takes faults on and off."""
    root = str(tmp_path / "node")
    done = muster("devices", "simulate", "--model", "A3", "--cards", "2", "--dir", root)
    assert done.exit_code == 0 and f"export {VARIABLE}={root}" in done.stdout
    done = muster("devices", "simulate", "--dir", root, "--fault", "lost:3", "--fault", "hang")
    assert done.exit_code == 0 and "faults: lost:3, hang" in done.stdout
    done = muster("devices", "simulate", "--dir", root, "--clear", "hang", "--json")
    assert json.loads(done.stdout)["faults"] == ["lost:3"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "911"], "expected one of 910A"),
        (["--model", "910A", "--cards", "9"], "expected 1 to 8"),
        (["--model", "910A", "--visible", "4-7"], "expected ids by comma"),
        (["--model", "910A", "--visible", "9"], "expected some of 0-7"),
        (["--model", "910A", "--fault", "melt"], "expected KIND"),
        (["--fault", "lost:0"], "no rehearsal node there"),
    ],
)
def test_a_mistake_leaves_nothing(tmp_path: Path, arguments: list[str], told: str) -> None:
    """What cannot be made is refused whole: exit 2, and no file."""
    done = muster("devices", "simulate", "--dir", str(tmp_path / "node"), *arguments)
    assert done.exit_code == 2 and told in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_leaves_a_node_as_it_was(rehearsal: NodeDirectory) -> None:
    """The good fault before a bad one is not switched on; another model is refused."""
    before = load(rehearsal.file)
    root = str(rehearsal.root)
    done = muster("devices", "simulate", "--dir", root, "--clear", "hang", "--fault", "lost:99")
    assert "no such fault is on" in done.stderr and "no device 99" in done.stderr
    done = muster("devices", "simulate", "--dir", root, "--fault", "hang", "--fault", "melt")
    assert done.exit_code == 2
    done = muster("devices", "simulate", "--dir", root, "--model", "910A")
    assert done.exit_code == 2 and "already" in done.stderr
    assert load(rehearsal.file) == before


def test_other_peoples_directories_are_left_alone(tmp_path: Path) -> None:
    """A directory that holds something else is not written into."""
    (tmp_path / "precious").write_text("x")
    done = muster("devices", "simulate", "--model", "910A", "--dir", str(tmp_path))
    assert done.exit_code == 2 and [p.name for p in tmp_path.iterdir()] == ["precious"]


def test_a_plan_skips_what_is_not_well(rehearsal: NodeDirectory) -> None:
    """The devices of the rehearsal node, not assumed ones; what is left out is told."""
    one = ("--set", "resources.ranks=1", "--set", "resources.ranks_per_node=1")
    done = muster("plan", str(JOB), *one, "--json", at=rehearsal.root)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["assumed_devices"] is False
    assert document["simulated_node"] == str(rehearsal.root.resolve())
    (rank,) = document["ranks"]
    assert (rank["node"], rank["device"]) == ("simulated", "ascend:2")
    assert rank["env"]["ASCEND_RT_VISIBLE_DEVICES"] == "2" and rank["env"]["DEVICE_ID"] == "0"
    assert any("no device of it is hardware" in note for note in document["notes"])
    assert any(note.startswith("not used: simulated/ascend:1") for note in document["notes"])


def test_a_plan_tells_what_may_hinder_it(tmp_path: Path) -> None:
    """A link that is down keeps no job away, and the note names the devices together."""
    directory = NodeDirectory(tmp_path / "node")
    create(directory, node("910B3", 2, "link-down:0", "link-down:1"))
    two = ("--set", "resources.ranks=2", "--set", "resources.ranks_per_node=2")
    document = json.loads(muster("plan", str(JOB), *two, "--json", at=directory.root).stdout)
    assert "simulated/ascend:0, simulated/ascend:1: link DOWN" in document["notes"]


def test_a_plan_whose_table_would_be_refused_fails(tmp_path: Path) -> None:
    """It is shown with the rule that is broken, and the exit code tells."""
    directory = NodeDirectory(tmp_path / "node")
    create(directory, node("910A", 8, "no-ip:0"))
    directory.hccn_conf.write_text("")
    done = muster("plan", str(JOB), at=directory.root)
    assert done.exit_code == 1
    assert "`muster run` refuses this job: rank table RT302" in " ".join(done.stdout.split())
    done = muster("plan", str(JOB), "--json", at=directory.root)
    assert done.exit_code == 1 and "RT302" in json.loads(done.stdout)["rank_table_errors"][0]


def test_a_plan_that_does_not_fit_says_why(rehearsal: NodeDirectory) -> None:
    """Too few well devices: refused with each one's reason, instead of assumed."""
    done = muster("plan", str(JOB), at=rehearsal.root)
    assert done.exit_code == 1
    assert "needs 8 free NPUs in one node; simulated has 1 of 3: NPU 0 lost" in done.stderr
    assert "80E01801" in done.stderr


def test_a_plan_in_a_container_asks_for_logical_ids(tmp_path: Path) -> None:
    """Devices 4-7 that processes know as 0-3 are named physically and asked for logically."""
    directory = NodeDirectory(tmp_path / "node")
    create(directory, node("910A", visible=[6, 7]))
    two = ("--set", "resources.ranks=2", "--set", "resources.ranks_per_node=2")
    document = json.loads(muster("plan", str(JOB), *two, "--json", at=directory.root).stdout)
    assert [rank["device"] for rank in document["ranks"]] == ["ascend:6", "ascend:7"]
    environment = document["ranks"][1]["env"]
    assert environment["ASCEND_RT_VISIBLE_DEVICES"] == "0,1" and environment["DEVICE_ID"] == "1"


@off_hardware
def test_without_a_node_devices_are_assumed() -> None:
    """As before, and said so."""
    done = muster("plan", str(JOB), "--json")
    document = json.loads(done.stdout)
    assert document["assumed_devices"] is True and document["simulated_node"] is None
    assert "npu-smi was not found" in document["notes"][0]


DESCRIPTION = """
model: A3
cards: 2
form: b
visible: 1-3
ips: {2: 10.0.0.9, 3: ''}
processes: {1: [{pid: 4711, name: python, memory: 2048}]}
faults: ['alarm:2=80E01801', link-down:1]
"""


def test_a_node_is_made_as_it_is_described(tmp_path: Path) -> None:
    """A small YAML says how it differs from a well one; options add faults to it."""
    file = tmp_path / "node.yaml"
    file.write_text(DESCRIPTION)
    root = tmp_path / "node"
    done = muster(
        "devices", "simulate", "--node", str(file), "--dir", str(root), "--fault", "lost:3"
    )
    assert done.exit_code == 0, done.output
    made = load(NodeDirectory(root).file)
    assert (made.model.name, len(made.devices), made.form) == ("A3", 4, "b")
    assert made.visible == (1, 2, 3)
    assert [device.ip for device in made.devices[2:]] == ["10.0.0.9", ""]
    assert made.devices[0].ip.startswith("192.168.")
    assert [p.pid for p in made.devices[1].processes] == [4711]
    assert [str(fault) for fault in made.faults] == ["alarm:2=80E01801", "link-down:1", "lost:3"]


def test_mistakes_of_a_description_are_told_at_once(tmp_path: Path) -> None:
    """Each with its line, and nothing is made."""
    file = tmp_path / "node.yaml"
    file.write_text(
        "cards: 99\nform: c\nvisible: 8-9\nips: {0: here, 9: 10.0.0.1}\n"
        "processes: {0: [{pid: 0, name: 'a b'}]}\nfaults: [melt, lost]\nmodle: 910B3\n"
    )
    done = muster("devices", "simulate", "--node", str(file), "--dir", str(tmp_path / "node"))
    assert done.exit_code == 2 and not (tmp_path / "node").exists()
    lines = done.stderr.splitlines()
    where = [line.removeprefix(f"{file}:").split(":")[:2] for line in lines]
    assert sorted((int(line), path.strip()) for line, path in where) == [
        (1, "cards"), (1, "model"), (2, "form"), (3, "visible"), (4, "ips.0"), (4, "ips.9"),
        (5, "processes.0[0].memory"), (5, "processes.0[0].name"), (5, "processes.0[0].pid"),
        (6, "faults[0]"), (6, "faults[1]"), (7, "modle"),
    ]  # fmt: skip
