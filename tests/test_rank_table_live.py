"""Rank tables beside the node they name: what its tools contradict, and which server it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.ascend.table_facts import model_of, server_facts
from cluster.rank_table import RULES, Model, Severity, check_table, make
from cluster.rank_table.findings import joined
from cluster.rank_table.live import live, unmatched
from cluster.rank_table.matching import match
from cluster.simulated.faults import KINDS
from cluster.simulated.models import MODELS
from tests import rank_tables as rt
from tests.simulated import node, report

NOBODY: frozenset[str] = frozenset()


def codes(found: tuple[tuple[str, str, str], ...]) -> set[str]:
    """Which rules."""
    return {code for code, *_ in found}


@pytest.mark.parametrize("case", rt.CONTRADICTIONS, ids=str)
def test_every_contradiction_is_caught_and_named(case: rt.Contradiction) -> None:
    """By its code and severity, with a place in the table, and nothing else is found."""
    found = live(case.table, case.report, "here", case.model)
    assert codes(found) == {case.code}, found
    assert RULES[case.code].levels.of(case.model) is case.severity
    for code, place, text in found:
        assert text.isprintable() and text
        assert place.startswith("server_list[0]") or code in ("RT602", "RT603")


@pytest.mark.parametrize("model", MODELS)
def test_a_well_node_contradicts_nothing(model: str) -> None:
    """Every model, all devices, alone and beside another server."""
    where = node(model, 8)
    for more in (0, 1):
        table = rt.of(where, more=more)
        assert live(table, report(where), "here", model_of(report(where))) == ()


def test_what_a_model_is_called() -> None:
    """By npu-smi's names, from any device that has one; a node of lost devices has no model."""
    found = {name: model_of(report(node(name, 2, "lost:0"))) for name in MODELS}
    assert found == {
        "910A": Model.A910, "910B1": Model.B910, "910B3": Model.B910, "910B4": Model.B910,
        "A3": Model.A3,
    }  # fmt: skip
    assert model_of(report(node("910A", 1, "lost:0"))) is None


FOUND = {
    "lost": "RT606", "warning": "RT608", "alarm": "RT607", "critical": "RT607",
    "unknown": "RT607", "driver-down": "RT602", "denied": "RT602", "hang": "RT607",
    "no-ip": "RT612", "dashes-ip": "RT612", "link-down": "RT615", "unreachable": "RT615",
    "foreign": "RT609",
}  # fmt: skip
"""The rule that names each fault of a rehearsal node; of a single device where it can be."""


@pytest.mark.parametrize("model", ["910A", "910B3", "A3"])
def test_every_simulated_fault_is_found(model: str) -> None:
    """Each is named by its rule, at the device that has it and at no other."""
    assert FOUND.keys() == KINDS.keys() - {"slow", "wrong"}, "those only a trial can tell"
    well = node(model, 4)
    for kind, code in FOUND.items():
        where = node(model, 4, kind if KINDS[kind].device == "none" else f"{kind}:2")
        found = live(rt.of(well), report(where), "here")
        assert code in codes(found), kind
        assert {place[:24] for _, place, _ in found} <= {"", "server_list[0].device[2]"}, kind


@st.composite
def faulty(draw: st.DrawFn) -> rt.SimulatedNode:
    """A node of any model, with faults of devices, or a container on one."""
    model, cards = draw(st.sampled_from(sorted(MODELS))), draw(st.integers(1, 8))
    ids = range(cards * MODELS[model].chips)
    kinds = sorted(kind for kind in KINDS if KINDS[kind].device != "none")
    faults = draw(st.lists(st.tuples(st.sampled_from(kinds), st.sampled_from(ids)), max_size=6))
    visible = draw(st.none() | st.sets(st.sampled_from(ids), min_size=1))
    return node(model, cards, *(f"{kind}:{n}" for kind, n in faults), visible=visible)


@settings(max_examples=60, deadline=None)
@given(where=faulty())
def test_a_table_made_of_a_node_is_not_contradicted_by_it(where: rt.SimulatedNode) -> None:
    """The devices that are well, whatever the others are, with what their tools say of them."""
    found = report(where)
    ids = [d.physical for d in found.devices if not d.withheld and isinstance(d.physical, int)]
    table = make([(server_facts(found, "here"), ids)])
    errors = [one for one in live(table, found, "here", model_of(found)) if is_error(one[0])]
    assert errors == []
    bad = {"RT304", "RT305", "RT306", "RT307", "RT308", "RT501", "RT502", "RT503"}
    assert ids == [] or not bad & check_table(table).counts.keys()


