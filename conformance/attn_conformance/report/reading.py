"""Reading: a result file from disk, as valid as its schema says."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from attn_conformance.results import SCHEMA

LONGEST = 200
"""Characters of a complaint about a value: whatever else the value holds, its beginning tells which it is."""

ANEW = "write it anew with `attn-conformance run TARGET --json FILE`"


def read(path: str | Path) -> dict[str, Any]:
    """The data of a result file, as `--json` writes it and schema/result-1.json describes it.

    ValueError if it cannot be read, is not JSON or does not follow the schema: it names the file, the place in it and
    what is wrong there, and says what to do.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: the file cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: the file is nested too deeply to be a result file; {ANEW}") from error
    except ValueError as error:  # no UTF-8, no JSON, or a number of more digits than Python takes
        raise ValueError(f"{path}: the file is not JSON: {error}; {ANEW}") from error
    if not isinstance(data, dict) or "schema" not in data:
        raise ValueError(f"{path}: this is no result file: it has no member 'schema'; {ANEW}")
    version = data["schema"]
    if isinstance(version, bool) or version != SCHEMA:
        newer = isinstance(version, int) and version > SCHEMA
        remedy = "install a newer attn-conformance" if newer else ANEW
        raise ValueError(
            f"{path}: schema is {_short(repr(version))}, and this version reads {SCHEMA}; {remedy}"
        )
    fault = best_match(_validator().iter_errors(data))
    if fault is not None:
        suite = _short(repr(data.get("suite", "of no version")))
        raise ValueError(
            f"{path}: {_place(fault.absolute_path)}: {_short(fault.message)}; {ANEW}, or install the suite that wrote "
            f"it ({suite})"
        )
    return data


@cache
def _validator() -> Draft202012Validator:
    schema = files("attn_conformance").joinpath("schema", f"result-{SCHEMA}.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(schema))


def _place(path: Any) -> str:
    """Where in the file: results[0].requirements.MASK-1.status."""
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return _short(place.removeprefix(".")) or "at the top"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
