"""`muster rank-table make` and `check --live` on rehearsal nodes: real files, real processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster.ascend.place import find
from cluster.simulated.directory import VARIABLE, NodeDirectory
from cluster.simulated.rehearsal import create
from orchestrator.cli import main
from orchestrator.found import own_address
from tests.simulated import node

off_hardware = pytest.mark.skipif(
    find({"PATH": ""}).npu_smi is not None, reason="this machine has an npu-smi"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in an empty directory, with no tools on PATH and no rehearsal node."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv(VARIABLE, raising=False)
    return place


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeDirectory:
    """Where the rehearsal node of a test lies; `create` makes it."""
    directory = NodeDirectory(tmp_path / "node")
    monkeypatch.setenv(VARIABLE, str(directory.root))
    return directory


def run(*arguments: str | Path) -> Result:
    """Run `muster rank-table …`."""
    return CliRunner().invoke(main, ["rank-table", *map(str, arguments)])


def devices_in(file: str) -> list[dict[str, str]]:
    """The devices of the one server of a table."""
    [server] = json.loads(Path(file).read_text())["server_list"]
    listed: list[dict[str, str]] = server["device"]
    return listed


def test_a_table_of_this_node_passes_here(at: NodeDirectory) -> None:
    """All devices, this machine's address, what the tools say; and every output says simulated."""
    create(at, node("910B3", 2))
    name = f"hccl_2p_01_{own_address()}.json"
    made = run("make")
    assert (made.exit_code, f"simulated node {at.root}" in made.stderr) == (0, True)
    assert devices_in(name) == [
        {"device_id": "0", "device_ip": "192.168.100.101", "rank_id": "0"},
        {"device_id": "1", "device_ip": "192.168.101.101", "rank_id": "1"},
    ]
    checked = run("check", name, "--live")
    assert checked.exit_code == 0
    assert checked.stdout.splitlines() == [
        f"simulated node {at.root} (910B, nothing of it is hardware): compared with server "
        f"{own_address()!r}: this machine is {own_address()!r}",
        f"{name}: 0 errors, 0 warnings",
    ]


def test_programs_are_told_what_was_compared(at: NodeDirectory) -> None:
    """`live` says which server, by what, on what; the table is judged by the node's own model."""
    create(at, node("910A", 2))
    made = json.loads(run("make", "--server=a", "--json").stdout)
    expected: dict[str, Any] = {
        "server": "a", "matched": "by the id that was given", "simulated": str(at.root),
        "answered": True, "model": "910A", "devices": 2,
    }  # fmt: skip
    assert (made["ok"], made["model"], made["live"]) == (True, "910A", expected)
    by_devices = "2 addresses of its devices are this node's"
    found = json.loads(run("check", made["file"], "--live", "--json").stdout)
    assert found["live"] == expected | {"matched": by_devices}
    assert json.loads(run("check", made["file"], "--json").stdout)["live"] is None


def test_faults_since_are_told_with_exit_1(at: NodeDirectory) -> None:
    """A table that was right is not, once a device is lost; the finding has code and place."""
    create(at, node("910B3", 2))
    assert run("make", "--server=a", "-o", "t.json").exit_code == 0
    create(at, node("910B3", 2, "lost:1", "link-down:0"))
    done = run("check", "t.json", "--live", "--server=a")
    assert done.exit_code == 1
    assert "error RT606: a lost device\n    server_list[0].device[1].device_id: 1:" in done.stdout
    assert "warning RT615" in done.stdout
    assert run("check", "t.json").exit_code == 0


def test_an_unknown_server_is_told(at: NodeDirectory) -> None:
    """RT601, whether the id was given or nothing fits; a table in doubt is not compared at all."""
    create(at, node("910B3", 1))
    assert run("make", "--server=a", "-o", "t.json").exit_code == 0
    given = json.loads(run("check", "t.json", "--live", "--server=b", "--json").stdout)
    assert given["counts"] == {"RT601": 1}
    assert given["live"]["server"] is None
    document = json.loads(Path("t.json").read_text())
    document["server_list"][0]["device"][0]["device_ip"] = "10.0.0.9"
    Path("t.json").write_text(json.dumps(document))
    done = run("check", "t.json", "--live")
    assert (done.exit_code, "error RT601" in done.stdout) == (1, True)
    del document["server_list"][0]["server_id"]
    Path("t.json").write_text(json.dumps(document))
    done = run("check", "t.json", "--live")
    assert done.exit_code == 1
    assert "not compared: what the table means is in doubt" in done.stdout


def test_device_ids_of_the_container_are_told(at: NodeDirectory) -> None:
    """A table with the numbers that a container shows is no table; the physical ones are named."""
    create(at, node("910B3", 8, visible=[4, 5, 6, 7]))
    done = run("make", "--devices=0-3")
    assert done.exit_code == 1
    assert "error RT604" in done.stderr and "device_id: 0, which is device 4" in done.stderr
    assert os.listdir() == []


def test_a_container_gets_physical_ids(at: NodeDirectory) -> None:
    """hccl_tools.py ends with KeyError '4' here, for `--visible_devices 4,5,6,7 "[0,4)"`."""
    create(at, node("910B3", 8, visible=[4, 5, 6, 7]))
    assert run("make", "--server=a").exit_code == 0
    devices = devices_in("hccl_4p_4567_a.json")
    assert [(d["device_id"], d["rank_id"], d["device_ip"]) for d in devices] == [
        ("4", "0", "192.168.100.102"), ("5", "1", "192.168.101.102"),
        ("6", "2", "192.168.102.102"), ("7", "3", "192.168.103.102"),
    ]  # fmt: skip
    assert run("check", "hccl_4p_4567_a.json", "--live").exit_code == 0