def is_error(code: str) -> bool:
    """Whatever the model: rules about a node have one severity."""
    return RULES[code].levels.of(None) is Severity.ERROR


@settings(max_examples=60, deadline=None)
@given(where=faulty(), table=st.one_of(rt.tables(), rt.tables(form="1.2")), data=st.data())
def test_any_table_beside_any_node_is_told_in_print(
    where: rt.SimulatedNode, table: rt.RankTable, data: st.DataObject
) -> None:
    """No exception, and nothing that could upset a terminal."""
    server = data.draw(st.sampled_from(table.servers))
    model = data.draw(st.sampled_from([None, *Model]))
    checked = joined(check_table(table), live(table, report(where), server.server_id, model))
    assert all(str(finding).isprintable() for finding in checked.findings)
    assert [f.severity for f in checked.findings] == sorted(
        (f.severity for f in checked.findings), key=list(Severity).index
    )


def test_logical_ids_are_told_with_the_physical_ones() -> None:
    """A table with this container's own numbers says which devices were meant, and by what."""
    addresses = server_facts(report(rt.CONTAINER), "here").ips
    shifted = {n: addresses[n + 4] for n in range(4)}
    table = make([(rt.ServerFacts("here", shifted), range(4))])
    found = live(table, report(rt.CONTAINER), "here")
    assert codes(found) == {"RT604"}
    assert found[3] == (
        "RT604",
        "server_list[0].device[3].device_id",
        "3, which is device 7 seen from here, whose address it has",
    )


def test_the_server_is_the_one_that_was_given() -> None:
    """Or none, whatever else would fit, with the ids that the table has."""
    table = rt.of(rt.pair(), more=7)
    names = {"here"}
    assert match(table, report(rt.pair()), names, "node-00051").server == "node-00051"
    found = match(table, report(rt.pair()), names, "elsewhere")
    assert found.server is None
    assert found.how.startswith("'elsewhere' was given; the table has 'here', 'node-00050'")
    assert found.how.endswith("and 3 more")


def test_a_server_that_is_not_found_has_its_rule() -> None:
    """With what was looked at; and the driver's silence, if that may be the reason."""
    assert unmatched(report(rt.pair()), "why") == (("RT601", "server_list", "why"),)
    assert codes(unmatched(report(rt.pair("hang")), "why")) == {"RT601", "RT602"}


def test_the_server_is_found_by_names_of_this_machine() -> None:
    """Its id or its host_ip, in any spelling of the address; never one of two."""
    table = make([(rt.facts(n, [0, 1]), [0, 1]) for n in range(3)])
    found = match(table, report(rt.pair()), {"10.0.0.1", "node-00001"})
    assert (found.server, found.how) == ("node-00001", "this machine is 'node-00001'")
    extra = (("host_ip", "fd00:0::0:7"),)
    hosts = replace(table, servers=(*table.servers[:2], replace(table.servers[2], extra=extra)))
    assert match(hosts, report(rt.pair()), {"fd00::7"}).server == "node-00002"
    found = match(table, report(rt.pair()), {"node-00000", "node-00002"})
    assert (found.server, found.how) == (None, "this machine is 'node-00000', 'node-00002'")


def test_the_server_is_found_by_addresses_of_its_devices() -> None:
    """Where no name fits: the one that shares most of them, if there is one such."""
    table = rt.of(rt.pair(), more=2)
    found = match(table, report(rt.pair()), NOBODY)
    assert (found.server, found.how) == ("here", "2 addresses of its devices are this node's")
    strangers = make([(rt.facts(n, [0, 1]), [0, 1]) for n in range(3)])
    found = match(strangers, report(rt.pair()), NOBODY)
    assert (found.server, "neither" in found.how) == (None, True)
    ips = server_facts(report(rt.pair()), "").ips
    split = make([(rt.ServerFacts(name, {n: ips[n]}), [n]) for n, name in enumerate("ab")])
    found = match(split, report(rt.pair()), NOBODY)
    assert (found.server, found.how) == (None, "addresses of devices fit 'a', 'b' alike")
