"""The rehearsal node: formats as published, faults that switch, files that are checked."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ascend.npu_smi import parse_health, parse_mapping
from cluster.simulated import hccn_tool, npu_smi
from cluster.simulated.directory import NodeDirectory
from cluster.simulated.faults import BadFault, parse, switch_off, switch_on
from cluster.simulated.node import BadNode, make
from cluster.simulated.node_file import from_document, load, save, to_document
from cluster.simulated.rehearsal import create
from tests import ascend_samples as samples
from tests.simulated import node

HEALTH = ["info", "-t", "health", "-i", "0", "-c", "0"]


@pytest.mark.parametrize(("form", "width"), [("a", 98), ("b", 99)])
@pytest.mark.parametrize("model", ["910A", "910B3", "A3"])
def test_every_line_is_as_wide_as_the_table(model: str, form: str, width: int) -> None:
    """98 columns, or 99 in the newer form."""
    text = npu_smi.answer(node(model, 2, "foreign:1", form=form), ["info"]).text
    assert {len(line) for line in text.splitlines()} == {width}


@pytest.mark.parametrize(
    ("model", "sample", "rows"),
    [
        ("910B3", samples.TABLE_910B, ["101.8 ", "3318 / 65536", "No running"]),
        ("A3", samples.TABLE_A3, ["0000:9D:00.0", "Phy-ID", "No running"]),
    ],
)
def test_rows_are_those_of_the_samples(model: str, sample: str, rows: list[str]) -> None:
    """Rows that hold the same figures are the same to the blank."""
    ours = npu_smi.answer(node(model, 1), ["info"]).text.splitlines()
    for part in rows:
        (wanted,) = [line for line in sample.splitlines() if part in line]
        assert wanted in ours


def test_key_values_are_those_of_the_samples() -> None:
    """A tab, a label of thirty, a colon; ids in columns by name."""
    assert npu_smi.answer(node(), HEALTH).text == samples.HEALTH_OK
    listed = npu_smi.answer(node(), ["info", "-l"]).text
    assert listed.startswith(samples.LISTING)
    mapping = npu_smi.answer(node("910B3", 2), ["info", "-m"]).text
    assert parse_mapping(mapping) == parse_mapping(samples.MAPPING_910B)
    ours = [line.rstrip() for line in mapping.splitlines()]
    assert ours == samples.MAPPING_910B.splitlines()


def test_codes_are_printed_as_the_tool_does() -> None:
    """Blank between codes, a line of information for each."""
    where = node("910B3", 1, "alarm:0=8C03A000,8C084E00")
    answer = parse_health(npu_smi.answer(where, HEALTH).text)
    assert answer.codes == ("8C03A000", "8C084E00") and len(answer.information) == 2


@pytest.mark.parametrize(
    ("faults", "arguments", "code", "text"),
    [
        (["driver-down"], "info", 187, "dcmi module initialize failed. ret is -8005"),
        (["denied"], "info", 214, "permitted"),
        ([], "info -t health -i 99 -c 0", 215, "Invalid card id."),
        (["lost:0"], "info -t health -i 0 -c 0", 215, "Invalid card id."),
        ([], "info -t spod-info -i 0", 217, "does not support querying spod-info"),
        ([], "info --frobnicate", 215, "Usage: npu-smi info"),
        ([], "set -t power", 215, "Usage: npu-smi info"),
    ],
)
def test_refusals_of_npu_smi(faults: list[str], arguments: str, code: int, text: str) -> None:
    """The exit codes that a shell sees of the tool's negative ones."""
    answer = npu_smi.answer(node("910B3", 2, *faults), arguments.split())
    assert answer.code == code and text in answer.text


@pytest.mark.parametrize("kind", ["usages", "memory", "common", "board", "proc-mem", "topo"])
def test_every_type_answers(kind: str) -> None:
    """The other questions that a script may put have an answer too."""
    device = [] if kind == "topo" else ["-i", "0"]
    answer = npu_smi.answer(node("A3", 2), ["info", "-t", kind, *device])
    assert answer.code == 0 and answer.text.startswith("\t")


