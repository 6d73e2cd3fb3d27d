"""What npu-smi and hccn_tool print, read: published samples, and text that means nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ascend import hccn, npu_smi
from cluster.ascend.main_table import Chip, parse_table
from cluster.ascend.npu_smi import Mapped
from cluster.ascend.topology import parse_topology, rings
from cluster.ascend.values import Health, Link, Memory, NetHealth, Process, Unmeasured
from cluster.ascend.visible import parse_visible, physical_ids
from tests import ascend_samples as samples

TABLES = (
    samples.TABLE_910A,
    samples.TABLE_910B,
    samples.TABLE_A3,
    samples.TABLE_WIDE,
    samples.TABLE_OLD,
    samples.TABLE_CONTAINER_PIDS,
)


def test_a_table_of_the_910b() -> None:
    """Both rows of a chip are one; memory is the HBM, be there a blank before the slash or not."""
    table = parse_table(samples.TABLE_910B)
    assert table.chips == (
        Chip(0, 0, None, "910B3", Health.OK, "0000:C1:00.0", Memory(3318, 65536)),
        Chip(1, 0, None, "910B3", Health.ALARM, "0000:C2:00.0", Memory(41697, 65536)),
    )
    assert table.version == "23.0.rc3"
    assert table.processes(0, 0) == ()
    assert table.processes(1, 0) == (Process(395864, "python", 38412),)
    assert table.problems == ()


def test_a_table_of_the_910a() -> None:
    """A warning under the table is kept as a problem and costs nothing else."""
    table = parse_table(samples.TABLE_910A)
    assert [(c.name, c.health, c.memory) for c in table.chips] == [
        ("910A", Health.OK, Memory(0, 32768))
    ]
    assert len(table.problems) == 1 and "driver package" in table.problems[0]


def test_two_dies_of_an_a3() -> None:
    """Each die is a chip with the physical id of its own column; no power is no mistake."""
    table = parse_table(samples.TABLE_A3)
    assert [(c.card, c.chip, c.physical, c.bus_id) for c in table.chips] == [
        (0, 0, 0, "0000:9D:00.0"),
        (0, 1, 1, "0000:9F:00.0"),
    ]
    assert table.processes(0, 1) == () and table.problems == ()


def test_the_wide_table() -> None:
    """The table that is a column wider reads the same."""
    table = parse_table(samples.TABLE_WIDE)
    assert table.chips == (
        Chip(4, 0, None, "910B4", Health.WARNING, "0000:01:00.0", Memory(2871, 32768)),
    )
    assert table.processes(4, 0) == (Process(77, "my trainer", 12),)
    assert table.problems == ()


def test_the_narrow_table_of_old_tools() -> None:
    """Five columns less, an empty line inside, and a process without a name."""
    table = parse_table(samples.TABLE_OLD)
    assert [(c.name, c.memory) for c in table.chips] == [("910ProB", Memory(29711, 32768))]
    assert table.processes(0, 0) == (Process(55115, "", 29784),)
    assert table.problems == ()


def test_processes_with_a_column_more() -> None:
    """Columns of processes are found by their names."""
    table = parse_table(samples.TABLE_CONTAINER_PIDS)
    assert table.processes(0, 0) == (Process(4242, "python", 1024),)
    assert table.problems == ()


def test_nobody_said_that_a_card_is_free() -> None:
    """Without a word of a card in the process table, who uses it was not measured."""
    cut = samples.TABLE_910B.partition("| No running")[0]
    assert isinstance(parse_table(cut).processes(0, 0), Unmeasured)


def test_an_unreadable_process_may_be_anybodys() -> None:
    """After a row that cannot be read, no chip is taken for free because it has no row."""
    row = "| 0       0                 | 7             | x                        | 1   |"
    lines = samples.TABLE_A3.splitlines()
    idle = next(number for number, line in enumerate(lines) if "No running" in line)
    whole = parse_table("\n".join([*lines[:idle], row, *lines[idle + 1 :]]))
    assert whole.processes(0, 0) == (Process(7, "x", 1),) and whole.processes(0, 1) == ()
    spoilt = row.replace("| 0       0 ", "| 0       ! ")
    torn = parse_table("\n".join([*lines[:idle], row, spoilt, *lines[idle + 1 :]]))
    assert torn.processes(0, 0) == (Process(7, "x", 1),)
    assert isinstance(torn.processes(0, 1), Unmeasured)
    assert any("0       !" in problem for problem in torn.problems)


def test_a_table_cut_among_processes_frees_nobody() -> None:
    """What was to come after the last row may be a process of the other chip of its card."""
    row = "| 0       0                 | 7             | x                        | 1   |"
    whole = samples.TABLE_A3.rpartition("| No running")[0] + row + "\n"
    table = parse_table(whole)
    assert table.processes(0, 0) == (Process(7, "x", 1),)
    assert isinstance(table.processes(0, 1), Unmeasured) and table.problems
    assert parse_table(whole + "+====+").processes(0, 1) == ()


def test_a_chip_listed_twice_has_no_health() -> None:
    """Two rows of one chip contradict the table, whatever they say."""
    text = samples.TABLE_910B.replace("| 1     910B3               | Alarm", "| 0     910B3 | OK")
    (chip,) = parse_table(text).chips
    assert isinstance(chip.health, Unmeasured)


@pytest.mark.parametrize("word", ["ok", "OKAY", "", "Normal", "OK OK"])
def test_only_the_words_of_the_tool_are_health(word: str) -> None:
    """A word that is not npu-smi's states nothing, and is told as a problem."""
    table = parse_table(samples.TABLE_910A.replace("| OK            |", f"| {word} |"))
    assert isinstance(table.chips[0].health, Unmeasured)
    assert any("health" in problem for problem in table.problems)


