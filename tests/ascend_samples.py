# ruff: noqa: E501 -- tables are as wide as the tool prints them
"""Output of npu-smi and hccn_tool as published: by the tool's source, and samples of users."""

from __future__ import annotations

_TITLE = "| npu-smi 23.0.rc3                 Version: 23.0.rc3                                             |"
_HEAD = """\
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |"""
_DASHES = "+" + "-" * 96 + "+"
_RULE = "+===========================+===============+====================================================+"
_PROCESSES = """\
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+"""

TABLE_910B = f"""\
{_DASHES}
{_TITLE}
+---------------------------+---------------+----------------------------------------------------+
{_HEAD}
{_RULE}
| 0     910B3               | OK            | 101.8       43                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3318 / 65536         |
{_RULE}
| 1     910B3               | Alarm         | 98.0        41                0    / 0             |
| 0                         | 0000:C2:00.0  | 12          0    / 0          41697/ 65536         |
{_RULE}
{_PROCESSES}
| No running processes found in NPU 0                                                            |
{_RULE}
| 1       0                 | 395864        | python                   | 38412                   |
{_RULE}
"""

TABLE_910A = f"""\
{_DASHES}
{_TITLE}
{_HEAD}
{_RULE}
| 0     910A                | OK            | 66.6        50                0    / 0             |
| 0                         | 0000:61:00.0  | 0           2280 / 15039      0    / 32768         |
{_RULE}
{_PROCESSES}
| No running processes found in NPU 0                                                            |
{_RULE}
[WARNING]The driver package may not be completely installed
"""

TABLE_A3 = f"""\
{_DASHES}
{_TITLE}
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
{_RULE}
| 0     Ascend910           | OK            | 165.4       37                0    / 0             |
| 0     0                   | 0000:9D:00.0  | 0           0    / 0          3173 / 65536         |
{_DASHES}
| 0     Ascend910           | OK            | -           37                0    / 0             |
| 1     1                   | 0000:9F:00.0  | 0           0    / 0          2880 / 65536         |
{_RULE}
{_PROCESSES}
| No running processes found in NPU 0                                                            |
{_RULE}
"""

TABLE_WIDE = """\
+-------------------------------------------------------------------------------------------------+
| npu-smi 26.0.rc1                 Version: 26.0.rc1                                              |
+---------------------------+---------------+-----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page) |
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)         |
+===========================+===============+=====================================================+
| 4     910B4               | Warning       | 95.1        44                0     / 0             |
| 0                         | 0000:01:00.0  | 0           0    / 0          2871 / 32768          |
+===========================+===============+=====================================================+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)       |
+===========================+===============+=====================================================+
| 4       0                 | 77            | my trainer               | 12                       |
+===========================+===============+=====================================================+
"""

TABLE_OLD = """\
+-------------------------------------------------------------------------------------------+
| npu-smi 23.0.rc1                 Version: 23.0.rc1                                        |
+----------------------+---------------+----------------------------------------------------+
| NPU   Name           | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                 | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+======================+===============+====================================================+
| 0     910ProB        | OK            | 70.1        33                0    / 0             |
| 0                    | 0000:C1:00.0  | 0           1198 / 15137      29711/ 32768         |
+======================+===============+====================================================+

+----------------------+---------------+----------------------------------------------------+
| NPU     Chip         | Process id    | Process name             | Process memory(MB)      |
+======================+===============+====================================================+
| 0       0            | 55115         |                          | 29784                   |
+======================+===============+====================================================+
"""

TABLE_CONTAINER_PIDS = f"""\
{_HEAD}
{_RULE}
| 0     910B3               | OK            | 101.8       43                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3318 / 65536         |
{_RULE}
| NPU     Chip       | Process id    | Process name| Process memory(MB) |Process id in container|
{_RULE}
| 0       0          | 4242          | python      | 1024               | 17                    |
{_RULE}
"""

MAPPING_910B = """\
\tNPU ID                         Chip ID                        Chip Logic ID                  Chip Name
\t0                              0                              0                              Ascend 910B3
\t0                              1                              -                              Mcu
\t1                              0                              1                              Ascend 910B3
\t1                              1                              -                              Mcu
"""

MAPPING_A3 = """\
\tNPU ID                         Chip ID                        Chip Logic ID                  Chip Phy-ID                    Chip Name
\t0                              0                              0                              0                              Ascend910
\t0                              1                              1                              1                              Ascend910
\t0                              2                              -                              -                              Mcu
"""

LISTING = """\
\tTotal Count                    : 8

\tNPU ID                         : 0
\tChip Count                     : 1
"""

HEALTH_OK = """\
\tHealth Status                  : OK
\tError Code                     : NA
\tError Information              : NA
"""

HEALTH_ALARM = f"""\
\tHealth Status                  : Alarm
\tError Code                     : A4025021 8C03A000 8C084E00
\tError Information              : node type=SoC, sensor type=Heartbeat
\t{"":<30} : the second line goes on
"""

HEALTH_SUMMARY = """\
\tNPU ID                         : 0
\tChip Count                     : 1
\tHealth                         : OK
\tChip ID                        : 0
"""

TOPOLOGY_910B = """\
\t   NPU0       NPU1       NPU2       CPU Affinity
\tNPU0       X          HCCS       HCCS       144-167
\tNPU1       HCCS       X          HCCS       144-167
\tNPU2       HCCS       HCCS       X          0-63,128-191

Legend:

\tX    = Self
"""
