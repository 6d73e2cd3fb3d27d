"""The API: what is submitted, listed, ordered and refused, over real sockets and a real store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from orchestrator.layout import RunDirectory
from orchestrator.service.tokens import Role
from orchestrator.states import FailureClass, JobState
from orchestrator.store.errors import StoreFull
from orchestrator.store.values import IncidentRecord, happened
from tests.apis import BODY, TEXT, Api, lines, problem, served


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One server for all tests of this module."""
    with served(tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    """An administrator's client."""
    with api.client() as made:
        yield made


def test_a_submitted_job_is_there_with_what_is_known_of_it(api: Api, client: httpx.Client) -> None:
    """Its row names its user, and is null where nothing is known."""
    made = api.submit(Role.SUBMIT)
    assert made["state"] == "QUEUED" and made["run_dir"].startswith(str(api.home.runs))
    row = client.get(f"/v1/jobs/{made['job']}").json()
    assert (row["user"], row["name"], row["device"], row["ranks"]) == ("submit", "small", "cpu", 2)
    unknown = ("reason", "position", "started_at", "ended_at")
    assert [row[name] for name in unknown] == [None] * 4
    assert api.head.store.job_file(made["job"]).text == TEXT.encode()


def test_overrides_and_the_directory_go_into_the_job(api: Api, client: httpx.Client) -> None:
    """As with `muster run --set`, before validation."""
    body = {"text": TEXT.replace("workdir: /\n", ""), "cwd": "/tmp", "overrides": ["name=other"]}
    job = client.post("/v1/jobs", json=body).json()["job"]
    assert job.startswith("other-")
    assert str(api.head.spec(job).workdir) == "/tmp"


def test_every_mistake_of_a_job_file_is_told_at_once(client: httpx.Client) -> None:
    """With its line, path, what was found and what is allowed, and nothing was taken in."""
    before = len(client.get("/v1/jobs", params={"limit": 10_000}).json()["jobs"])
    text = TEXT.replace("ranks: 2", "ranks: none") + "colour: red\n"
    body = {"text": text, "cwd": "/", "file": "my.yaml", "overrides": ["priority"]}
    told = problem(client.post("/v1/jobs", json=body), 422)
    assert {(one["line"], one["path"]) for one in told["problems"]} >= {
        (5, "resources.ranks"),
        (6, "colour"),
    }
    assert any(one["override"] == "priority" for one in told["problems"])
    assert "my.yaml:6" in told["detail"]
    assert len(client.get("/v1/jobs", params={"limit": 10_000}).json()["jobs"]) == before


def test_what_is_not_built_is_refused_by_name(client: httpx.Client) -> None:
    """A field that nothing acts on is not taken in silently."""
    body = {**BODY, "overrides": ["notify=[{url: 'https://x', events: [failed]}]"]}
    told = problem(client.post("/v1/jobs", json=body), 422)
    assert [one["path"] for one in told["problems"]] == ["notify"]


def test_every_mistake_of_a_request_is_told_at_once(client: httpx.Client) -> None:
    """Of its body and of its query alike, each with where it is."""
    body = {"text": 1, "cwd": "here", "file": "a\nb", "overrides": "x", "more": None}
    told = problem(client.post("/v1/jobs", json=body), 422)
    fields = {"body.text", "body.cwd", "body.file", "body.overrides", "body.more"}
    assert {one["path"] for one in told["problems"]} == fields
    query = {"limit": "0", "before": "x", "state": "SLEEPING"}
    told = problem(client.get("/v1/jobs", params=query), 422)
    assert len(told["problems"]) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"",
        b"[" * 500_000,
        b"\xff\xfe",
        b'{"text": "\\ud800", "cwd": "/"}',
        b'{"text": "\\u0000", "cwd": "/"}',
        b'{"text": "a: 1", "cwd": "/\\u0000"}',
        b'{"text": "a: ' + b"[" * 1000 + b'", "cwd": "/"}',
        b'{"text": "a: &a [*a, *a]", "cwd": "/"}',
        b'{"text": "version: 1", "cwd": "/", "overrides": [' + b'"' + b"a." * 5000 + b'=1"]}',
        b'{"text": ' + b"1" * 5000 + b', "cwd": "/"}',
        b"null",
    ],
    ids=range(12),
)
def test_hostile_bodies_are_refused_with_a_reason(client: httpx.Client, content: bytes) -> None:
    """NULs, lone surrogates, depth, aliases, no JSON at all: the fault is the sender's."""
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/jobs", content=content, headers=headers)
    problem(answer, answer.status_code)
    assert answer.status_code in (400, 422)