def mutated() -> st.SearchStrategy[str]:
    """Tables with lines lost, repeated, moved, and characters changed."""
    lines = st.sampled_from([line for table in TABLES for line in table.splitlines()])
    odd = st.one_of(lines, st.text(alphabet="| 0123OK/ABCD:.x", max_size=60), st.text(max_size=20))
    spoilt = st.builds(
        lambda line, at, char: line[:at] + char + line[at + 1 :],
        lines,
        st.integers(0, 98),
        st.sampled_from(["", "|", " ", "9", "OK", "x", "٣"]),
    )
    return st.lists(st.one_of(lines, spoilt, odd), max_size=30).map("\n".join)


@given(mutated())
def test_no_table_makes_a_device_well_that_the_text_does_not(text: str) -> None:
    """Whatever is read: health OK stands in a row of that very card, followed by the chip's."""
    for chip in parse_table(text).chips:
        if chip.health is not Health.OK:
            continue
        card = rf"\|\s*0*{chip.card}\s+{re.escape(chip.name)}\s*\|\s*OK\s*\|.*\|"
        row = rf"\|\s*0*{chip.chip}(\s+\d+)?\s*\|\s*{re.escape(chip.bus_id)}\s*\|"
        assert re.search(card, text) and re.search(row, text)


@given(mutated())
def test_no_memory_that_the_text_does_not_state(text: str) -> None:
    """Memory is a pair of the text, never zero of zero; used is at most the total."""
    for chip in parse_table(text).chips:
        if isinstance(chip.memory, Memory):
            assert 0 <= chip.memory.used <= chip.memory.total and chip.memory.total
            assert re.search(rf"{chip.memory.used}\s*/\s*0*{chip.memory.total}", text)


@given(st.text(max_size=400) | mutated())
def test_junk_raises_nowhere(text: str) -> None:
    """Every parser answers every text; what it cannot read it calls unmeasured."""
    parse_table(text)
    npu_smi.parse_mapping(text)
    npu_smi.parse_total(text)
    rings(parse_topology(text))
    hccn.parse_configuration(text)
    parse_visible(text)
    assert not isinstance(npu_smi.parse_health(text).health, Health) or ":" in text
    assert isinstance(hccn.parse_address(text), Unmeasured) or "ipaddr" in text
    assert isinstance(hccn.parse_link(text), Unmeasured) or "link status" in text
    assert isinstance(hccn.parse_net_health(text), Unmeasured) or "net health" in text


def test_ids_of_chips() -> None:
    """Columns are found by their names; management units are no devices."""
    assert npu_smi.parse_mapping(samples.MAPPING_910B) == (
        (Mapped(0, 0, 0, None), Mapped(1, 0, 1, None)),
        (),
    )
    rows, problems = npu_smi.parse_mapping(samples.MAPPING_A3)
    assert [row.physical for row in rows] == [0, 1] and problems == ()


def test_the_count_of_cards() -> None:
    """A number, none, or unmeasured: three different things."""
    assert npu_smi.parse_total(samples.LISTING) == 8
    assert npu_smi.parse_total("\tThere is no NPU card on this server.\n") == 0
    assert isinstance(npu_smi.parse_total("dcmi module initialize failed"), Unmeasured)


def test_a_mapping_cut_short_has_no_other_ids() -> None:
    """Cut at any byte, every row is one of the whole answer."""
    for whole in (samples.MAPPING_910B, samples.MAPPING_A3):
        rows, _ = npu_smi.parse_mapping(whole)
        for end in range(len(whole)):
            assert set(npu_smi.parse_mapping(whole[:end])[0]) <= set(rows)


def test_health_with_codes() -> None:
    """All codes, and the lines of information with those that go on."""
    answer = npu_smi.parse_health(samples.HEALTH_ALARM)
    assert answer.health is Health.ALARM
    assert answer.codes == ("A4025021", "8C03A000", "8C084E00")
    assert len(answer.information) == 2
    assert npu_smi.parse_health(samples.HEALTH_OK) == npu_smi.HealthAnswer(Health.OK, ())


