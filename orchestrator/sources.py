"""Has the job's code changed? A digest of the sources that its ranks import."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from orchestrator.spec import JobSpec

_FILES_LIMIT = 5000
_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})


def digest(spec: JobSpec) -> str:
    """The sha256 over names and contents of the job's own sources; empty if none are known.

    Of a `module:` its top-level package, as found from the working directory; of a
    `command:` the scripts that it names and their neighbours.
    """
    files = _module_files(spec) if spec.module is not None else _script_files(spec)
    if not files:
        return ""
    total = hashlib.sha256()
    for path in files:
        total.update(str(path).encode() + b"\0")
        try:
            total.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError:
            total.update(b"unreadable")
    return total.hexdigest()


def _module_files(spec: JobSpec) -> list[Path]:
    top = str(spec.module).split(".")[0]
    for entry in (str(spec.workdir), *sys.path):
        package = Path(entry or ".") / top
        if package.is_dir():
            return _python_files(package)
        if package.with_suffix(".py").is_file():
            return [package.with_suffix(".py")]
    return []


def _python_files(package: Path) -> list[Path]:
    found = [
        path
        for path in package.rglob("*.py")
        if not _SKIPPED.intersection(path.relative_to(package).parts)
        and not path.name.startswith(".")
    ]
    return sorted(found)[:_FILES_LIMIT]


def _script_files(spec: JobSpec) -> list[Path]:
    scripts = [spec.workdir / part for part in spec.command or () if part.endswith(".py")]
    neighbours = {path for script in scripts for path in script.parent.glob("*.py")}
    return sorted(neighbours)[:_FILES_LIMIT]
