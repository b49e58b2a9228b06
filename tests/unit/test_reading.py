from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attn_conformance.report.reading import LONGEST, read

BASELINES = sorted((Path(__file__).parents[2] / "docs" / "baselines").glob("*.json"))
REAL: dict[str, Any] = json.loads(BASELINES[0].read_text(encoding="utf-8"))

Change = Callable[[dict[str, Any]], Any]


def refusal(tmp_path: Path, content: str | bytes) -> str:
    """What is said of a file with this content; the file itself is named first."""
    path = tmp_path / "result.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: ") as raised:
        read(path)
    return str(raised.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.stem)
def test_a_file_that_a_run_wrote_is_read_as_it_is(path: Path) -> None:
    assert read(path) == json.loads(path.read_text(encoding="utf-8"))
    assert read(str(path)) == read(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the file is not JSON: Expecting value: line 1 column 1"),
        ("{'schema': 1}", "the file is not JSON: Expecting property name"),
        (b"\xff\xfe{}", "the file is not JSON: 'utf-8' codec can't decode"),
        ("[" * 200_000, "the file is nested too deeply"),
        ("9" * 5000, "the file is not JSON: Exceeds the limit"),
        ("[]", "this is no result file: it has no member 'schema'"),
        ('{"results": []}', "this is no result file: it has no member 'schema'"),
    ],
)
def test_what_is_no_result_file_is_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    what = refusal(tmp_path, content)
    assert what.startswith(said)
    assert what.endswith("write it anew with `attn-conformance run TARGET --json FILE`")


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        (2, "install a newer attn-conformance"),
        (0, "write it anew"),
        (True, "write it anew"),
        ("1", "write it anew"),
    ],
)
def test_another_version_of_the_format_is_refused(tmp_path: Path, version: object, remedy: str) -> None:
    what = refusal(tmp_path, json.dumps({**REAL, "schema": version}))
    assert what.startswith(f"schema is {version!r}, and this version reads 1; {remedy}")


def row(data: dict[str, Any]) -> dict[str, Any]:
    return data["results"][0]["requirements"]["MASK-1"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("seed"), "at the top: 'seed' is a required property"),
        (lambda d: d.update(effort="much"), "effort: 'much' is not one of"),
        (
            lambda d: row(d).update(status="fine"),
            "results[0].requirements.MASK-1.status: 'fine' is not one of",
        ),
        (lambda d: row(d).update(examples=-1), "results[0].requirements.MASK-1.examples: -1 is less than"),
        (lambda d: row(d).pop("message"), "results[0].requirements.MASK-1: 'message' is a required property"),
        (lambda d: row(d).update(mood="good"), "results[0].requirements.MASK-1: Additional properties"),
        (lambda d: d["results"][0].update(verdict="x" * 9999), "results[0].verdict: 'xxx"),
    ],
)
def test_what_breaks_the_schema_is_named_with_its_place_and_a_remedy(
    tmp_path: Path, change: Change, said: str
) -> None:
    data = json.loads(json.dumps(REAL))
    change(data)
    what = refusal(tmp_path, json.dumps(data))
    assert what.startswith(said)
    assert "write it anew with `attn-conformance run TARGET --json FILE`, or install the suite" in what
    assert REAL["suite"] in what
    assert len(what) < 2 * LONGEST


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing\.json: the file cannot be read: No such file"):
        read(tmp_path / "missing.json")
    with pytest.raises(ValueError, match="the file cannot be read: Is a directory"):
        read(tmp_path)
