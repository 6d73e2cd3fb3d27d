"""`muster rank-table`: options, files, exit codes, documents for programs."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.rank_table import make, text_of
from orchestrator.cli import main
from orchestrator.cli.table_servers import MOST, device_ids
from tests import rank_tables as rt

IPS = [f"--ip={n}=192.168.{100 + n}.101" for n in range(8)]
EIGHT = ["make", "--server=10.0.0.1", "--devices=0-7", *IPS]
NAME = "hccl_8p_01234567_10.0.0.1.json"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str | Path) -> Result:
    """Run `muster rank-table …`."""
    return CliRunner().invoke(main, ["rank-table", *map(str, arguments)])


def table_file(name: str, *servers: int, ids: tuple[int, ...] = (0, 1)) -> Path:
    """A file with a good table."""
    path = Path(name)
    path.write_text(text_of(make([(rt.facts(n, list(ids)), ids) for n in servers])))
    return path


def test_make_writes_a_table_that_check_passes(here: Path) -> None:
    """The file has the ModelZoo's name, nothing else appears, and nothing is found in it."""
    done = run(*EIGHT, "--model=910A")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{NAME}: 8 ranks on 1 server, sha256 ")
    assert os.listdir(here) == [NAME]
    checked = run("check", NAME, "--model=910A")
    assert (checked.exit_code, checked.stdout) == (0, f"{NAME}: 0 errors, 0 warnings\n")


def test_make_never_overwrites_unasked(here: Path) -> None:
    """Without --force the old file stays as it is, and the options are named."""
    (here / NAME).write_text("mine")
    done = run(*EIGHT)
    assert done.exit_code == 2
    assert "--force" in done.stderr and "-o FILE" in done.stderr
    assert (here / NAME).read_text() == "mine"
    assert os.listdir(here) == [NAME]
    assert run(*EIGHT, "--force").exit_code == 0
    assert json.loads((here / NAME).read_text())["status"] == "completed"


def test_make_refuses_what_a_failing_tool_said(here: Path) -> None:
    """An address of -.-.-.- writes nothing and is named with its place."""
    done = run("make", "--server=a", "--devices=0", "--ip=0=-.-.-.-")
    assert done.exit_code == 1
    assert "RT305" in done.stderr and "device[0].device_ip: '-.-.-.-'" in done.stderr
    assert os.listdir(here) == []


def test_make_understands_the_modelzoos_ranges(here: Path) -> None:
    """[0,16) is sixteen devices, which 910A does not have; [4,8) keeps its physical ids."""
    conf = "".join(f"address_{n}=192.168.0.{n + 1}\n" for n in range(16))
    (here / "hccn.conf").write_text(conf)
    one = ["make", "--server=a", "--hccn-conf=hccn.conf"]
    sixteen = run(*one, "--devices=[0,16)", "--model=910A", "-o", "t.json")
    assert sixteen.exit_code == 1
    assert "RT212" in sixteen.stderr and "device[8].device_id: 8" in sixteen.stderr
    assert run(*one, "--devices=[4,8)", "--model=910B").exit_code == 0
    document = json.loads((here / "hccl_4p_4567_a.json").read_text())
    devices = document["server_list"][0]["device"]
    assert [(d["device_id"], d["rank_id"]) for d in devices] == [
        ("4", "0"), ("5", "1"), ("6", "2"), ("7", "3"),
    ]  # fmt: skip


def test_make_takes_addresses_from_hccn_conf(here: Path) -> None:
    """An address on the command line goes before one of the file; other devices' are left out."""
    (here / "hccn.conf").write_text("address_0=192.168.1.1\naddress_1=192.168.1.2\naddress_2=x\n")
    done = run("make", "--server=a", "--devices=0-1", "--hccn-conf=hccn.conf", "--ip=1=10.9.9.9",
               "-o-")  # fmt: skip
    assert done.exit_code == 0, done.output
    devices = json.loads(done.stdout)["server_list"][0]["device"]
    assert [device["device_ip"] for device in devices] == ["192.168.1.1", "10.9.9.9"]


