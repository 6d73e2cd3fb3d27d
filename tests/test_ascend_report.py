"""What becomes of a node's answers: a report in which nothing is well that was not stated."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ascend.assemble import assemble
from cluster.ascend.faults import Level
from cluster.ascend.report import NodeReport, devices_of
from cluster.ascend.transcript import MAIN, MAPPING, Transcript, further, health
from cluster.ascend.values import Health, Link, Memory, NetHealth, Process, Unmeasured
from cluster.command import Outcome
from cluster.device import Fabric
from cluster.simulated.faults import KINDS
from cluster.simulated.models import MODELS
from tests import ascend_samples as samples
from tests.simulated import PLACE, ask, node, report


def withheld(found: NodeReport) -> dict[int, str]:
    """Why devices may not be used, by physical id."""
    return {
        device.physical: device.withheld
        for device in found.devices
        if device.withheld and isinstance(device.physical, int)
    }


@pytest.mark.parametrize("form", ["a", "b"])
@pytest.mark.parametrize("model", MODELS)
def test_a_well_node(model: str, form: str) -> None:
    """Every device of every model, in both widths, is measured in full and may be used."""
    found = report(node(model, 4, form=form))
    count = 4 * MODELS[model].chips
    assert [device.physical for device in found.devices] == list(range(count))
    assert withheld(found) == {} and found.problems == ()
    assert [device.concerns for device in found.devices] == [()] * count
    assert {device.level for device in found.devices} == {Level.NORMAL}
    assert "simulated" in found.version


def test_two_tables_that_name_different_ids_name_none() -> None:
    """On A3 both tables have physical ids; where they differ nobody knows whose health was told."""
    where = node("A3", 2)
    files = frozenset(range(4))
    main = ask(where, MAIN).text
    wrong = main.replace("| 1     3 ", "| 1     2 ").replace("| 0     2 ", "| 0     3 ")
    assert wrong != main
    outcomes = {question: ask(where, question) for question in (MAPPING, health(1, 0))}
    found = assemble(PLACE, Transcript({MAIN: Outcome(wrong), **outcomes}, files), {})
    assert all("its -m" in d.withheld for d in found.devices if d.card == 1)
    assert [d.physical for d in found.devices if d.card == 0] == [0, 1]


def test_rings_of_the_models() -> None:
    """Two rings of four on the 910A, one of all on the 910B."""
    assert [d.ring for d in report(node("910A")).devices] == [0] * 4 + [1] * 4
    assert [d.ring for d in report(node("910B3")).devices] == [0] * 8


@pytest.mark.parametrize("name", ["910", "910ProA", "910ProB", "910PremiumA", "910B"])
def test_chips_of_910a_servers_have_several_names(name: str) -> None:
    """They are all of the first generation, with its rings; a number behind the B is the next."""
    said = ask(node("910A"), MAIN).text.replace("910A", name)
    found = assemble(PLACE, Transcript({MAIN: Outcome(said)}), {})
    assert {d.fabric for d in found.devices} == {Fabric.RINGS}
    assert [d.ring for d in found.devices] == [0] * 4 + [1] * 4


def test_rings_without_a_matrix() -> None:
    """The 910A's are documented by physical id; of others nothing is, so they are unmeasured."""
    where = node("910A", visible=[3, 4])
    found = assemble(PLACE, Transcript({MAIN: ask(where, MAIN)}, frozenset({3, 4})), {})
    assert [d.ring for d in found.devices] == [0, 1]
    found = assemble(PLACE, Transcript({MAIN: ask(node(cards=1), MAIN)}), {})
    assert isinstance(found.devices[0].ring, Unmeasured)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("lost:1", "lost: npu-smi does not list it"),
        ("alarm:1=80E01801", "80E01801 (HBM multi-bit ECC on access)"),
        ("alarm:1=DEADBEEF", "level unknown"),
        ("critical:1", "80E18402"),
        ("unknown:1", "UNKNOWN"),
        ("hang:1", "no answer within 5 s"),
        ("foreign:1=4711/other/2048", "in use by other (pid 4711)"),
    ],
)
def test_a_fault_keeps_one_device_away(fault: str, reason: str) -> None:
    """The device with the fault is not to be used, and says why; all others are."""
    found = withheld(report(node("910B3", 3, fault)))
    assert list(found) == [1] and reason in found[1]


def test_a_fault_that_may_be_worked_with() -> None:
    """A level below RestartRequest is told and keeps nobody away."""
    found = report(node("910B3", 2, "warning:1=80E20207"))
    assert withheld(found) == {}
    assert found.devices[1].health is Health.WARNING
    assert found.devices[1].level is Level.SUB_HEALTH
    assert "80E20207" in found.devices[1].concerns[0]


@pytest.mark.parametrize("fault", ["driver-down", "denied", "hang"])
def test_a_node_that_does_not_answer(fault: str) -> None:
    """No device of it is well or free or empty: its files are there, and nothing is measured."""
    found = report(node("910B3", 2, fault))
    assert not found.answered and set(withheld(found)) == {0, 1}
    for device in found.devices:
        for value in (device.health, device.memory, device.processes, device.level):
            assert isinstance(value, Unmeasured)
    assert found.problems


def test_what_hangs_is_asked_once() -> None:
    """After the main table's silence no further question is put; the file still names addresses."""
    found = report(node("910B3", 1, "hang"))
    assert isinstance(found.devices[0].link, Unmeasured)
    assert "not asked" in found.devices[0].link.why
    assert found.devices[0].ip_source == "/etc/hccn.conf"