def test_a_name_that_leads_elsewhere_is_no_job(client: httpx.Client) -> None:
    """Neither in a job file nor in an address."""
    body = {**BODY, "overrides": ["name=../../x"]}
    assert problem(client.post("/v1/jobs", json=body), 422)["problems"][0]["path"] == "name"
    for job in ("../../etc", "%2e%2e%2fx", "%00", "x" * 20_000, "%ff%fe", "nobody-000000"):
        problem(client.get(f"/v1/jobs/{job}/status"), 404)


def test_a_retry_with_the_same_key_is_the_same_job(api: Api, client: httpx.Client) -> None:
    """201 once, 200 ever after; the same key with another body is a conflict."""
    made = api.submit(**{"Idempotency-Key": "k1"})
    again = client.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "k1"})
    assert (again.status_code, again.json()) == (200, made)
    other = {**BODY, "overrides": ["name=other"]}
    told = problem(client.post("/v1/jobs", json=other, headers={"Idempotency-Key": "k1"}), 409)
    assert made["job"] in told["detail"]
    bad = client.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "x" * 256})
    problem(bad, 422)


def test_of_retries_at_once_one_makes_the_job(api: Api) -> None:
    """However they race, one is answered 201, the others 200, with the same id."""
    gate = threading.Barrier(8)

    def submit(_: int) -> tuple[int, str]:
        with api.client() as client:
            client.get("/v1/health")
            gate.wait()
            answer = client.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "race"})
            return answer.status_code, answer.json()["job"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(submit, range(8)))
    assert sorted(status for status, _ in answers) == [200] * 7 + [201]
    assert len({job for _, job in answers}) == 1


def test_pages_tell_every_job_once(api: Api, client: httpx.Client) -> None:
    """Newest first; `before` leads on until it is null."""
    made = [api.submit()["job"] for _ in range(5)]
    seen, before = [], {}
    while True:
        page = client.get("/v1/jobs", params={"limit": 2, **before}).json()
        seen += [row["job"] for row in page["jobs"]]
        if page["before"] is None:
            break
        before = {"before": page["before"]}
    assert seen[:5] == made[::-1]
    assert len(seen) == len(set(seen))


def test_jobs_are_chosen_by_state_and_user(api: Api, client: httpx.Client) -> None:
    """States may be repeated; each filter that is given must fit."""
    held, own = api.submit()["job"], api.submit(Role.SUBMIT)["job"]
    client.post(f"/v1/jobs/{held}/hold")

    def listed(**query: object) -> set[str]:
        found = client.get("/v1/jobs", params={"limit": 1000, **query}).json()["jobs"]
        return {row["job"] for row in found}

    assert held in listed(state="HELD") and own not in listed(state="HELD")
    assert {held, own} <= listed(state=["HELD", "QUEUED"])
    assert own in listed(user="submit") and held not in listed(user="submit")
    assert listed(queue="none") == set()


def test_orders_are_obeyed_or_refused_with_a_reason(api: Api, client: httpx.Client) -> None:
    """hold, release and cancel answer the job as it then is; what cannot be is a conflict."""
    job = api.submit()["job"]
    for order, state in (("hold", "HELD"), ("release", "QUEUED"), ("cancel", "CANCELLED")):
        assert client.post(f"/v1/jobs/{job}/{order}").json()["state"] == state
    assert "CANCELLED" in problem(client.post(f"/v1/jobs/{job}/hold"), 409)["detail"]
    assert client.post(f"/v1/jobs/{job}/resume").json()["state"] == "QUEUED"
    problem(client.post("/v1/jobs/nobody-000000/hold"), 404)