def test_make_reads_servers_from_yaml(here: Path) -> None:
    """Devices as ranges, addresses and SDIDs by device; a super-pod makes version 1.2."""
    (here / "servers.yaml").write_text(
        "- id: 10.0.0.1\n"
        "  devices: 0-1\n"
        "  ips: {0: 192.168.1.1, 1: [192.168.1.2]}\n"
        "  super_pod: 0\n"
        "  super_device_ids: {0: 100, 1: 101}\n"
        "- {id: 10.0.0.2, devices: [0, 1], ips: {0: 192.168.2.1, 1: 192.168.2.2},\n"
        "   super_pod: 0, super_device_ids: {0: 200, 1: 201}}\n"
    )
    done = run("make", "--servers=servers.yaml", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert {k: document[k] for k in ("schema", "file", "ok", "version", "servers", "ranks")} == {
        "schema": 1, "file": "hccl_2s_4p.json", "ok": True, "version": "1.2", "servers": 2,
        "ranks": 4,
    }  # fmt: skip
    written = json.loads((here / "hccl_2s_4p.json").read_text())
    assert written["server_list"][1]["device"][1] == {
        "device_id": "1", "device_ip": "192.168.2.2", "super_device_id": "201", "rank_id": "3",
    }  # fmt: skip


def test_mistakes_in_the_list_of_servers_are_told_at_once(here: Path) -> None:
    """Each with line and field."""
    (here / "servers.yaml").write_text(
        "- {devices: 0-1, ips: {2: 10.0.0.1}}\n"
        "- {id: a, devices: 7-0, super_device_ids: {0: x}}\n"
        "- {id: a, devices: 0, super_device_ids: {0: x}, adress: 1}\n"
        "- 3\n"
    )
    done = run("make", "--servers=servers.yaml")
    assert done.exit_code == 2
    lines = done.stderr.splitlines()
    assert [line.partition(" found")[0] for line in lines] == [
        "servers.yaml:1: [0].id:",
        "servers.yaml:1: [0].ips.2:",
        "servers.yaml:2: [1].devices:",
        "servers.yaml:2: [1].super_device_ids.0:",
        "servers.yaml:3: [2].super_device_ids.0:",
        "servers.yaml:3: [2].adress:",
        "servers.yaml:4: [3]:",
    ]
    assert os.listdir(here) == ["servers.yaml"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ip=0=10.0.0.1"], "--server and --devices"),
        (["--server=a", "--hccn-conf=none"], "--server and --devices"),
        (["--server=a", "--devices=0", "--servers=x"], "--servers FILE alone"),
        (["--servers=missing.yaml"], "missing.yaml"),
        (["--server=a", "--devices=a"], "'a': expected device ids"),
        (["--server=a", "--devices=0-99999"], "'0-99999': expected device ids"),
        (["--server=a", "--devices=0", "--ip=1=10.0.0.1"], "device 1 is not among --devices"),
        (["--server=a", "--devices=0", "--ip=10.0.0.1"], "expected DEVICE=VALUE"),
        (["--server=a", "--devices=0", "--ip=0=a", "--ip=0=b"], "was given already"),
        (["--server=a", "--devices=0", "--sdid=0=x"], "expected a number"),
        (["--server=a", "--devices=0", "--hccn-conf=none"], "No such file"),
        (["--server=a/b", "--devices=0", "--ip=0=10.0.0.1"], "give -o FILE"),
        (["--server=a", "--devices=0", "-o", "t.txt"], ".json"),
        (["--server=a", "--devices=0", "-o-", "--json"], "both want stdout"),
    ],
)
def test_wrong_usage_ends_with_2(here: Path, arguments: list[str], said: str) -> None:
    """What is wrong is said on stderr; nothing is written."""
    done = run("make", *arguments)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert done.stdout == ""
    assert os.listdir(here) == []


