"""Every rule that a table can break: code, title, severity by model, why, remedy, HCCL's words.

Taken from HCCL's and MindCluster's documents and sources; no table was ever given to a real HCCL.
`seen` is what a job would show by those sources, empty where they do not say: contents are EI0014
and missing fields EI0017 in sources of 2025, both EI0004 in those of 2024. Which release changed it
is not known. Nor is it whether HCCL itself refuses the counts and rings of RT206 and RT207 on 910A,
and the half pairs of RT208 on A3: its parser does not, the ModelZoo's tools and MindCluster's
scheduler do. Codes stay what they are.
Those from RT601 need the report of a node, and are silent without.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cluster.rank_table.values import Model


class Severity(enum.Enum):
    """An error keeps a job from starting, or may; a warning is worth a look."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Levels:
    """How severe a rule is where no model is named, and for each model; None if it is silent."""

    unnamed: Severity | None
    a910: Severity | None
    b910: Severity | None
    a3: Severity | None

    def of(self, model: Model | None) -> Severity | None:
        """The severity for a model."""
        known = {Model.A910: self.a910, Model.B910: self.b910, Model.A3: self.a3}
        return self.unnamed if model is None else known[model]


@dataclass(frozen=True)
class Rule:
    """One rule; `doubt` if breaking it leaves open what the table means."""

    code: str
    title: str
    levels: Levels
    doubt: bool
    why: str
    fix: str
    seen: str


_E, _W = Severity.ERROR, Severity.WARNING
_ERROR = Levels(_E, _E, _E, _E)
_WARNING = Levels(_W, _W, _W, _W)
_NOT_A3 = Levels(_W, _W, _W, None)
_ONLY_910A = Levels(_W, _E, None, None)
_ONLY_A3 = Levels(None, None, None, _E)
_LEGACY = Levels(_W, _W, _E, _E)
_PODS = Levels(None, _E, _E, None)

_FILE = "EI0004, HCCL_E_OPEN_FILE_FAILURE (10)"
_PARSE = "EI0004 (file cannot be parsed)"
_VALUE = "EI0014 (EI0004 in 2024)"
_PARA = "EI0014 (EI0004 in 2024), HCCL_E_PARA (1)"
_MISSING = "EI0017 (EI0004 in 2024)"
_WAITS = "HCCL_E_TIMEOUT (9) after 30 minutes"
_UNSUPPORTED = "HCCL_E_NOT_SUPPORT (5)"

