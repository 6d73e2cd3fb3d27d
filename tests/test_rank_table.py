"""Rank tables as values: making, writing, merging, comparing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.allocate import Assignment, Placement, Request, allocate
from cluster.cpu import CpuBudget
from cluster.device import Device, DeviceKind, Inventory, Node
from cluster.rank_table import (
    Model,
    RankTable,
    ServerFacts,
    check_table,
    check_text,
    differences,
    digest_of,
    file_name,
    from_placement,
    make,
    merge,
    text_of,
)
from cluster.rank_table.hccn_conf import addresses
from tests import rank_tables as rt

ANY = st.one_of(rt.tables(), rt.tables(form="1.2"))


def eight(server: str) -> RankTable:
    """All devices of one server."""
    ips = {n: (f"192.168.{100 + n}.101",) for n in range(8)}
    return make([(ServerFacts(server, ips), range(8))])


def test_the_file_is_what_the_modelzoos_tool_writes() -> None:
    """Byte for byte: fields, their order, text for numbers, four blanks, no end of line."""
    devices = [
        {"device_id": str(n), "device_ip": f"192.168.{100 + n}.101", "rank_id": str(n)}
        for n in range(8)
    ]
    expected = {
        "version": "1.0",
        "server_count": "1",
        "server_list": [
            {"server_id": "10.0.0.1", "device": devices, "host_nic_ip": "reserve"},
        ],
        "status": "completed",
    }
    assert text_of(eight("10.0.0.1")) == json.dumps(expected, indent=4)
    assert file_name(eight("10.0.0.1")) == "hccl_8p_01234567_10.0.0.1.json"


def test_a_super_pod_names_servers_and_devices() -> None:
    """Version 1.2 has pods in the order of their servers, and an SDID for every device."""
    servers = [(rt.facts(n, [0, 1], pod=pod), [0, 1]) for n, pod in ((0, "a"), (1, "a"), (2, "b"))]
    document = rt.document(make(servers))
    assert document["version"] == "1.2"
    assert document["super_pod_list"] == [
        {"super_pod_id": "a", "server_list": [{"server_id": "node-00000"},
                                              {"server_id": "node-00001"}]},
        {"super_pod_id": "b", "server_list": [{"server_id": "node-00002"}]},
    ]  # fmt: skip
    device = document["server_list"][2]["device"][1]
    assert device["super_device_id"] == str(2 << 22 | 1)
    assert list(device) == ["device_id", "device_ip", "super_device_id", "rank_id"]


def test_container_ids_stay_physical() -> None:
    """Devices 4 to 7 keep their numbers and addresses; only ranks begin at 0."""
    table = make([(rt.facts(0, [4, 5, 6, 7]), [4, 5, 6, 7])])
    assert [(d.device_id, d.rank, d.ips) for _, d in table.each()] == [
        (4 + n, n, (f"192.168.0.{5 + n}",)) for n in range(4)
    ]


def test_a_name_that_is_no_file_name_is_not_made_up() -> None:
    """Several servers have the name of the ModelZoo's merged file; a path in an id has none."""
    assert file_name(make([(rt.facts(n, [0]), [0]) for n in range(3)])) == "hccl_3s_3p.json"
    assert file_name(make([(ServerFacts("../x"), [0])])) is None
    assert file_name(make([(ServerFacts(""), [0])])) is None


@given(table=ANY)
def test_the_digest_is_that_of_the_file(table: RankTable) -> None:
    """So that a rank can say which table it had."""
    assert digest_of(table) == hashlib.sha256(text_of(table).encode()).hexdigest()


def placed(*places: tuple[int, str, int]) -> Placement:
    """A placement of rank, node and device."""
    return Placement(
        tuple(
            Assignment(rank, node, Device(DeviceKind.ASCEND, node, index), 0, (0,), 1)
            for rank, node, index in places
        )
    )


def test_a_placement_becomes_a_table() -> None:
    """Ranks and devices are the placement's, addresses those of the nodes."""
    known = {"a": rt.facts(0, [2, 3]), "b": rt.facts(1, [2, 3])}
    places = placed((0, "a", 2), (1, "a", 3), (2, "b", 2), (3, "b", 3))
    table = from_placement(places, known)
    assert table == make([(known["a"], [2, 3]), (known["b"], [2, 3])])


def test_what_allocate_places_is_a_good_table() -> None:
    """Sixteen ranks on two nodes of eight devices, the whole way."""
    budget = CpuBudget(cpus=tuple(range(16)), quota=None)
    nodes = [
        Node(name, "", budget, tuple(Device(DeviceKind.ASCEND, name, n) for n in range(8)))
        for name in ("b", "a")
    ]
    placement = allocate(Inventory(tuple(nodes)), Request(DeviceKind.ASCEND, 16))
    assert isinstance(placement, Placement)
    known = {name: rt.facts(n, list(range(8))) for n, name in enumerate("ab")}
    checked = check_table(from_placement(placement, known), Model.A910)
    assert checked.findings == ()
    assert checked.table is not None and checked.table.ranks == 16


