"""The check of rank tables: every rule is broken on purpose, and named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.rank_table import (
    RULES,
    Checked,
    Model,
    RankTable,
    Severity,
    check_file,
    check_table,
    check_text,
    make,
)
from tests import rank_tables as rt

MODELS = st.sampled_from([None, *Model])


def levels(checked: Checked) -> dict[str, Severity]:
    """Severity by code."""
    return {finding.rule.code: finding.severity for finding in checked.findings}


def check_document(document: object, model: Model | None = None) -> Checked:
    """Check JSON values."""
    return check_text(json.dumps(document).encode(), model)


def passes_again(checked: Checked) -> bool:
    """Whether the table that was read has no error either."""
    return checked.table is not None and check_table(checked.table, checked.model).ok


@given(table=rt.tables())
def test_what_is_made_passes(table: RankTable) -> None:
    """A table made of good facts has no finding, on no model that has such servers."""
    for model in (None, Model.A910, Model.B910):
        assert check_table(table, model).findings == ()


@given(table=rt.tables(form="1.2"))
def test_what_is_made_of_super_pods_passes(table: RankTable) -> None:
    """Version 1.2 is judged as A3 whether or not that is asked for."""
    for model in (None, Model.A3):
        checked = check_table(table, model)
        assert (checked.findings, checked.model) == ((), Model.A3)


@given(table=st.one_of(rt.tables(), rt.tables(form="1.2")))
def test_a_checked_table_is_the_table(table: RankTable) -> None:
    """Written and read, a table is what it was."""
    assert check_table(table).table == table


@pytest.mark.parametrize("mutation", rt.MUTATIONS, ids=str)
@settings(max_examples=10)
@given(data=st.data())
def test_every_mutation_is_caught_and_named(mutation: rt.Mutation, data: st.DataObject) -> None:
    """Whatever the table and the place, a broken rule is told by its code with its severity."""
    if mutation.form == rt.OLD:
        document = rt.legacy()
        server = document["group_list"][0]["instance_list"][0]
        device = server["devices"][0]
    else:
        document = rt.document(data.draw(rt.tables(mutation.least, mutation.form)))
        server = data.draw(st.sampled_from(document["server_list"]))
        device = data.draw(st.sampled_from(server["device"]))
        before = check_document(document, mutation.model)
        # A table may be wrong for the model that the mutation is about before it is applied.
        assert mutation.model or mutation.code not in levels(before)
    mutation.apply(document, server, device)
    checked = check_document(document, mutation.model)
    assert levels(checked).get(mutation.code) is mutation.severity, levels(checked)
    assert checked.ok is (checked.errors == 0)
    assert not checked.ok or passes_again(checked)


@pytest.mark.parametrize(("code", "what", "text", "severity"), rt.TEXTS, ids=lambda v: str(v)[:30])
def test_what_is_no_table_is_told(code: str, what: str, text: bytes, severity: Severity) -> None:
    """Texts that are no JSON, or not quite, are findings with a code like all others."""
    assert levels(check_text(text)).get(code) is severity, what


def test_every_rule_has_a_case() -> None:
    """A rule that nothing breaks cannot be trusted to fire."""
    elsewhere = {"RT001", "RT009", "RT601"}  # test_files_are_read…, test_rank_table_live
    covered = {m.code for m in (*rt.MUTATIONS, *rt.CONTRADICTIONS)}
    covered |= {code for code, *_ in rt.TEXTS} | elsewhere
    assert covered == set(RULES)


def test_rules_say_what_to_do() -> None:
    """Code, title, reason and remedy of every rule are there; codes are in order and unique."""
    assert list(RULES) == sorted(RULES)
    for code, rule in RULES.items():
        assert code == rule.code
        assert rule.title and rule.why.endswith(".") and rule.fix.endswith((".", "…"))


@pytest.mark.parametrize("code", ["RT205", "RT206", "RT207", "RT212", "RT302"])
def test_rules_of_910_concern_no_other_model(code: str) -> None:
    """They are errors there, warnings where no model is named, and silent elsewhere."""
    of = RULES[code].levels.of
    assert [of(model) for model in (Model.A910, None, Model.B910, Model.A3)] == [
        Severity.ERROR, Severity.WARNING, None, None,
    ]  # fmt: skip


def test_a_job_of_one_die_is_no_half_pair() -> None:
    """On A3 a job may have a single die; one of two servers with one die each may not."""
    alone, *both = (make([(rt.facts(n, [2]), [2]) for n in range(count)]) for count in (1, 2))
    assert check_table(alone, Model.A3).findings == ()
    assert check_table(both[0], Model.A3).counts == {"RT208": 2}


def test_a_device_twice_is_no_odd_number() -> None:
    """How many devices are used, and of which ring, is not known while one stands twice."""
    document = rt.document(make([(rt.facts(0, [0, 1, 2, 3]), [0, 1, 2, 3])]))
    document["server_list"][0]["device"][3]["device_id"] = "0"
    assert set(check_document(document, Model.A910).counts) == {"RT213"}


def test_all_mistakes_are_told_at_once() -> None:
    """One mistake does not hide another, and each has its place."""
    document = rt.document(make([(rt.facts(n, [0, 1]), [0, 1]) for n in range(2)]))
    document["status"] = "initializing"
    document["server_count"] = 3
    document["server_list"][0]["device"][1]["device_ip"] = "-.-.-.-"
    document["server_list"][1]["device"][0]["rank_id"] = "1"
    found = {f.rule.code: f.path for f in check_document(document).findings}
    assert found == {
        "RT112": "server_count",
        "RT121": "status",
        "RT124": "server_count",
        "RT305": "server_list[0].device[1].device_ip",
        "RT401": "server_list[1].device[0].rank_id",
        "RT402": "server_list[1].device[1].rank_id",
    }


def test_numbers_are_told_once_and_still_compared() -> None:
    """A table of numbers is told to be one; its ranks are looked at all the same."""
    document = rt.document(make([(rt.facts(0, [0, 1, 2, 3]), [0, 1, 2, 3])]))
    for device in document["server_list"][0]["device"]:
        device["rank_id"] = int(device["rank_id"])
    assert set(levels(check_document(document))) == {"RT112"}
    document["server_list"][0]["device"][3]["rank_id"] = 2
    assert {"RT112", "RT401"} <= set(levels(check_document(document)))


def test_a_table_of_rank_ids_as_numbers_can_be_renumbered() -> None:
    """What merge_hccl.py writes is refused by HCCL's rule; its meaning is not in doubt."""
    document = rt.document(make([(rt.facts(0, [0, 1]), [0, 1])]))
    for rank, device in enumerate(document["server_list"][0]["device"]):
        device["rank_id"] = rank
    checked = check_document(document)
    assert not checked.ok
    assert checked.table is not None
    assert check_table(checked.table).ok


