"""Files that are replaced whole: whoever reads one sees the old text or the new, never half of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path


def put(path: Path, text: str, accepted: Callable[[Path], object] = lambda file: None) -> None:
    """Write a UTF-8 file by way of another one beside it, which takes its place; OSError as of any write.

    accepted: called with that other file before; what it raises leaves everything as it was. A link stays one, and a
    file that exists keeps its permissions.
    """
    path = path.resolve()
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with beside.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
        accepted(beside)
        if path.exists():
            beside.chmod(path.stat().st_mode & 0o7777)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