def test_health_under_its_other_label() -> None:
    """Without -c the label is `Health` and no codes are told, which is not `no codes`."""
    answer = npu_smi.parse_health(samples.HEALTH_SUMMARY)
    assert answer.health is Health.OK and isinstance(answer.codes, Unmeasured)


def test_codes_of_an_answer_cut_short_are_not_all() -> None:
    """Cut at any byte, the answer has all codes of the whole one or none that are known."""
    whole = samples.HEALTH_ALARM
    known = [npu_smi.parse_health(whole[:end]).codes for end in range(len(whole))]
    everything = npu_smi.parse_health(whole).codes
    assert {codes for codes in known if isinstance(codes, tuple)} == {everything}


def test_health_of_two_chips_is_nobodys() -> None:
    """Two answers where one was asked for state nothing."""
    answer = npu_smi.parse_health(samples.HEALTH_OK * 2)
    assert isinstance(answer.health, Unmeasured) and isinstance(answer.codes, Unmeasured)


def test_rings_of_a_matrix() -> None:
    """What HCCS joins is one ring; what a row and its mirror contradict is not joined."""
    assert rings(parse_topology(samples.TOPOLOGY_910B)) == {0: 0, 1: 0, 2: 0}
    parted = samples.TOPOLOGY_910B.replace(
        "NPU2       HCCS       HCCS", "NPU2       SYS        SYS"
    )
    assert rings(parse_topology(parted)) == {0: 0, 1: 0, 2: 1}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ipaddr:192.161.200.10\nnetmask:255.255.255.0\n", "192.161.200.10"),
        ("ipaddr:2001:0db8::1\n", "2001:db8::1"),
        ("", None),
        ("ipaddr:-.-.-.-\nnetmask:-.-.-.-\n", None),
        ("ipaddr:0.0.0.0\n", None),
        ("error: get ip failed\n", None),
        ("ipaddr:10.0.0.1\nipaddr:10.0.0.2\n", None),
        ("ipaddr:10.0.0.1.5\n", None),
    ],
)
def test_addresses(text: str, address: str | None) -> None:
    """Only an address is one: not dashes, not an error message, not two of them."""
    found = hccn.parse_address(text)
    assert found == address if address else isinstance(found, Unmeasured)


def test_link_and_network() -> None:
    """The words of the tool; `Init` is well, what was not said is neither."""
    assert hccn.parse_link("link status: UP\n") is Link.UP
    assert hccn.parse_link("link status: DOWN\n") is Link.DOWN
    assert isinstance(hccn.parse_link("link status: SIDEWAYS\n"), Unmeasured)
    assert hccn.parse_net_health("net health status: Socket failed\n") is NetHealth.SOCKET_FAILED
    assert [one.value for one in NetHealth if one.well] == ["Success", "Init"]


def test_the_configuration_file() -> None:
    """Addresses by device; other keys are not ours, contradictions and dashes are mistakes."""
    addresses, problems = hccn.parse_configuration(
        "address_0=10.0.0.1\nnetmask_0=255.255.255.0\n\nsend_arp_status_0=1\n"
        "address_1=-.-.-.-\naddress_0=10.0.0.9\naddress_x=1\n"
    )
    assert addresses == {0: "10.0.0.1"}
    assert len(problems) == 2 and "line 5" in problems[0] and "line 6" in problems[1]


def test_visible_devices_must_ascend() -> None:
    """A list that does not ascend loses devices silently in CANN: it is told, with the cure."""
    assert parse_visible("0,1,3") == ((0, 1, 3), ())
    assert parse_visible("") == ((), ()) and parse_visible("NoDevFiles") == ((), ())
    ids, problems = parse_visible("3,1,1,x")
    assert ids == (1, 3) and len(problems) == 2 and "write 1,3" in problems[1]


def test_physical_ids_in_a_container() -> None:
    """A container that sees 4-7 as 0-3 is told by its device files; a lost card is not one."""
    assert physical_ids([0, 1, 2, 3], {4, 5, 6, 7}) == [4, 5, 6, 7]
    assert physical_ids([0, 2, 3], {0, 1, 2, 3}) == [0, 2, 3]
    assert physical_ids([0, 1], set()) == [0, 1]
    unclear = physical_ids([0, 1, 2], {4, 5, 6, 7})
    assert all(isinstance(one, Unmeasured) for one in unclear)


@given(st.sets(st.integers(0, 63), max_size=8), st.sets(st.integers(0, 63), max_size=8))
def test_physical_ids_are_never_given_twice(shown: set[int], files: set[int]) -> None:
    """Distinct ids stay distinct, and lead to files that are there."""
    found = [one for one in physical_ids(sorted(shown), files) if isinstance(one, int)]
    assert len(set(found)) == len(found)
    assert not files or set(found) <= files