@pytest.mark.parametrize(("fault", "why"), [("no-ip:0", "none is"), ("dashes-ip:0", "-.-.-.-")])
def test_an_address_that_is_not_in_force(fault: str, why: str) -> None:
    """If hccn_tool prints no address, the file's is not taken for one, but told with the cure."""
    device = report(node("910B3", 1, fault)).devices[0]
    assert isinstance(device.ip, Unmeasured)
    assert why in device.ip.why and "-cfg recovery" in device.ip.why
    assert device.withheld == "" and "ip unknown" in device.concerns[0]


def test_the_network_is_told() -> None:
    """A link that is down, and a network that is not well, are concerns."""
    found = report(node("910B3", 2, "link-down:0", "unreachable:1")).devices
    assert found[0].link is Link.DOWN and "link DOWN" in found[0].concerns
    assert found[1].net_health is NetHealth.UNREACHABLE
    assert "network Unreachable" in found[1].concerns


def test_memory_and_processes() -> None:
    """A process on a device is named, and its memory counts."""
    device = report(node("A3", 1, "foreign:1=4711/other/2048")).devices[1]
    assert device.processes == (Process(4711, "other", 2048),)
    assert device.memory == Memory(3173 + 2048, 65536)


def test_a_container_that_numbers_anew() -> None:
    """Devices 4-7 seen as 0-3: physical ids by the files, logical ones as processes ask."""
    found = report(node("910A", visible=[4, 5, 6, 7]))
    assert [(d.physical, d.logical, d.card) for d in found.devices] == [
        (4, 0, 0),
        (5, 1, 1),
        (6, 2, 2),
        (7, 3, 3),
    ]
    assert found.devices[0].ip == "192.168.100.102"
    devices, held = devices_of(found, "n")
    assert [(d.index, d.asked_for) for d in devices] == [(4, 0), (5, 1), (6, 2), (7, 3)]
    assert held == {}


def test_visible_devices_are_honoured() -> None:
    """What the variable leaves out is not to be used; a list that does not ascend is told."""
    found = report(node(cards=3), {"ASCEND_RT_VISIBLE_DEVICES": "2,0"})
    assert list(withheld(found)) == [1]
    assert any("must ascend" in problem for problem in found.problems)


def test_the_worse_of_two_statements_counts() -> None:
    """The table says OK and the chip itself says Alarm: Alarm it is."""
    well, ill = node(cards=1), node("910B3", 1, "alarm:0=80E18402")
    held = {MAIN: ask(well, MAIN), health(0, 0): ask(ill, health(0, 0))}
    (device,) = assemble(PLACE, Transcript(held), {}).devices
    assert device.health is Health.ALARM and not device.usable


def test_health_that_was_not_told_in_detail() -> None:
    """OK in the table and no answer about codes is not well."""
    held = {MAIN: ask(node(cards=1), MAIN)}
    (device,) = assemble(PLACE, Transcript(held), {}).devices
    assert isinstance(device.health, Unmeasured) and device.withheld


def test_the_same_address_twice_is_told() -> None:
    """Two devices with one address cannot both be reached."""
    answers = node(cards=2)
    held = {MAIN: ask(answers, MAIN)}
    same = "address_0=10.0.0.1\naddress_1=10.0.0.1\n"
    found = assemble(PLACE, Transcript(held, configuration=same), {})
    assert "2 devices have the address 10.0.0.1" in found.problems


def test_the_document_tells_unmeasured_from_values() -> None:
    """In JSON too: a reason where nothing was measured, and `simulated` on every device."""
    found = report(node("910B3", 2, "lost:1"))
    document = json.loads(json.dumps(found.to_document()))
    well, lost = document["devices"]
    assert well["health"] == "OK" and well["memory"] == {"used": 3318, "total": 65536}
    assert "lost" in lost["health"]["unmeasured"] and "lost" in lost["withheld"]
    assert well["simulated"] is True and document["simulated"] == "/node"


TEXTS = st.sampled_from(
    [
        samples.TABLE_910B,
        samples.TABLE_A3,
        samples.HEALTH_ALARM,
        samples.HEALTH_SUMMARY,
        samples.MAPPING_A3,
        samples.TOPOLOGY_910B,
        "ipaddr:-.-.-.-",
        "",
    ]
) | st.text(max_size=80)


@given(st.data(), st.sampled_from(list(MODELS)))
def test_answers_to_other_questions_make_nothing_well(data: st.DataObject, model: str) -> None:
    """Any answer may be exchanged, fail or be junk: only what both sources call OK is NormalNPU."""
    where = node(model, 2)
    outcomes = {MAIN: ask(where, MAIN)}
    table = Transcript(outcomes).table
    assert not isinstance(table, Unmeasured)
    for question in further(table, frozenset()):
        if data.draw(st.booleans()):
            outcomes[question] = Outcome(data.draw(TEXTS), data.draw(st.sampled_from(["", "rc 1"])))
        else:
            outcomes[question] = ask(where, question)
    for device in assemble(PLACE, Transcript(outcomes), {}).devices:
        if not device.usable:
            continue
        assert isinstance(device.card, int) and isinstance(device.chip, int)
        said = outcomes[health(device.card, device.chip)]
        assert not said.failure and ": OK" in said.text and ": NA" in said.text


@given(st.lists(st.sampled_from(list(KINDS)), max_size=4, unique=True))
def test_any_faults_together(kinds: list[str]) -> None:
    """Faults in any combination give a report of all devices, each with its reasons."""
    texts = [kind if KINDS[kind].device == "none" else f"{kind}:0" for kind in kinds]
    found = report(node("910B3", 2, *texts))
    assert [device.physical for device in found.devices] == [0, 1]
    healthy = {"lost", "alarm", "critical", "unknown", "hang", "foreign", "driver-down", "denied"}
    on = {fault.kind for fault in node("910B3", 2, *texts).faults}
    assert bool(found.devices[0].withheld) == bool(on & healthy)
