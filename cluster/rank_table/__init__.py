"""HCCL rank tables: made, checked, merged and compared. No device is needed.

`matching` and `live` hold a table beside a report of a node, which is made elsewhere.
"""

from cluster.rank_table.check import check_file, check_table, check_text
from cluster.rank_table.comparing import Difference, differences
from cluster.rank_table.findings import Checked, Finding
from cluster.rank_table.making import from_placement, make, model_of
from cluster.rank_table.merging import merge
from cluster.rank_table.rules import RULES, Rule, Severity
from cluster.rank_table.values import Model, RankTable, ServerFacts, TableDevice, TableServer
from cluster.rank_table.writing import digest_of, file_name, text_of

__all__ = [
    "RULES",
    "Checked",
    "Difference",
    "Finding",
    "Model",
    "RankTable",
    "Rule",
    "ServerFacts",
    "Severity",
    "TableDevice",
    "TableServer",
    "check_file",
    "check_table",
    "check_text",
    "differences",
    "digest_of",
    "file_name",
    "from_placement",
    "make",
    "merge",
    "model_of",
    "text_of",
]