def test_only_an_admin_orders_jobs_of_others(api: Api) -> None:
    """Who may submit orders his own."""
    theirs, own = api.submit(Role.ADMIN)["job"], api.submit(Role.SUBMIT)["job"]
    with api.client(Role.SUBMIT) as client:
        for order in ("cancel", "hold", "release", "resume"):
            problem(client.post(f"/v1/jobs/{theirs}/{order}"), 403)
        problem(client.post(f"/v1/jobs/{theirs}/drills", json={"fault": "kill-rank:0"}), 403)
        assert client.post(f"/v1/jobs/{own}/cancel").status_code == 200
    with api.client(Role.ADMIN) as client:
        assert client.post(f"/v1/jobs/{own}/resume").status_code == 200


def test_a_fault_is_checked_before_it_is_refused(api: Api, client: httpx.Client) -> None:
    """A fault that does not exist is a mistake; one for a job that does not run a conflict."""
    job = api.submit()["job"]
    problem(client.post(f"/v1/jobs/{job}/drills", json={"fault": "melt"}), 422)
    problem(client.post(f"/v1/jobs/{job}/drills", json={"fault": f"kill-rank:{'9' * 90}"}), 422)
    problem(client.post(f"/v1/jobs/{job}/drills", json={"fault": "kill-rank:1"}), 409)


def test_a_job_that_never_started_has_empty_lists(api: Api, client: httpx.Client) -> None:
    """No error, where nothing can be yet."""
    job = api.submit()["job"]
    assert lines(client.get(f"/v1/jobs/{job}/logs").text) == []
    assert lines(client.get(f"/v1/jobs/{job}/logs", params={"rank": 1}).text) == []
    assert client.get(f"/v1/jobs/{job}/incidents").json()["incidents"] == []
    found = client.get(f"/v1/jobs/{job}/checkpoints", params={"verify": True}).json()
    assert (found["checkpoints"], found["quarantined"]) == ([], [])
    assert client.get(f"/v1/jobs/{job}/status").json()["ranks"] == []


def test_numbers_that_json_lacks_become_null(api: Api, client: httpx.Client) -> None:
    """In the data of events, however deep, and in incidents."""
    job = api.submit()["job"]
    data = {"loss": float("nan"), "deep": [{"x": float("-inf"), "y": 1.5}]}
    event = happened("odd", **data)
    record = IncidentRecord(
        incident=1,
        attempt=1,
        failure=FailureClass.NUMERIC,
        fault_at=1.0,
        document={"class": "numeric", "loss": float("inf")},
    )
    api.head.store.transition(
        job, event, seen=JobState.QUEUED, epoch=api.head.epoch, records=[record]
    )
    told = client.get(f"/v1/jobs/{job}/events").json()["events"][-1]
    assert told["data"] == {"loss": None, "deep": [{"x": None, "y": 1.5}]}
    (incident,) = client.get(f"/v1/jobs/{job}/incidents").json()["incidents"]
    assert (incident["job"], incident["class"], incident["loss"]) == (job, "numeric", None)
    newest = client.get("/v1/incidents", params={"limit": 1}).json()
    assert newest["incidents"] == [incident] and newest["before"] is not None
    rest = client.get("/v1/incidents", params={"before": newest["before"]}).json()
    assert incident not in rest["incidents"]


def test_checkpoints_are_listed(api: Api, client: httpx.Client) -> None:
    """From the run directory; one that does not verify says why."""
    job = api.submit()["job"]
    directory = RunDirectory(Path(api.head.job(job).run_dir))
    (directory.checkpoints / "step-00000040").mkdir(parents=True)
    (row,) = client.get(f"/v1/jobs/{job}/checkpoints").json()["checkpoints"]
    assert (row["step"], row["best"], "verified" in row) == (40, False, False)
    (row,) = client.get(f"/v1/jobs/{job}/checkpoints?verify=true").json()["checkpoints"]
    assert row["verified"] is False and "MANIFEST" in row["reason"]


def test_a_plan_starts_nothing(api: Api, client: httpx.Client) -> None:
    """It answers what `muster plan --json` prints; without the devices it is a conflict."""
    before = set(api.home.runs.iterdir())
    made = client.post("/v1/plan", json=BODY).json()
    assert [rank["rank"] for rank in made["ranks"]] == [0, 1]
    assert made["job"] == "small" and made["rank_table"] is None
    problem(
        client.post("/v1/plan", json={**BODY, "overrides": ["resources.cpus_per_rank=999"]}), 409
    )
    problem(client.post("/v1/plan", json={**BODY, "text": "no: job"}), 422)
    assert set(api.home.runs.iterdir()) == before


