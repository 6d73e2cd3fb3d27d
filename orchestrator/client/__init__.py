"""A typed client of the controller's API: `Client.from_environment()`.

    from orchestrator.client import Client

    client = Client.from_environment()
    job = client.submit(open("job.yaml").read())["job"]
    for line in client.logs(job, follow=True):
        print(line["rank"], line["line"])
    assert client.wait(job)["state"] == "SUCCEEDED"

Standard library only: a command that uses it starts in a third of the time that an HTTP library
takes to import.
"""

from orchestrator.client.address import Address, find
from orchestrator.client.client import ENDED, Client
from orchestrator.client.documents import EventRow, JobRow, LogLine, Submitted
from orchestrator.client.errors import BadAddress, ClientError, NoToken, Problem, Unreachable

__all__ = [
    "ENDED",
    "Address",
    "BadAddress",
    "Client",
    "ClientError",
    "EventRow",
    "JobRow",
    "LogLine",
    "NoToken",
    "Problem",
    "Submitted",
    "Unreachable",
    "find",
]
