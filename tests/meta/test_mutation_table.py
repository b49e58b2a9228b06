"""The table of mechanical mutants that live fits the code, and the script's files and tests exist."""

import ast
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "selftest" / "mutation.toml"
ENTRIES = tomllib.loads(TABLE.read_text(encoding="utf-8"))["equivalent"]


SETTINGS = runpy.run_path(str(ROOT / ".ci" / "mutation" / "settings.py"))


def lines_of(file):
    return [line.strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    "entry", ENTRIES, ids=lambda entry: f"{Path(entry['file']).stem}: {entry['before'][:40]}"
)
def test_an_entry_is_about_lines_of_the_code_and_says_why(entry):
    assert entry.keys() == {"file", "before", "after", "reason"}
    assert entry["file"] in SETTINGS["JUDGED"].keys() | SETTINGS["SUBJECTS"].keys()
    lines, before = lines_of(entry["file"]), entry["before"].split("\n")
    assert before in [lines[i : i + len(before)] for i in range(len(lines))]
    assert entry["after"]
    assert entry["after"] == "any" or entry["before"] not in entry["after"]
    assert len(entry["reason"].split()) >= 5
    assert entry["reason"].endswith(".")


def test_no_mutant_is_explained_twice():
    every = [
        (entry["file"], entry["before"], after)
        for entry in ENTRIES
        for after in (["any"] if entry["after"] == "any" else entry["after"])
    ]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("file", [*SETTINGS["JUDGED"], *SETTINGS["SUBJECTS"]])
def test_what_is_mutated_exists_with_its_tests(file):
    assert (ROOT / file).is_file()
    for name in SETTINGS["JUDGED"].get(file, ()):
        assert (ROOT / "tests" / "unit" / f"test_{name}.py").is_file(), name


def test_what_is_left_out_of_a_subject_is_not_used_by_it():
    for file, (objects, unused) in SETTINGS["SUBJECTS"].items():
        defined = {}
        for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
            target = getattr(node, "name", getattr(getattr(node, "target", None), "id", None))
            defined[target] = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        used, waiting = set(), list(objects)
        while waiting:
            one = waiting.pop()
            if one in defined and one not in used:
                used.add(one)
                waiting += defined[one]
        assert objects.keys() <= used
        assert not used & set(unused)
        assert set(unused) <= defined.keys()