def test_sixteen_devices_are_sixteen(at: NodeDirectory) -> None:
    """hccl_tools.py writes one device for "[0,16)": it takes the range's text apart by characters.

    On A3 the table is of version 1.2, with the SDIDs and the super-pod that npu-smi states.
    """
    create(at, node("A3", 8))
    done = run("make", "--server=a", "--devices=[0,16)", "-o", "t.json")
    assert done.exit_code == 0, done.output
    devices = devices_in("t.json")
    assert [d["device_id"] for d in devices] == [str(n) for n in range(16)]
    assert devices[7]["super_device_id"] == "38600711"
    document = json.loads(Path("t.json").read_text())
    assert document["version"] == "1.2"
    assert document["super_pod_list"] == [
        {"super_pod_id": "0", "server_list": [{"server_id": "a"}]}
    ]


TOOLS = {
    "dashes": "echo ipaddr:-.-.-.-",
    "words": "echo error: get ip failed",
    "words for an address": "echo ipaddr:get ip failed",
    "an exit code": "echo ipaddr:192.168.1.1; exit 1",
    "nothing": "exit 0",
}


@pytest.mark.parametrize("does", TOOLS.values(), ids=TOOLS.keys())
@pytest.mark.parametrize("model", ["910A", "910B3"])
def test_a_failing_tool_makes_no_address(at: NodeDirectory, model: str, does: str) -> None:
    """hccl_tools.py writes `-.-.-.-` or `get ip failed` down as device_ip and calls it completed.

    Here 910B goes without an address, with a warning; 910A, which needs one, gets no table.
    """
    create(at, node(model, 1))
    at.hccn_conf.unlink()
    at.hccn_tool.write_text(f"#!/bin/sh\n{does}\n")
    done = run("make", "--server=a", "-o", "t.json")
    if model == "910A":
        assert (done.exit_code, os.listdir()) == (1, [])
        assert "error RT302" in done.stderr
        return
    assert done.exit_code == 0, done.output
    assert devices_in("t.json") == [{"device_id": "0", "rank_id": "0"}]
    assert "warning RT613" in done.stderr or "warning RT618" in done.stderr
    assert run("check", "t.json", "--live", "--server=a").exit_code == 0


def test_hccn_conf_stands_in_and_is_told(at: NodeDirectory) -> None:
    """Where hccn_tool cannot be asked the file's address is taken, with a warning."""
    create(at, node("910A", 1))
    at.hccn_tool.write_text("#!/bin/sh\nexit 1\n")
    done = run("make", "--server=a", "-o", "t.json")
    assert (done.exit_code, "warning RT618" in done.stderr) == (0, True)
    assert devices_in("t.json")[0]["device_ip"] == "192.168.100.101"


def test_only_well_devices_are_taken_unasked(at: NodeDirectory) -> None:
    """Those left out are told with the reason; one that is asked for by number is refused."""
    create(at, node("910B3", 3, "alarm:0=80E01801", "foreign:1"))
    done = run("make", "--server=a")
    assert done.exit_code == 0, done.output
    assert [d["device_id"] for d in devices_in("hccl_1p_2_a.json")] == ["2"]
    assert "left out: ascend:0: 80E01801 (HBM multi-bit ECC on access)" in done.stderr
    assert "left out: ascend:1: in use by python (pid 4711)" in done.stderr
    refused = run("make", "--server=a", "--devices=0,1")
    assert refused.exit_code == 1
    assert "error RT607" in refused.stderr and "error RT609" in refused.stderr
    assert os.listdir() == ["hccl_1p_2_a.json"]


def test_a_node_without_a_well_device_makes_no_table(at: NodeDirectory) -> None:
    """It says of each why."""
    create(at, node("910B3", 1, "critical:0"))
    done = run("make")
    assert (done.exit_code, os.listdir()) == (1, [])
    assert "no device is well\nleft out: ascend:0: " in done.stderr
    create(at, node("910B3", 1, "driver-down"))
    done = run("make")
    assert (done.exit_code, os.listdir()) == (1, [])
    assert "187" in done.stderr


def test_a_driver_that_does_not_answer_is_told(at: NodeDirectory) -> None:
    """Even where it leaves open which server of the table this node is."""
    create(at, node("910B3", 1))
    assert run("make", "--server=a", "-o", "t.json").exit_code == 0
    create(at, node("910B3", 1, "driver-down"))
    done = json.loads(run("check", "t.json", "--live", "--server=b", "--json").stdout)
    assert done["counts"] == {"RT601": 1, "RT602": 1}
    assert not done["live"]["answered"]


@off_hardware
@pytest.mark.parametrize("command", [["make"], ["check", "t.json", "--live"]])
def test_without_npu_smi_nothing_passes(here: Path, command: list[str]) -> None:
    """Exit 2, with the places that were looked at; nothing is written and nothing is judged."""
    (here / "t.json").write_text("{}")
    done = run(*command)
    assert (done.exit_code, done.stdout, os.listdir()) == (2, "", ["t.json"])
    assert "npu-smi was not found" in done.stderr and "/usr/local/sbin/npu-smi" in done.stderr


def test_server_belongs_to_live(here: Path) -> None:
    """`check --server` alone would be passed over in silence."""
    (here / "t.json").write_text("{}")
    done = run("check", "t.json", "--server=a")
    assert (done.exit_code, "--live" in done.stderr) == (2, True)
