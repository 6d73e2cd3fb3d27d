"""The peer of `submit_rate`: FastAPI and SQLite as most would write them, a commit a request.

No token, no validation, no queue: what HTTP and one durable row cost by themselves.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
lock = threading.Lock()
store = sqlite3.connect(sys.argv[1], check_same_thread=False)
store.execute("PRAGMA journal_mode = WAL")
store.execute("PRAGMA synchronous = FULL")
store.execute("CREATE TABLE jobs (number INTEGER PRIMARY KEY, text TEXT, cwd TEXT)")


class Job(BaseModel):
    """A job file as it stands."""

    text: str
    cwd: str


@app.post("/v1/jobs", status_code=201)
def submit(job: Job) -> dict[str, Any]:
    """Keep a job."""
    with lock, store:
        row = store.execute("INSERT INTO jobs (text, cwd) VALUES (?, ?)", (job.text, job.cwd))
    return {"job": row.lastrowid}


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    Path(sys.argv[2]).write_text(json.dumps({"url": url}))
    config = uvicorn.Config(app, loop="uvloop", http="httptools", log_level="error")
    uvicorn.Server(config).run(sockets=[listener])
