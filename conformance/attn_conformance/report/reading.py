"""Reading: files of results and of benchmarks from disk, as valid as their schemas say."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from attn_conformance.bench.plain import plain
from attn_conformance.bench.results import SCHEMA as BENCH_SCHEMA
from attn_conformance.bench.results import Benchmarks
from attn_conformance.results import SCHEMA

LONGEST = 200
"""Characters of a complaint about a value: whatever else the value holds, its beginning tells which it is."""

ANEW = "write it anew with `attn-conformance run TARGET --json FILE`"

BENCH_ANEW = "write it anew with `attn-conformance bench TARGET --json FILE`"


def read_any(path: str | Path) -> dict[str, Any] | Benchmarks:
    """What a file holds: the data of a result file, as of `read`, or the benchmarks of another."""
    data = parsed(path)
    return _benchmarks(path, data) if isinstance(data, dict) and "bench" in data else _result(path, data)


def read(path: str | Path) -> dict[str, Any]:
    """The data of a result file, as `--json` writes it and schema/result-1.json describes it.

    ValueError if it cannot be read, is not JSON or does not follow the schema: it names the file, the place in it and
    what is wrong there, and says what to do.
    """
    return _result(path, parsed(path))


def read_benchmarks(path: str | Path) -> Benchmarks:
    """The benchmarks of a file that `bench --json` wrote and schema/bench-1.json describes; ValueError as `read`."""
    return _benchmarks(path, parsed(path))


def parsed(path: str | Path) -> Any:
    """The JSON of a file, ValueError if there is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: the file cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: the file is nested too deeply to be a result file; {ANEW}") from error
    except ValueError as error:  # no UTF-8, no JSON, or a number of more digits than Python takes
        raise ValueError(f"{path}: the file is not JSON: {error}; {ANEW}") from error


def _benchmarks(path: str | Path, data: Any) -> Benchmarks:
    if not isinstance(data, dict) or "bench" not in data:
        raise ValueError(f"{path}: this is no file of benchmarks: it has no member 'bench'; {BENCH_ANEW}")
    _versioned(path, data, "bench", BENCH_SCHEMA, BENCH_ANEW)
    _valid(path, data, f"bench-{BENCH_SCHEMA}.json", BENCH_ANEW)
    if plain(data) != data:  # Python reads NaN and Infinity, which no JSON has
        raise ValueError(f"{path}: some number is none, or infinite; {BENCH_ANEW}")
    try:
        return Benchmarks.from_json(data)
    except ValueError as error:
        raise ValueError(f"{path}: {_short(str(error))}; {BENCH_ANEW}") from error


def _result(path: str | Path, data: Any) -> dict[str, Any]:
    if not isinstance(data, dict) or "schema" not in data:
        raise ValueError(f"{path}: this is no result file: it has no member 'schema'; {ANEW}")
    _versioned(path, data, "schema", SCHEMA, ANEW)
    _valid(path, data, f"result-{SCHEMA}.json", ANEW)
    return data


def _versioned(path: str | Path, data: dict[str, Any], member: str, known: int, anew: str) -> None:
    version = data[member]
    if isinstance(version, bool) or version != known:
        newer = isinstance(version, int) and version > known
        remedy = "install a newer attn-conformance" if newer else anew
        raise ValueError(
            f"{path}: {member} is {_short(repr(version))}, and this version reads {known}; {remedy}"
        )


def _valid(path: str | Path, data: dict[str, Any], schema: str, anew: str) -> None:
    fault = best_match(_validator(schema).iter_errors(data))
    if fault is not None:
        suite = _short(repr(data.get("suite", "of no version")))
        raise ValueError(
            f"{path}: {_place(fault.absolute_path)}: {_short(fault.message)}; {anew}, or install the suite that wrote "
            f"it ({suite})"
        )


@cache
def _validator(name: str) -> Draft202012Validator:
    schema = files("attn_conformance").joinpath("schema", name).read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(schema))


def _place(path: Any) -> str:
    """Where in the file: results[0].requirements.MASK-1.status."""
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return _short(place.removeprefix(".")) or "at the top"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