def test_a_table_in_doubt_is_not_given() -> None:
    """Where a device could be another, there is no table to go on with."""
    document = rt.document(make([(rt.facts(0, [0, 1]), [0, 1])]))
    document["server_list"][0]["device"][1]["device_id"] = "0"
    assert check_document(document).table is None


def test_the_legacy_form_is_numbered_as_hccl_does() -> None:
    """Ranks go by sorted server ids, then by device ids, whatever the order of listing."""
    document = rt.legacy(servers=2, devices=2)
    document["group_list"][0]["instance_list"].reverse()
    for instance in document["group_list"][0]["instance_list"]:
        instance["devices"].reverse()
    checked = check_document(document)
    assert checked.ok
    assert checked.table is not None
    assert [
        (server.server_id, device.device_id, device.rank) for server, device in checked.table.each()
    ] == [("10.0.0.0", 0, 0), ("10.0.0.0", 1, 1), ("10.0.0.1", 0, 2), ("10.0.0.1", 1, 3)]


def test_fields_of_others_are_no_mistakes() -> None:
    """What MindCluster's operator and HCCL's documents add is known, empty or not."""
    document = rt.document(make([(rt.facts(0, [0, 1]), [0, 1])]))
    document["server_list"][0] |= {
        "host_ip": "", "container_ip": "172.16.0.4", "hardware_type": "800I-A2",
    }  # fmt: skip
    for device in document["server_list"][0]["device"]:
        device |= {"device_port": "16666", "host_port": "16667"}
    assert check_document(document).findings == ()


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_forms_for_other_hardware_are_not_looked_into(version: str) -> None:
    """Their fields are not ours to judge: one finding says what they are."""
    checked = check_document({"version": version, "rank_count": 2, "rank_list": [{"rank_id": 0}]})
    assert set(levels(checked)) == {"RT104"}


