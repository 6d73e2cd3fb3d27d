"""Super-pods of A3: what npu-smi says of them, and what a rank table gets of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ascend.super_pod import parse_super_pod
from cluster.ascend.table_facts import server_facts
from cluster.ascend.values import Absent, Unmeasured
from cluster.rank_table import Model, check_table, make
from cluster.simulated import npu_smi
from cluster.simulated.npu_smi_types import sdid_of
from tests.simulated import node, report

ASKED = ["info", "-t", "spod-info", "-i", "3", "-c", "1"]


def test_labels_and_numbers_are_read() -> None:
    """A tab, a label, a colon and a value; other labels are not ours."""
    text = npu_smi.answer(node("A3", 8), ASKED).text
    assert text.splitlines()[0] == "\tSDID                           : 38600711"
    found = parse_super_pod(text)
    assert (found.sdid, found.pod) == (38600711, 0)


def test_sdids_are_those_of_mindclusters_documents() -> None:
    """Devices 0 and 7 of its sample, by the bits of its fault diagnosis."""
    where = node("A3", 8)
    assert [sdid_of(where.devices[n]) for n in (0, 7)] == [37748736, 38600711]


@pytest.mark.parametrize(
    "text",
    ["", "SDID : 1\n", "SDID : 1\nSDID : 2\nSuper Pod ID : x\n", "Super Pod ID : -1\nSDID : \n"],
)
def test_what_is_not_stated_is_not_measured(text: str) -> None:
    """Nothing, a word, or two chips at once: never a number, and never an exception."""
    assert isinstance(parse_super_pod(text).pod, Unmeasured)


def test_no_super_pod_is_told_from_no_answer() -> None:
    """All bits set is a statement, not a failure."""
    assert isinstance(parse_super_pod("Super Pod ID : 4294967295\n").pod, Absent)


@given(text=st.text())
def test_any_text_is_read_without_an_exception(text: str) -> None:
    """Nothing raises."""
    parse_super_pod(text)


def test_other_models_are_not_asked_and_would_refuse() -> None:
    """A report of them says why there is no SDID."""
    assert npu_smi.answer(node("910B3", 8), ASKED).code == 217
    [device] = report(node("910B3", 1)).devices
    assert device.sdid == device.super_pod == Unmeasured("only A3 has super-pods")
    assert not any("super-pod" in text for text in device.concerns)


def test_a_table_of_a3_gets_sdids_and_its_super_pod() -> None:
    """Sixteen dies, version 1.2, nothing to find fault with."""
    known = server_facts(report(node("A3", 8)), "a")
    assert known.super_pod == "0" and len(known.sdids) == 16
    table = make([(known, range(16))])
    assert table.version == "1.2"
    assert check_table(table, Model.A3).findings == ()


def test_a_server_in_no_one_super_pod_is_a_single_one() -> None:
    """Where devices name several super-pods or none, the table is of version 1.0 without SDIDs."""
    found = report(node("A3", 1))
    one, other = found.devices
    for pods in ((1, 2), (Absent("none"), Absent("none"))):
        devices = (replace(one, super_pod=pods[0]), replace(other, super_pod=pods[1]))
        known = server_facts(replace(found, devices=devices), "a")
        assert (known.super_pod, known.sdids) == (None, {})
        assert make([(known, [0, 1])]).version == "1.0"