def test_a_table_that_cannot_be_written_ends_with_1() -> None:
    """The reason is the system's."""
    done = run(*EIGHT, "-o", "missing/table.json")
    assert done.exit_code == 1
    assert "No such file" in done.stderr


def test_check_shows_places_reasons_and_remedies(here: Path) -> None:
    """Errors first, then warnings; of many places some are shown and the rest counted."""
    document = rt.document(make([(rt.facts(0, list(range(8))), range(8))]))
    for device in document["server_list"][0]["device"]:
        device["rank_id"] = int(device["rank_id"])
    del document["server_count"]
    (here / "t.json").write_text(json.dumps(document))
    done = run("check", "t.json")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[:9] == [
        "error RT112: a number where text belongs",
        *(f"    server_list[0].device[{n}].rank_id: the number {n}" for n in range(5)),
        "    and 3 more",
        "  why: HCCL takes every single value as a JSON string. "
        '[EI0014 (EI0004 in 2024), HCCL_E_PARA (1): "is not string!"]',
        '  fix: Put it in quotes, as in "rank_id": "0".',
    ]
    assert "warning RT123: server_count is missing" in done.stdout
    assert done.stdout.endswith("t.json: 8 errors, 1 warning\n")


def test_warnings_alone_end_with_0(here: Path) -> None:
    """And become errors for the model that they are about."""
    path = table_file("t.json", 0, ids=(3, 4))
    assert run("check", path).exit_code == 0
    assert "warning RT207" in run("check", path).stdout
    assert run("check", path, "--model=910A").exit_code == 1
    assert "RT207" not in run("check", path, "--model=910B").stdout


def test_check_gives_programs_one_document(here: Path) -> None:
    """Every finding with code, severity, path, what was found, why, remedy, and HCCL's code."""
    document = rt.document(make([(rt.facts(0, [0]), [0])])) | {"status": "initializing"}
    (here / "t.json").write_text(json.dumps(document))
    done = run("check", "t.json", "--json", "--model=910A")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    [finding] = found.pop("findings")
    assert found == {
        "schema": 1, "file": "t.json", "ok": False, "errors": 1, "warnings": 0, "model": "910A",
        "version": None, "servers": None, "ranks": None, "counts": {"RT121": 1}, "live": None,
    }  # fmt: skip
    assert finding.keys() == {
        "code", "severity", "path", "title", "found", "why", "fix", "seen",
    }  # fmt: skip
    assert (finding["code"], finding["path"]) == ("RT121", "status")
    assert finding["seen"] == "HCCL_E_TIMEOUT (9) after 30 minutes"


@pytest.mark.parametrize("command", [["check"], ["merge"], ["diff", "a.json"]])
def test_a_missing_file_ends_with_3(command: list[str]) -> None:
    """It is no table, good or bad."""
    table_file("a.json", 0)
    assert run(*command, "missing.json").exit_code == 3


def test_merge_makes_the_table_of_all_servers(here: Path) -> None:
    """Parts that each begin at rank 0 become what make would have written for all."""
    parts = [table_file(f"{n}.json", n) for n in (0, 1, 2)]
    done = run("merge", *parts)
    assert done.exit_code == 0, done.output
    whole = table_file("whole.json", 0, 1, 2)
    assert (here / "hccl_3s_6p.json").read_bytes() == whole.read_bytes()
    assert run("diff", "hccl_3s_6p.json", whole).output == ""


def test_merge_in_the_wrong_order_warns_and_sort_mends() -> None:
    """MindSpore's order of servers is a warning, and an option away."""
    parts = [table_file(f"{n}.json", n) for n in (1, 0)]
    warned = run("merge", *parts, "-o", "as-given.json")
    assert (warned.exit_code, "RT404" in warned.stderr) == (0, True)
    assert run("merge", "--sort", *parts, "-o", "sorted.json").stderr == ""


