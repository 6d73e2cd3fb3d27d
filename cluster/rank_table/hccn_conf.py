"""Addresses of devices in /etc/hccn.conf, the file that `hccn_tool` keeps."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"\s*address_([0-9]{1,4})\s*=\s*(\S+)\s*")


def addresses(text: str) -> dict[int, tuple[str, ...]]:
    """By device id; the last line about a device counts, other lines are passed over."""
    matches = (_ADDRESS.fullmatch(line) for line in text.splitlines())
    return {int(match[1]): tuple(match[2].split(",")) for match in matches if match}
