"""Port leases, with real sockets and real processes."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.ports import DEFAULT_CANDIDATES, NoFreePort, ephemeral_ports, lease_port

HOLDER = """
import sys, time
from cluster.ports import lease_port
lease = lease_port(candidates=[int(sys.argv[1])])
print(lease.port, flush=True)
time.sleep(60)
"""


def free_port() -> int:
    """A candidate that nobody holds at the moment."""
    with lease_port() as lease:
        return lease.port


def test_a_lease_is_outside_the_ephemeral_range_and_bindable() -> None:
    """The port is a default candidate that the kernel gives to nobody, and is free."""
    with lease_port() as lease:
        assert lease.port in DEFAULT_CANDIDATES
        assert lease.port not in ephemeral_ports()
        with socket.socket() as server:
            server.bind(("127.0.0.1", lease.port))


def test_many_leases_are_all_different() -> None:
    """Fifty leases held at once are fifty ports."""
    leases = [lease_port() for _ in range(50)]
    try:
        assert len({lease.port for lease in leases}) == 50
    finally:
        for lease in leases:
            lease.release()


def test_a_released_port_can_be_leased_again() -> None:
    """Release, also twice, gives the port back."""
    lease = lease_port()
    with pytest.raises(NoFreePort):
        lease_port(candidates=[lease.port])
    lease.release()
    lease.release()
    with lease_port(candidates=[lease.port]) as again:
        assert again.port == lease.port


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_port_somebody_listens_on_is_passed_over(host: str) -> None:
    """A stranger's listening socket is found by the real bind; the next port is taken."""
    with socket.socket() as server:
        taken, spare = free_port(), free_port()
        server.bind(("127.0.0.1", taken))
        server.listen()
        with lease_port(host, candidates=[taken, spare]) as lease:
            assert lease.port == spare
        with pytest.raises(NoFreePort, match="among 1 ports"):
            lease_port(host, candidates=[taken])


def test_a_refused_port_is_not_kept(tmp_path: Path) -> None:
    """After a failed search nothing stays leased."""
    port = free_port()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        with pytest.raises(NoFreePort):
            lease_port(candidates=[port])
    with lease_port(candidates=[port]) as lease:
        assert lease.port == port


def test_ephemeral_ports_are_never_candidates(tmp_path: Path) -> None:
    """When the kernel's range covers every candidate, the error says so."""
    file = tmp_path / "range"
    file.write_text("20000\t29999\n")
    with pytest.raises(NoFreePort, match="ephemeral range 20000-29999"):
        lease_port(range_file=file)
    file.write_text("20000 29990\n")
    with lease_port(range_file=file) as lease:
        assert lease.port > 29990


def test_an_unreadable_range_file_means_the_usual_range(tmp_path: Path) -> None:
    """Without the file Linux's default range is assumed."""
    assert ephemeral_ports(tmp_path / "none") == range(32768, 61000)


def test_a_foreign_address_is_an_error_at_once() -> None:
    """An address this machine does not have is no reason to try ten thousand ports."""
    with pytest.raises(OSError, match=r"192\.0\.2\.1") as caught:
        lease_port("192.0.2.1")
    assert not isinstance(caught.value, NoFreePort)


def test_another_process_respects_a_lease_until_its_holder_is_killed() -> None:
    """A lease holds across processes and ends with its holder, even by SIGKILL."""
    port = free_port()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(port)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    try:
        assert holder.stdout is not None
        assert select.select([holder.stdout], [], [], 30)[0]
        assert int(holder.stdout.readline()) == port
        with pytest.raises(NoFreePort):
            lease_port(candidates=[port])
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait(10)
        deadline = time.monotonic() + 5
        while True:
            try:
                lease_port(candidates=[port]).release()
                break
            except NoFreePort:
                assert time.monotonic() < deadline, "the kernel did not drop the lease"
    finally:
        holder.kill()
        holder.wait(10)
        if holder.stdout:
            holder.stdout.close()
