"""The frame that the files of all self-tests share: which self-test wrote them, in which version."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

SCHEMA = 1
"""Version of these files: they grow by additions alone."""

Result = TypeVar("Result")


def framed(selftest: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a file with this content."""
    return {"selftest": selftest, "schema": SCHEMA, **content}


def unframed(
    selftest: str,
    data: Mapping[str, Any],
    made: Callable[[dict[str, Any]], Result],
    *,
    derived: Collection[str] = (),
) -> Result:
    """What `made` makes of the content of a file, without what it has derived.

    ValueError for data of another self-test or version, or if `made` finds fields missing or unknown.
    """
    if (data.get("selftest"), data.get("schema")) != (selftest, SCHEMA):
        raise ValueError(f"not a file of {selftest}, schema {SCHEMA}")
    try:
        return made({n: value for n, value in data.items() if n not in ("selftest", "schema", *derived)})
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a file of {selftest}: {error}") from error
