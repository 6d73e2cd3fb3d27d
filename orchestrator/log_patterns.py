"""What texts in a rank's log or error mean: pattern → class, meaning, source. A table, no more.

Order is meaning: causes stand before what they bring about, so a mistake in a rank table is not
taken for the time-out that follows it. No Ascend or GPU failure was ever seen by us: every line
says whose document it follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from orchestrator.states import FailureClass

SEARCHED = 16 << 10
"""Characters at the end of a log that are searched; what stands further up was survived."""


@dataclass(frozen=True)
class LogPattern:
    """One line. `meaning` is a short phrase, `source` names where it is documented."""

    name: str
    text: str
    failure: FailureClass
    meaning: str
    source: str

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The compiled expression; compiled when first asked."""
        return re.compile(self.text)

    def found_in(self, message: str, log: str) -> bool:
        """Whether an error message, or the end of a log, has it."""
        return bool(self.pattern.search(message) or self.pattern.search(log[-SEARCHED:]))


_HCCL = "HCCL: error table of hicann/hcomm (CANN 8.5 and later)"
_FAULTDIAG = "MindCluster: rules of ascend-faultdiag"
_CUDA = "NVIDIA: CUDA Runtime API, cudaError_t"
_NCCL = "NVIDIA: NCCL, ncclResult_t"
_VERBS = "rdma-core: ibv_poll_cq(3), enum ibv_wc_status"
_ERRNO = "errno(3)"

_USER, _PROCESS, _OOM = FailureClass.USER, FailureClass.PROCESS, FailureClass.OOM
_HANG, _RENDEZVOUS = FailureClass.HANG, FailureClass.RENDEZVOUS
_DEVICE, _NODE, _STORAGE = FailureClass.DEVICE, FailureClass.NODE, FailureClass.STORAGE


def _hccl(code: str, failure: FailureClass, meaning: str, source: str = _HCCL) -> LogPattern:
    return LogPattern(code, rf"\b{code}\b", failure, meaning, source)


LOG_PATTERNS: tuple[LogPattern, ...] = (
    # Configuration: another attempt would read the same.
    _hccl("EI0001", _USER, "an environment variable of HCCL has an invalid value"),
    _hccl("EI0003", _USER, "wrong arguments for a collective operator"),
    _hccl("EI0004", _USER, "the rank table cannot be parsed"),
    _hccl("EI0005", _USER, "collective arguments differ between ranks"),
    _hccl("EI0008", _USER, "HCCL versions differ between ranks"),
    _hccl("EI0014", _USER, "a value in the rank table is invalid"),
    _hccl("EI0016", _USER, "settings such as TLS differ between ranks"),
    _hccl("EI0017", _USER, "a field is missing in the rank table"),
    # Memory of the device.
    _hccl("EI0011", _OOM, "device memory could not be allocated"),
    _hccl("EL0004", _OOM, "device memory could not be allocated", _FAULTDIAG),
    # The device itself.
    LogPattern(
        "HBM ECC",
        r"80E01801|80E18402|80E18404|(HBM|DDR).{0,40}multi-bit ECC",
        _DEVICE,
        "memory of the device has errors that cannot be corrected",
        "MindCluster: faultCode.json and kg-config.json",
    ),
    _hccl("EJ0001", _DEVICE, "the device did not initialise: busy, or HCCP down", _FAULTDIAG),
    # Ports and links.
    _hccl("EI0019", _RENDEZVOUS, "a port of the host is taken (60000 and on)"),
    _hccl("EI0020", _RENDEZVOUS, "a port of the device's NIC is taken"),
    _hccl("EI0007", _PROCESS, "a resource of HCCL is exhausted"),
    _hccl("EI0012", _NODE, "SDMA failed: a link, memory, or a peer that died"),
    _hccl("EI0013", _NODE, "RoCE completed with an error"),
    _hccl("EI0018", _NODE, "the unified bus completed with an error"),
    _hccl("EI0010", _NODE, "peer-to-peer transfer failed"),
    _hccl("EI0009", _NODE, "the transport could not be set up"),
    _hccl("EI9999", _NODE, "asking for the peer-to-peer status timed out", _FAULTDIAG),
    # Peers that do not come.
    _hccl("EI0015", _RENDEZVOUS, "ranks are missing in the negotiation of the root"),
    _hccl("EI0006", _RENDEZVOUS, "a peer did not connect in time (HCCL_CONNECT_TIMEOUT)"),
    _hccl("EI0002", _HANG, "a collective waited too long (HCCL_EXEC_TIMEOUT)"),
    LogPattern(
        "HCCL watchdog",
        r"HcclWatchDog.{0,80}SIGTERM",
        _NODE,
        "MindSpore's watchdog saw an error of the communicator and ended its own process",
        "MindSpore 2.10: text of libmindspore's HCCL watchdog",
    ),
    # GPUs.
    LogPattern(
        "GPU off the bus",
        r"fallen off the bus|NVRM: Xid \([^)]{0,40}\): (48|74|79|95)\b",
        _DEVICE,
        "the GPU is gone, or its memory or NVLink has errors that cannot be corrected",
        "NVIDIA: Xid catalog, 48, 74, 79, 95",
    ),
    LogPattern(
        "CUDA ECC",
        r"cudaErrorECCUncorrectable|cudaErrorNvlinkUncorrectable|uncorrectable (ECC|NVLink) error",
        _DEVICE,
        "memory or NVLink of the GPU has errors that cannot be corrected",
        _CUDA,
    ),
    LogPattern(
        "CUDA devices unavailable",
        r"cudaErrorDevicesUnavailable|CUDA-capable device\(s\) is/are busy or unavailable",
        _DEVICE,
        "the GPU is busy or cannot be used",
        _CUDA,
    ),
    LogPattern(
        "CUDA out of memory",
        r"cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|CUDA(:| error:)? out of memory",
        _OOM,
        "memory of the GPU could not be allocated",
        _CUDA,
    ),
    LogPattern(
        "CUDA memory access",
        r"cudaErrorIllegalAddress|an illegal memory access was encountered",
        _PROCESS,
        "a kernel read or wrote where it may not",
        _CUDA,
    ),
    LogPattern(
        "CUDA launch",
        r"cudaErrorLaunch(Failure|Timeout)|unspecified launch failure",
        _PROCESS,
        "a kernel ended with an exception, or took too long",
        _CUDA,
    ),
    LogPattern(
        "RDMA retries",
        r"IBV_WC_(RNR_)?RETRY_EXC_ERR|transport retry counter exceeded",
        _NODE,
        "the peer's NIC did not answer: its link, or the network between",
        _VERBS,
    ),
    LogPattern(
        "NCCL network",
        r"nccl(Remote|System)Error|remote process exited or there was a network error",
        _NODE,
        "a peer left, or the network failed",
        _NCCL,
    ),
    # The host.
    LogPattern(
        "file system",
        r"Read-only file system|Stale file handle",
        _STORAGE,
        "a file system is gone or read-only",
        _ERRNO,
    ),
)
"""First match wins, after the job's own rules and after what was observed directly."""