def test_answers_of_hccn_tool() -> None:
    """By physical id; an address, none, dashes; the state of the link."""
    where = node("910B3", 4, "no-ip:1", "dashes-ip:2", "link-down:3", "lost:0")
    said = {
        number: hccn_tool.answer(where, ["-i", str(number), "-ip", "-g"]) for number in range(4)
    }
    assert said[0].code != 0 and said[0].text == ""
    assert said[1].code == 0 and said[1].text == ""
    assert said[2].text.startswith("ipaddr:-.-.-.-\n")
    assert said[3].text == "ipaddr:192.168.103.101\nnetmask:255.255.255.0\n"
    assert hccn_tool.answer(where, ["-i", "3", "-link", "-g"]).text == "link status: DOWN\n"
    assert hccn_tool.answer(where, ["-i", "3", "-magic", "-g"]).code != 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("melt:0", "expected KIND"),
        ("lost", "lost is of a device"),
        ("lost:9", "there is no device 9"),
        ("driver-down:0", "whole node"),
        ("alarm:0=hot", "8 hexadecimal digits"),
        ("lost:0=1", "takes no value"),
        ("foreign:0=x", "PID/NAME/MB"),
        ("", "expected KIND"),
    ],
)
def test_what_is_no_fault_is_told(text: str, told: str) -> None:
    """An error names what was found and what is allowed."""
    with pytest.raises(BadFault, match=told):
        parse(text, range(8))


def test_faults_switch_on_and_off() -> None:
    """A fault replaces the one it contradicts; clearing names a kind, a device of it, or all."""
    ids = range(8)
    on = ()
    for text in ("alarm:1=80E01801", "warning:1", "lost:2", "lost:3", "hang"):
        on = switch_on(on, parse(text, ids))
    assert [str(one) for one in on] == ["warning:1=80E20207", "lost:2", "lost:3", "hang"]
    assert [str(one) for one in switch_off(on, "lost:3")][1:] == ["lost:2", "hang"]
    assert [str(one) for one in switch_off(on, "lost")] == ["warning:1=80E20207", "hang"]
    assert switch_off(on, "all") == ()
    with pytest.raises(BadFault, match="no such fault is on"):
        switch_off(on, "no-ip:0")


def test_a_node_survives_its_file(tmp_path: Path) -> None:
    """What is written is what is read, a device a line."""
    where = node("A3", 2, "lost:1", "foreign:2", form="b")
    save(tmp_path / "node.json", where)
    assert load(tmp_path / "node.json") == where
    text = (tmp_path / "node.json").read_text()
    assert sum('"physical"' in line for line in text.splitlines()) == 4


def test_every_mistake_of_a_file_is_told() -> None:
    """All at once, each with its place."""
    document = to_document(make("910B3", 2))
    document |= {"model": "911", "form": "c", "faults": ["melt:0"], "visible": [[9]]}
    document["devices"][1] |= {"ip": 5, "processes": [{"pid": -1, "name": "x", "memory": 1}]}
    with pytest.raises(BadNode) as caught:
        from_document(document)
    for told in ("model '911'", "form 'c'", "melt:0", "visible", "devices[1].ip 5", "pid -1"):
        assert told in str(caught.value)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5))
def test_no_document_is_half_a_node(value: object) -> None:
    """A value where something else belongs is refused, never half accepted."""
    good = to_document(make("910B3", 2))
    for name in ("devices", "faults", "visible", "model"):
        try:
            made = from_document({**good, name: value})
        except BadNode:
            continue
        assert to_document(made)[name] in (value, good[name])
    with pytest.raises(BadNode):
        from_document(value)


def test_the_executables_answer_like_the_functions(tmp_path: Path) -> None:
    """By name, from the node beside them, with the exit code; and faults switch as they run."""
    directory = NodeDirectory(tmp_path / "a node")
    create(directory, node("910B3", 1))

    def call(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)

    done = call(str(directory.npu_smi), "info")
    assert done.returncode == 0
    assert done.stdout == npu_smi.answer(node("910B3", 1), ["info"]).text
    done = call(str(directory.hccn_tool), "-i", "0", "-ip", "-g")
    assert done.stdout.startswith("ipaddr:192.168.100.101")
    save(directory.file, node("910B3", 1, "driver-down"))
    assert call(str(directory.npu_smi), "info").returncode == 187
    directory.file.write_text(json.dumps({"format": 1, "model": "911"}))
    done = call(str(directory.npu_smi), "info")
    assert done.returncode == 70 and "model '911'" in done.stderr
    assert "Traceback" not in done.stderr