def test_many_findings_are_counted_and_few_are_kept() -> None:
    """A table that is wrong everywhere does not fill the memory with findings."""
    servers = [(rt.facts(n, list(range(8))), list(range(8))) for n in range(200)]
    document = rt.document(make(servers))
    for server in document["server_list"]:
        for device in server["device"]:
            device["rank_id"] = int(device["rank_id"])
    checked = check_document(document)
    assert checked.counts["RT112"] == checked.errors == 1600
    assert len(checked.findings) == 1000


def test_files_are_read_with_care(tmp_path: Path) -> None:
    """A directory, a pipe, a name without .json: all findings, none a wait or an exception."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "table.txt").write_text(rt.GOOD)
    (tmp_path / "table.json").write_text(rt.GOOD)
    assert set(levels(check_file(tmp_path))) == {"RT001", "RT009"}
    assert set(levels(check_file(tmp_path / "pipe.json"))) == {"RT001"}
    assert set(levels(check_file(tmp_path / "missing.json"))) == {"RT001"}
    assert set(levels(check_file("nul\0.json"))) == {"RT001"}
    assert set(levels(check_file(tmp_path / "table.txt"))) == {"RT009"}
    assert check_file(tmp_path / "table.json").findings == ()


def test_a_field_of_nonsense_is_one_finding() -> None:
    """However many commas an address has, it is not taken apart."""
    document = rt.document(make([(rt.facts(0, [0]), [0])]))
    document["server_list"][0]["device"][0]["device_ip"] = "," * 100_000
    assert check_document(document).counts == {"RT306": 1}


def test_a_misspelt_field_is_guessed() -> None:
    """The field that was probably meant is named; for what resembles none, nothing is."""
    document = rt.document(make([(rt.facts(0, [0]), [0])]))
    document["server_list"][0]["device"][0] |= {"devise_port": "16666", "xyzzy": "1"}
    assert [finding.found for finding in check_document(document).findings] == [
        "'devise_port'; did you mean 'device_port'?",
        "'xyzzy'",
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(content=st.binary(max_size=200), model=MODELS)
def test_junk_is_told_and_never_raises(content: bytes, model: Model | None) -> None:
    """Any bytes give a check with at least one error."""
    assert not check_text(content, model).ok


@given(data=st.data(), model=MODELS)
def test_junk_in_any_place_never_raises(data: st.DataObject, model: Model | None) -> None:
    """A value of any kind in place of any part of a table is looked at without an exception."""
    table = data.draw(st.one_of(rt.tables(), rt.tables(form="1.2")).map(rt.document))
    node: object = data.draw(st.sampled_from([table, rt.legacy()]))
    document = node
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))  # type: ignore[arg-type, call-overload]
        key = data.draw(st.sampled_from(list(keys)))
        inner = node[key]  # type: ignore[index]
        if not (isinstance(inner, dict | list) and inner) or data.draw(st.booleans()):
            node[key] = data.draw(VALUES)  # type: ignore[index]
            break
        node = inner
    checked = check_document(document, model)
    for finding in checked.findings:
        assert str(finding).isprintable()
    assert not checked.ok or passes_again(checked)