def test_devices_are_listed_barred_and_given_back(client: httpx.Client) -> None:
    """A bar is refused with every mistake, remembered in the head's home, and lifted once."""
    assert isinstance(client.get("/v1/devices").json()["devices"], list)
    bad = {"devices": ["ascend:3", "tpu:1", "gpu:0"], "why": "\x07", "length": "soon"}
    told = problem(client.post("/v1/devices/bars", json=bad), 422)
    assert len(told["detail"].splitlines()) == 4
    good = {"devices": ["ascend:3"], "why": "ECC twice", "length": "1h"}
    answer = client.post("/v1/devices/bars", json=good)
    assert answer.status_code == 200, answer.text
    (bar,) = answer.json()["barred"]
    assert (bar["device"], bar["why"]) == ("ascend:3", "ECC twice")
    query = {"device": "ascend:3"}
    assert client.delete("/v1/devices/bars", params=query).json()["unbarred"] == ["ascend:3"]
    problem(client.delete("/v1/devices/bars", params=query), 404)
    problem(client.delete("/v1/devices/bars"), 422)


def test_health_tells_what_to_know(api: Api, client: httpx.Client) -> None:
    """Also what the process was warned of when it started."""
    told = client.get("/v1/health").json()
    assert told["epoch"] == api.head.epoch and told["accepting"] is True
    assert "mind the gap" in told["warnings"]


def test_down_passes_on_how(api: Api, client: httpx.Client) -> None:
    """Leaving ranks and waiting for them exclude each other."""
    assert client.post("/v1/down", json={"keep_ranks": True}).status_code == 202
    assert (api.endings[-1].keep_ranks, api.endings[-1].drain) == (True, False)
    problem(client.post("/v1/down", json={"keep_ranks": True, "drain": True}), 422)
    assert len(api.endings) == 1


def test_a_head_that_takes_nothing_in_says_when_to_come_again(
    api: Api, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going down, or with a full disk: 503 with Retry-After, and reads go on."""
    monkeypatch.setattr(api.head, "accepting", False)
    answer = client.post("/v1/jobs", json=BODY)
    problem(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    monkeypatch.undo()

    def full() -> None:
        raise StoreFull("/store has 3 MiB free")

    monkeypatch.setattr(api.head.store, "_expect_room", full)
    assert "3 MiB" in problem(client.post("/v1/jobs", json=BODY), 503)["detail"]
    assert client.get("/v1/jobs").status_code == 200


def test_a_bug_of_ours_is_told_by_a_number_alone(
    api: Api,
    client: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client gets an id; what happened stands in the log under it, without any token."""
    token = api.tokens[Role.ADMIN]

    def broken() -> dict[str, object]:
        raise RuntimeError(f"something about {token} in the wrong place")

    monkeypatch.setattr(api.head, "health", broken)
    detail = problem(client.get("/v1/health"), 500)["detail"]
    assert "wrong place" not in detail
    number = detail.rpartition(" ")[2]
    assert number in caplog.text and "wrong place" in caplog.text
    assert token not in caplog.text
    monkeypatch.undo()
    assert client.get("/v1/health").status_code == 200


def test_unknown_addresses_and_methods_are_problems_too(client: httpx.Client) -> None:
    """404 and 405, the latter with what is allowed."""
    problem(client.get("/"), 404)
    problem(client.get("/docs"), 404)
    problem(client.get("/v1/jobs/"), 404)
    answer = client.put("/v1/jobs", json={})
    problem(answer, 405)
    assert answer.headers["allow"]


def test_the_description_is_complete(api: Api, client: httpx.Client) -> None:
    """Every operation has a summary, its answer's schema, its refusals as problems, and a role."""
    document = client.get("/openapi.json").json()
    described = [one for path in document["paths"].values() for one in path.values()]
    assert len(described) == len({one["operationId"] for one in described}) >= 20
    for one in described:
        assert one["summary"] and one["description"] and one["x-muster-role"]
        for status, response in one["responses"].items():
            (media_type,) = response["content"]
            assert response["content"][media_type]["schema"]
            assert (media_type == "application/problem+json") == (int(status) >= 400)
        assert {"401", "403", "422", "500", "503"} <= set(one["responses"])
    assert document["security"] == [{"token": []}]