def test_a_placement_on_cpus_has_no_table() -> None:
    """Only Ascend devices find each other by one."""
    slot = Assignment(0, "a", Device(DeviceKind.CPU, "a", 0), 0, (0,), 1)
    with pytest.raises(ValueError, match="cpu devices have no rank table"):
        from_placement(Placement((slot,)), {"a": rt.facts(0, [0])})


def test_a_placement_on_an_unknown_node_is_refused() -> None:
    """Every node without addresses is named."""
    with pytest.raises(ValueError, match="no addresses are known of a, c"):
        from_placement(placed((0, "a", 0), (1, "b", 0), (2, "c", 0)), {"b": rt.facts(0, [0])})


def test_a_bad_placement_is_the_checks_to_tell() -> None:
    """A table holds what it is given: interleaved ranks stay so, and are told."""
    known = {"a": rt.facts(0, [0, 1]), "b": rt.facts(1, [0, 1])}
    table = from_placement(placed((0, "a", 0), (1, "b", 0), (2, "a", 1), (3, "b", 1)), known)
    assert [f.rule.code for f in check_table(table).findings] == ["RT403", "RT403"]


@given(table=ANY, cuts=st.sets(st.integers(1, 7)))
def test_merging_the_parts_makes_the_whole(table: RankTable, cuts: set[int]) -> None:
    """However a table is cut between servers, its parts, each numbered from 0, merge to it."""
    edges = sorted({0, len(table.servers), *(c for c in cuts if c < len(table.servers))})
    parts = [merge([replace(table, servers=table.servers[a:b])]) for a, b in pairwise(edges)]
    assert all(min(d.rank for _, d in part.each()) == 0 for part in parts)
    assert merge(parts) == table
    assert text_of(merge(parts)) == text_of(table)


@given(table=ANY, data=st.data())
def test_merging_by_id_does_not_depend_on_the_order(table: RankTable, data: st.DataObject) -> None:
    """`--sort` gives MindSpore's order from parts in any order."""
    parts = [replace(table, servers=(server,)) for server in table.servers]
    shuffled = data.draw(st.permutations(parts))
    assert merge(shuffled, by_id=True) == table


def test_merging_keeps_further_fields() -> None:
    """What HCCL or others read beside the usual fields is not lost."""
    document = rt.document(eight("10.0.0.1"))
    document["server_list"][0]["container_ip"] = "172.16.0.4"
    document["server_list"][0]["device"][3]["device_port"] = "16666"
    checked = check_text(json.dumps(document).encode())
    assert checked.table is not None
    assert rt.document(merge([checked.table])) == document


def test_tables_of_different_versions_do_not_merge() -> None:
    """Nor does nothing."""
    with pytest.raises(ValueError, match=r"versions 1\.0, 1\.2 cannot"):
        merge([eight("a"), make([(rt.facts(1, [0, 1], pod="p"), [0, 1])])])
    with pytest.raises(ValueError, match="none"):
        merge([])


@given(table=ANY)
def test_equal_tables_do_not_differ(table: RankTable) -> None:
    """Nor do tables that list the same servers and devices in another order."""
    assert differences(table, table) == ()
    turned = tuple(replace(server, devices=server.devices[::-1]) for server in table.servers[::-1])
    assert differences(table, replace(table, servers=turned)) == ()


@given(table=ANY, data=st.data())
def test_one_change_is_one_difference(table: RankTable, data: st.DataObject) -> None:
    """A changed address, a lost device and a lost server are each told once, with their place."""
    server = data.draw(st.sampled_from(table.servers))
    device = data.draw(st.sampled_from(server.devices))
    others = tuple(one for one in table.servers if one is not server)
    moved = tuple(replace(d, ips=("10.5.5.5",)) if d is device else d for d in server.devices)
    rest = tuple(d for d in server.devices if d is not device)
    place = f"server {server.server_id}"
    for changed, where, what in (
        (
            (*others, replace(server, devices=moved)),
            f"{place} device {device.device_id}",
            "device_ip",
        ),
        ((*others, replace(server, devices=rest)), f"{place} device {device.device_id}", "device"),
        (others, place, "server"),
    ):
        [found] = differences(table, replace(table, servers=changed))
        assert (found.where, found.what) == (where, what)


def test_addresses_come_from_hccn_conf() -> None:
    """Only addresses are taken; other keys, blank lines and nonsense are passed over."""
    text = "address_0=192.168.1.1\nnetmask_0=255.255.255.0\n\n address_11 = fd00::1 \naddress_2=\n?"
    assert addresses(text) == {0: ("192.168.1.1",), 11: ("fd00::1",)}


@given(text=st.text())
def test_any_text_may_be_taken_for_hccn_conf(text: str) -> None:
    """Nothing raises."""
    addresses(text)
