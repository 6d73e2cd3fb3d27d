"""What YAML 1.1 makes of a value that looks like something else, and what to write instead."""

from __future__ import annotations

import re

from orchestrator.jobfile.nodes import ListNode, MapNode, Node, RefusedNode, ScalarNode
from orchestrator.jobfile.problems import quoted, shortened

PLAIN_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
PLAIN_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_LONGEST_NUMBER = 40

# (kind that YAML 1.1 gives the text, what the text looks like, what to say about it)
_TRAPS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("int", re.compile(r"[^:]*:.*"), "YAML 1.1 reads {0} as a number to base 60: put it in quotes"),
    ("float", re.compile(r"[^:]*:.*"), "YAML 1.1 reads {0} as a number to base 60: quote it"),
    (
        "int",
        re.compile(r"[-+]?0[0-7_]+"),
        "YAML 1.1 reads {0} as octal: leave the zeros out, or put it in quotes if it is text",
    ),
    ("int", re.compile(r"[-+]?0[bx].*"), "YAML 1.1 reads {0} as a number: write it in decimal"),
    ("int", re.compile(r".*_.*"), "write the number without underscores"),
    ("float", re.compile(r".*_.*"), "write the number without underscores"),
    (
        "bool",
        re.compile(r"(?i:yes|no|on|off)"),
        "YAML 1.1 reads {0} as a boolean: put it in quotes if it is text, else write true or false",
    ),
    ("timestamp", re.compile(r".*"), "YAML 1.1 reads {0} as a date: put it in quotes"),
    (
        "str",
        re.compile(r"[-+]?[0-9.]+[eE][-+]?[0-9]+"),
        "YAML 1.1 reads {0} as text: write {1}",
    ),
    ("str", re.compile(r"[-+]?0[0-9]+"), "leave the leading zeros out"),
)

_CALLED = {
    "int": "a number",
    "float": "a number",
    "bool": "a boolean",
    "timestamp": "a date",
}


def found(node: Node) -> str:
    """What stands there, in words for a message."""
    if isinstance(node, RefusedNode):
        return "a value that was refused"
    if isinstance(node, MapNode):
        return "a mapping"
    if isinstance(node, ListNode):
        return "a list"
    if node.kind == "null":
        return f"nothing ({shortened(node.text)})" if node.text else "nothing"
    if node.kind == "str":
        return quoted(node.text)
    return f"{shortened(node.text)} ({_CALLED[node.kind]})"


def trap(node: Node) -> str:
    """The YAML 1.1 trap that the value is caught in, and the way out; empty if in none."""
    if not isinstance(node, ScalarNode) or not node.plain:
        return ""
    for kind, looks, words in _TRAPS:
        if node.kind == kind and looks.fullmatch(node.text):
            return words.format(shortened(node.text), _with_point(shortened(node.text)))
    return ""


def _with_point(text: str) -> str:
    """`1e-3` in the one way in which YAML 1.1 takes it for a number: `1.0e-3`."""
    mantissa, _, exponent = text.replace("E", "e").partition("e")
    point = "" if "." in mantissa else ".0"
    sign = "" if exponent[:1] in ("-", "+") else "+"
    return f"{mantissa}{point}e{sign}{exponent}"


def as_text_hint(node: Node) -> str:
    """What to write where text is wanted and YAML sees something else."""
    if isinstance(node, ScalarNode) and node.kind in ("int", "float"):
        return trap(node) or f'put it in quotes: "{shortened(node.text)}"'
    return trap(node)


def same_number(node: ScalarNode) -> bool:
    """Whether YAML 1.1 and everyone else read the same number in the text as it is written."""
    return (
        node.kind in ("int", "float")
        and len(node.text) <= _LONGEST_NUMBER
        and (PLAIN_INTEGER if node.kind == "int" else PLAIN_NUMBER).fullmatch(node.text) is not None
    )


def survives_as_number(node: ScalarNode) -> bool:
    """Whether a program that reads the number and prints it gives the same text: not 1.10."""
    if not same_number(node):
        return False
    return node.kind == "int" or str(float(node.text)) == node.text