def test_merge_writes_nothing_that_is_wrong(here: Path) -> None:
    """The same server twice is told and refused; so is a part that is no table."""
    part = table_file("a.json", 0)
    twice = run("merge", part, part)
    assert twice.exit_code == 1
    assert "RT203" in twice.stderr and "RT308" in twice.stderr
    (here / "b.json").write_text("{,}")
    broken = run("merge", part, "b.json")
    assert broken.exit_code == 1
    assert "RT006" in broken.stderr and "b.json" in broken.stderr
    assert sorted(os.listdir(here)) == ["a.json", "b.json"]


def test_merge_mends_ranks_and_numbers(here: Path) -> None:
    """A table whose ranks alone are wrong is written anew with good ones."""
    document = rt.document(make([(rt.facts(0, [0, 1]), [0, 1])]))
    document["server_list"][0]["device"][1]["rank_id"] = 5
    (here / "bad.json").write_text(json.dumps(document))
    assert run("check", "bad.json").exit_code == 1
    assert run("merge", "bad.json", "-o", "good.json").exit_code == 0
    assert run("check", "good.json").exit_code == 0


def test_diff_tells_what_differs() -> None:
    """Exit 1 and a line a difference; rows for programs; exit 2 for what is no table."""
    left, right = table_file("a.json", 0, 1), table_file("b.json", 0)
    done = run("diff", left, right)
    assert (done.exit_code, done.stdout) == (1, "server node-00001: server: 2 devices → nothing\n")
    rows = json.loads(run("diff", left, right, "--json").stdout)
    assert rows["schema"] == 1
    assert rows["differences"] == [
        {"where": "server node-00001", "what": "server", "left": "2 devices", "right": None}
    ]
    Path("c.json").write_text("[]")
    assert run("diff", left, "c.json").exit_code == 2


def test_names_cannot_upset_the_terminal() -> None:
    """Control characters and halves of characters in an id are shown escaped."""
    for name in ("\x1b[2J", "\ud800"):
        document = rt.document(make([(rt.facts(0, [0]), [0])]))
        document["server_list"][0]["server_id"] = name
        Path("odd.json").write_text(json.dumps(document))
        done = run("diff", "odd.json", table_file("good.json", 0))
        assert done.exit_code == 1
        assert done.stdout.replace("\n", "").isprintable()
        document["server_list"] *= 2
        Path("odd.json").write_text(json.dumps(document))
        assert run("check", "odd.json").stdout.replace("\n", "").isprintable()


def test_device_ids_are_ranges_and_lists() -> None:
    """Blanks are allowed, order is kept, nothing is sorted away."""
    assert device_ids("0-2, 7,5") == (0, 1, 2, 7, 5)
    assert device_ids("[0,8)") == tuple(range(8))
    for text in ("", "1-", "3-1", "[4,4)", "[0-8]", "-1", "0,,1", "٣"):
        with pytest.raises(ValueError, match="expected"):
            device_ids(text)


@given(text=st.text(max_size=20))
def test_any_text_for_devices_is_ids_or_a_mistake(text: str) -> None:
    """Never another exception, never an id out of bounds."""
    with contextlib.suppress(ValueError):
        assert all(0 <= number < MOST for number in device_ids(text))


@settings(max_examples=50)
@given(text=st.text(max_size=60) | st.text("-{}[]: ,id\ndevices0ps", max_size=60))
def test_any_list_of_servers_is_read_or_refused(text: str) -> None:
    """No text makes `make` fail in a way of its own."""
    Path("servers.yaml").write_text(text, encoding="utf-8", errors="replace")
    done = run("make", "--servers=servers.yaml", "-o", "-")
    assert done.exit_code in (0, 1, 2)
    assert done.exception is None or isinstance(done.exception, SystemExit)