_ROWS: tuple[tuple[str, str, Levels, str, str, str], ...] = (
    # The file
    ("RT001", "the file cannot be read", _ERROR,
     "HCCL opens the table in every rank.",
     "Give the path of a regular file that may be read.", _FILE),
    ("RT002", "the file is too large to be a table", _ERROR,
     "The check reads 16 MiB and 150 000 objects and lists at most.",
     "Check that this is the file you mean.", ""),
    ("RT003", "the file is not in UTF-8", _ERROR,
     "JSON is UTF-8; other encodings cannot be parsed.",
     "Save it as UTF-8, or write it again with `make`.", _PARSE),
    ("RT004", "the file begins with a byte-order mark", _WARNING,
     "JSON has none; some parsers take it for a mistake.",
     "Save it as UTF-8 without a mark.", ""),
    ("RT005", "the file is not JSON", _ERROR,
     "Nothing of it can be read.",
     "Mend the text at the place named, or write it again with `make`.", _PARSE),
    ("RT006", "a comma before a closing bracket", _ERROR,
     "JSON allows no comma after the last element.",
     "Remove the comma.", _PARSE),
    ("RT007", "a field twice in one object", _ERROR,
     "One of the two values is silently dropped.",
     "Keep the one that is meant.", ""),
    ("RT008", "nested more deeply than any table", _ERROR,
     "A table has seven levels at most, so this is none.",
     "Check that this is the file you mean.", ""),
    ("RT009", "the name does not end in .json", _ERROR,
     "HCCL of 2024 refuses other names.",
     "Rename the file.", '"is not a valid .json file"'),
    # Its form
    ("RT101", "the file is not a JSON object", _ERROR,
     "A table is an object with version, status and server_list.",
     "Write it again with `make`.", _PARSE),
    ("RT102", "version is missing", _ERROR,
     "Without it HCCL expects the deprecated form with group_list.",
     'Add "version": "1.0".', _MISSING),
    ("RT103", "an unknown version", _ERROR,
     "HCCL knows 1.0, 1.1, 1.2 and 2.0.",
     'Write "1.0", or "1.2" for super-pods.', f'{_UNSUPPORTED}: "version[..] is not supported"'),
    ("RT104", "a version for other hardware", _ERROR,
     "1.1 is for CPUs beside devices, 2.0 for the 950 series; neither is looked into here.",
     'Write "1.0" for 910A and 910B, "1.0" or "1.2" for A3.', ""),
    ("RT105", "super-pods on a model without them", _PODS,
     "Version 1.2 is for A3 only.",
     'Write version "1.0", without super_pod_list and super_device_id.', ""),
    ("RT106", "the deprecated form with group_list", _LEGACY,
     "It is for 910A only, and ranks follow from sorted server ids and device ids.",
     "Let `merge` write it as version 1.0.", ""),
    ("RT111", "a required field is missing", _ERROR,
     "HCCL does not start without it.",
     "Add the field.", f'{_MISSING}: "Config .. is missing in the ranktable file"'),
    ("RT112", "a number where text belongs", _ERROR,
     "HCCL takes every single value as a JSON string.",
     'Put it in quotes, as in "rank_id": "0".', f'{_PARA}: "is not string!"'),
    ("RT113", "a value of the wrong kind", _ERROR,
     "HCCL takes single values as strings, server_list and device as lists of objects.",
     "Write a value of the kind named.", _PARA),
    ("RT114", "not a whole number", _ERROR,
     "Ids and counts are decimal digits: no sign, no blank, ten digits at most.",
     'Write digits in quotes, as in "7".', _VALUE),
    ("RT115", "an unknown field", _WARNING,
     "HCCL ignores it; a misspelt field is a missing one.",
     "Correct its name, or remove it.", ""),
    ("RT121", "the table is still being written", _ERROR,
     "HCCL reads a table that is not completed again and again for 30 minutes.",
     "Wait for what writes it; if that is done, write it again.", _WAITS),
    ("RT122", "status is not completed", _ERROR,
     "Any other word, in capital letters too, means that the table is not ready.",
     'Write "status": "completed".', _WAITS),
    ("RT123", "server_count is missing", _NOT_A3,
     "HCCL warns and counts the servers; the documents ask for it except on A3.",
     "Add it: the number of servers, as text.", ""),
    ("RT124", "server_count is not the number of servers", _ERROR,
     "The count or the list is wrong; HCCL refuses both.",
     "See which servers are meant, then correct the count.", _VALUE),
    ("RT125", "there are no servers", _ERROR,
     "A job needs one at least.",
     "List the servers.", _VALUE),
    ("RT126", "a count of the deprecated form is wrong", _WARNING,
     "The list counts; the number beside it says otherwise.",
     "See which entries are meant, then correct the count.", ""),
    # Servers and devices
    ("RT201", "an empty server_id", _ERROR,
     "Servers are told apart by it.",
     "Write the server's address or name.", _VALUE),
    ("RT202", "a server_id of more than 64 characters", _ERROR,
     "HCCL has room for 64.",
     "Write a shorter name; it need not be an address.", _VALUE),
    ("RT203", "a server_id twice", _ERROR,
     "Servers are told apart by it.",
     "List each server once, with all its devices.", _VALUE),
    ("RT204", "a server without devices", _ERROR,
     "Each server listed takes part with one device at least.",
     "List its devices, or leave the server out.", _VALUE),
    ("RT205", "servers with different numbers of devices", _ONLY_910A,
     "910A needs as many devices on each server; other models do not.",
     "Use as many devices on each server.", _VALUE),
    ("RT206", "not 1, 2, 4 or 8 devices on a server", _ONLY_910A,
     "910A jobs take these numbers; whether HCCL refuses others is not known, schedulers do.",
     "Use 1, 2, 4 or 8 devices of a server.", ""),
    ("RT207", "devices of both rings", _ONLY_910A,
     "On 910A devices 0-3 and 4-7 are rings; fewer than 8 must lie in one, or the job may fail.",
     "Take the devices of one ring, or all eight.", ""),
    ("RT208", "one die of a pair", _ONLY_A3,
     "A3 devices come in pairs on one module (0 and 1, 2 and 3, …), given out together; only a "
     "job of one device has one alone.",
     "Use both dies of a module.", ""),
    ("RT211", "no device has this id", _ERROR,
     "Ids go from 0 to 15 in HCCL of 2024; newer ones ask the driver, and no larger server is "
     "known.",
     "Write the N of /dev/davinciN.", _VALUE),
    ("RT212", "an id that 910A does not have", _ONLY_910A,
     "910A servers have devices 0 to 7.",
     "Write the N of /dev/davinciN.", _VALUE),
    ("RT213", "a device twice on one server", _ERROR,
     "One of two ranks could not open it.",
     "List each device once.", _VALUE),
    ("RT214", "not a port", _ERROR,
     "Ports go from 1 to 65535.",
     "Write such a number as text, or leave the field out.", ""),
    ("RT215", "a port of the system", _WARNING,
     "Ports below 1024 may be taken by services.",
     "Use a port of 1024 or above.", ""),
    # Addresses
    ("RT301", "no device_ip, although there are several servers", _ERROR,
     "Devices of different servers or super-pods reach each other by these addresses alone.",
     "Add what `hccn_tool -i N -ip -g` says.",
     f"{_MISSING}: \"'device ip' is not set\""),
    ("RT302", "no device_ip on a single server", _ONLY_910A,
     "910A needs it always; 910B and A3 only for HCCL_INTRA_ROCE_ENABLE=1.",
     "Add what `hccn_tool -i N -ip -g` says.", _MISSING),
    ("RT303", "no device_ip in a super-pod", _WARNING,
     "One super-pod can do without, unless HCCL_INTER_HCCS_DISABLE is set.",
     "Add what `hccn_tool -i N -ip -g` says.", ""),
    ("RT304", "an empty device_ip", _ERROR,
     "HCCL reads the field if it is there, and there is no address in it.",
     "Write the address, or leave the field out on a single server.", _VALUE),
    ("RT305", "words of a failing tool instead of an address", _ERROR,
     "The device has no address, or hccn_tool could not ask for it; its words were written down.",
     "Set the address with `hccn_tool -i N -ip -s …`, or make /etc/hccn.conf visible here.",
     _VALUE),
    ("RT306", "not an address", _ERROR,
     "IPv4 is four numbers below 256, IPv6 groups of digits; several are parted by a bare comma.",
     "Write the address alone: no blank, network, zone or leading zero.", _VALUE),
    ("RT307", "an address that no device has", _ERROR,
     "It means this host, any host, or many.",
     "Write the address of the device's own port.", "EI0014 when links are made"),
    ("RT308", "an address twice", _ERROR,
     "Addresses of devices differ in the whole table.",
     "See which device has it: `hccn_tool -i N -ip -g`.", _VALUE),
    ("RT309", "a different number of addresses", _ERROR,
     "All devices of a table have the same number of addresses.",
     "Write as many for each device.", _VALUE),
    ("RT310", "addresses of both families", _ERROR,
     "With several servers all device addresses are IPv4, or all are IPv6.",
     "Use addresses of one family.", _VALUE),
    ("RT311", "addresses of both families on a single server", _WARNING,
     "HCCL does not compare them on one server; it will as soon as there are two.",
     "Use addresses of one family.", ""),
    ("RT312", "host addresses of both families", _ERROR,
     "With several servers all host addresses are IPv4, or all are IPv6.",
     "Use addresses of one family.", _VALUE),
    ("RT313", "host_ip is not an address", _WARNING,
     "What reads it expects IPv4 or IPv6.",
     "Write the host's address, or leave the field out.", ""),
    # Ranks
    ("RT401", "a rank twice", _ERROR,
     "Each rank is one device.",
     "Number the devices from 0; `merge` does it.", _VALUE),
    ("RT402", "ranks with a gap", _ERROR,
     "Ranks go from 0 without a gap.",
     "Add the devices that are missing, or number from 0; `merge` does it.", _VALUE),
    ("RT403", "ranks of servers are interleaved", _ERROR,
     "All ranks of a server follow each other.",
     "Number the devices server by server; `merge` does it.", _VALUE),
    ("RT404", "servers are not ranked by their ids", _WARNING,
     "MindSpore asks for ranks in the dictionary order of server_id, where 10.0.0.10 is before "
     "10.0.0.2.",
     "Let `merge --sort` number them, if the order does not matter to you.", ""),
    # Super-pods
    ("RT501", "no super_device_id", _ERROR,
     "With a super_pod_list every device needs one.",
     "Add the SDID that `npu-smi info -t spod-info -i NPU -c CHIP` says.", _MISSING),
    ("RT502", "a super_device_id twice in one super-pod", _ERROR,
     "Devices of a super-pod are told apart by it.",
     "See which device has it: `npu-smi info -t spod-info -i NPU -c CHIP`.", _VALUE),
    ("RT503", "a super_device_id of more than 32 bits", _ERROR,
     "An SDID has 32 bits.",
     "Write what `npu-smi info -t spod-info -i NPU -c CHIP` says.", ""),
    ("RT504", "version 1.2 without super_pod_list", _WARNING,
     "HCCL then takes the servers as single ones, linked by device_ip.",
     'Add super_pod_list, or write version "1.0".', ""),
    ("RT505", "an empty super_pod_id", _ERROR,
     "Super-pods are told apart by it.",
     "Write the super-pod's id.", _VALUE),
    ("RT506", "a super_pod_id twice", _ERROR,
     "Super-pods are told apart by it.",
     "List each super-pod once, with all its servers.", _VALUE),
    ("RT507", "a server of a super-pod that is not listed", _ERROR,
     "Each server of a super-pod is one of server_list.",
     "Correct the server_id, or list the server.", _VALUE),
    ("RT508", "a server in no super-pod", _ERROR,
     "With a super_pod_list each server is in one.",
     "Name it in its super-pod.", _VALUE),
    ("RT509", "a server named twice in super-pods", _ERROR,
     "Each server is in one super-pod.",
     "Name it once.", _VALUE),
    ("RT510", "servers of a super-pod are not listed together", _ERROR,
     "All servers of a super-pod follow each other in server_list.",
     "List servers super-pod by super-pod, and number ranks anew.", ""),
    ("RT511", "super-pods of different sizes", _WARNING,
     "HCCL of 2024 asks for the same number of servers in each; later ones do not.",
     "Use as many servers of each super-pod.", ""),
    ("RT512", "super_pod_list in version 1.0", _WARNING,
     "Only version 1.2 has super-pods; it is ignored.",
     'Write version "1.2", or remove the list.', ""),
    # A table beside the node it names (check --live)
    ("RT601", "this node's server cannot be found in the table", _ERROR,
     "Only the devices of one server can be compared with what the tools of this node say.",
     "Name it: `--server ID`; or check the table on one of its servers.", ""),
    ("RT602", "npu-smi does not answer", _ERROR,
     "Nothing can be said of devices whose driver does not answer; a job would not start either.",
     "See what `npu-smi info` says, as the user who starts jobs.", ""),
    ("RT603", "this node is of another model", _ERROR,
     "The rules of one model say little of another's table.",
     "Leave --model out: the node's own is taken then.", ""),
    ("RT604", "logical ids instead of physical ones", _ERROR,
     "Device ids are physical, the N of /dev/davinciN; this container sees its devices renumbered "
     "from 0.",
     "Write the physical ids, as `muster devices` shows them, or `make` the table here.",
     f"{_VALUE}: \"ranktable config devId[x],but local devId[y]\""),
    ("RT605", "a device that is not on this node", _ERROR,
     "There is neither a /dev/davinciN nor a line of npu-smi for it, in this container at least.",
     "Use a device of this node, or give it to the container.", ""),
    ("RT606", "a lost device", _ERROR,
     "Its /dev/davinciN is there, and npu-smi does not list it: it has dropped off the bus.",
     "Use another device; this one needs a reset of the node, or a repair.", ""),
    ("RT607", "a faulty device", _ERROR,
     "By its health and error codes it is not to be given work.",
     "Use another device, or wait until `muster devices` calls it well.", ""),
    ("RT608", "a device to watch", _WARNING,
     "It may be given work, and says something that may come to more.",
     "See `muster devices`, and the board's log.", ""),
    ("RT609", "a device in use", _ERROR,
     "A device takes the ranks of one job; another process holds this one.",
     "Wait for that process, end it if it is a leftover, or use another device.",
     "EJ0001: HCCP cannot be started"),
    ("RT610", "a device that ASCEND_RT_VISIBLE_DEVICES leaves out", _WARNING,
     "A rank that is started with this environment cannot open it.",
     "Unset the variable, or add the device's logical id, ascending.", ""),
    ("RT611", "an address that another has, not this device", _ERROR,
     "When links are made, the address of the device's port must be that of the table.",
     "Write what `hccn_tool -i N -ip -g` says, or set the port's address.",
     "EI0014 when links are made"),
    ("RT612", "an address that the device does not have now", _ERROR,
     "hccn_tool says that the device's port has none.",
     "Set it: `hccn_tool -i N -ip -s …`, or `-cfg recovery` if /etc/hccn.conf has it.",
     "EI0014 when links are made"),
    ("RT613", "no address, neither in the table nor on the device", _WARNING,
     "One server of 910B or A3 can do without, unless HCCL_INTRA_ROCE_ENABLE is 1.",
     "Set it: `hccn_tool -i N -ip -s …`, if the job is to grow.", ""),
    ("RT614", "a port that is down, and several servers", _ERROR,
     "Servers, or super-pods, reach each other by these ports alone. One look cannot tell whether "
     "it is down for long.",
     "Look again after 20 seconds; then see cable, switch and `hccn_tool -i N -link_stat -g`.",
     "EI0006 after HCCL_CONNECT_TIMEOUT"),
    ("RT615", "a port that is down", _WARNING,
     "Devices of one server, or one super-pod, reach each other without it.",
     "See cable, switch and `hccn_tool -i N -link_stat -g`.", ""),
    ("RT616", "a super_device_id that is not the device's", _ERROR,
     "Devices of a super-pod are told apart by it, and found.",
     "Write the SDID that `npu-smi info -t spod-info -i NPU -c CHIP` says.", _VALUE),
    ("RT617", "a super_pod_id that is not the node's", _WARNING,
     "To HCCL it is a name. It does harm where servers of two super-pods come under one.",
     "Write the Super Pod ID that `npu-smi info -t spod-info -i NPU -c CHIP` says.", ""),
    ("RT618", "what could not be measured", _WARNING,
     "A tool is not there, failed, or said nothing that is understood: this was not compared.",
     "Ask the tool by hand; in containers mount /etc/hccn.conf and the driver's tools.", ""),
)  # fmt: skip

_DOUBT = (
    "RT001 RT002 RT003 RT005 RT006 RT007 RT008 RT101 RT102 RT103 RT104 RT111 RT113 RT114 RT121 "
    "RT122 RT124 RT125 RT201 RT203 RT204 RT213 RT505 RT506 RT507 RT508 RT509"
)

RULES: dict[str, Rule] = {
    code: Rule(code, title, levels, code in _DOUBT, why, fix, seen)
    for code, title, levels, why, fix, seen in _ROWS
}
"""All rules by code, in order."""
