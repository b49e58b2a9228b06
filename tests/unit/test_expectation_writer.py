"""The file of expected failures, updated from a result: what is added, what goes, what nobody may touch."""

import json
import os
import sys
from datetime import date

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attn_conformance.expectation_file import UNEXPLAINED, Changes, written
from attn_conformance.expectations import Expectation, applied, expectations
from attn_conformance.results import Report, Row, to_json
from attn_conformance.runner import run
from attn_conformance.standing import BACK
from attn_conformance.targets import subject

TODAY = date(2030, 6, 1)

FILE = '''\
# Header of the file.
[[expected]]   # beside the header
requirement = "MASK-1"  # inline
reason = "r"

# above MASK-2
[[expected]]
requirement = "MASK-2"
# inside MASK-2
reason = """two
[[expected]]
lines"""
url = "https://example.org/2"

# above MASK-3

[[expected]]
reason = 's'
requirement = "MASK-3"
script = "m.py"
expires = 2030-05-31
# the end
'''


def result(*rows, targets=("t",)):
    reports = [
        Report(t, "kernel", "kernel", "numpy", {}, 0, "smoke", {r.requirement: r for r in rows}, 1.0)
        for t in targets
    ]
    return json.loads(json.dumps(to_json(reports, suite="0", spec="1")))


def failed(name, message="off by 3\nfirst [0]", **more):
    return Row(name, more.pop("level", "must"), "failed", message=message, **more)


def passed(name):
    return Row(name, "must", "passed")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "expected.toml"
    path.write_text(FILE)
    return path


def test_a_new_file_lists_each_failure_with_a_reason_to_be_replaced(tmp_path):
    path = tmp_path / "new.toml"
    rows = [
        failed("MASK-1"),
        passed("MASK-2"),
        failed("NUM-4", level="should"),
        Row("EQ-3", "must", "error", message="the suite itself failed"),
        Row("MASK-9", "observed", "observed", observation="raises"),
        failed("EQ-5", "expected to fail: heads are tiled (https://e.org)\noff", expected=True),
    ]
    changes = written(path, result(*rows), TODAY)
    assert changes == Changes(added=("MASK-1", "NUM-4", "EQ-5"))
    assert path.read_text() == (
        '[[expected]]\nrequirement = "MASK-1"\nreason = "unexplained: off by 3"\n\n'
        '[[expected]]\nrequirement = "NUM-4"\nreason = "unexplained: off by 3"\n\n'
        '[[expected]]\nrequirement = "EQ-5"\nreason = "heads are tiled (https://e.org)"\n'
    )
    assert changes.describe() == ["added, each with a reason for you to replace: MASK-1, NUM-4, EQ-5"]


def test_entries_that_passed_go_and_everything_else_stays_to_the_letter(file):
    changes = written(file, result(failed("MASK-1"), passed("MASK-2"), failed("MASK-3")), TODAY)
    assert changes == Changes(removed=("MASK-2",), kept=("MASK-1", "MASK-3"), expired=("MASK-3",))
    start = FILE.index("[[expected]]\nrequirement")
    assert file.read_text() == FILE[:start] + FILE[FILE.index("# above MASK-3") :]


def test_the_first_and_the_last_entry_leave_their_comments(file):
    written(file, result(passed("MASK-1"), passed("MASK-3"), failed("EQ-3", "x")), TODAY)
    start, end = FILE.index("# above MASK-2"), FILE.index("[[expected]]\nreason")
    added = '\n[[expected]]\nrequirement = "EQ-3"\nreason = "unexplained: x"\n'
    assert file.read_text() == "# Header of the file.\n" + FILE[start:end] + "# the end\n" + added


def test_a_file_that_loses_its_last_entry_can_be_added_to(file):
    written(file, result(*map(passed, ("MASK-1", "MASK-2", "MASK-3"))), TODAY)
    comments = "# Header of the file.\n# above MASK-2\n# above MASK-3\n\n# the end\n"
    assert file.read_text() == comments
    assert expectations(file) == {}
    assert written(file, result(failed("MASK-1")), TODAY) == Changes(added=("MASK-1",))
    assert file.read_text().startswith(comments + "\n[[expected]]")


def test_what_was_not_judged_is_left_and_said(file):
    before = os.stat(file)
    skipped = Row("MASK-1", "must", "skipped", message="not asked for (--only)")
    changes = written(file, result(skipped, Row("MASK-2", "observed", "observed")), TODAY)
    assert changes == Changes(left=("MASK-1", "MASK-2", "MASK-3"))
    assert "did not judge" in changes.describe()[0]
    assert os.stat(file) == before  # not even written again


def test_a_row_that_passed_unexpectedly_has_passed_and_an_error_keeps_its_entry(file):
    report = Report("t", "kernel", "kernel", "numpy", {}, 0, "smoke", {}, 1.0)
    rows = {"MASK-1": passed("MASK-1"), "MASK-2": Row("MASK-2", "must", "error", message="e")}
    judged = applied(Report(**{**vars(report), "rows": rows}), expectations(file), TODAY)
    assert judged.rows["MASK-1"].unexpected
    changes = written(file, to_json([judged], suite="0", spec="1"), TODAY)
    assert (changes.removed, changes.kept, changes.left) == (("MASK-1",), ("MASK-2",), ("MASK-3",))


def test_a_run_is_as_expected_once_its_failures_are_written(tmp_path):
    path = tmp_path / "expected.toml"
    found, _ = subject("mutant:top-left-triangle")
    report = run(found, effort="smoke", only=("CAUSAL",))
    written(path, to_json([report], suite="0", spec="1"), TODAY)
    assert report.verdict == "fails"
    assert applied(report, expectations(path), TODAY).verdict == "expected-failures"
    assert expectations(path)["CAUSAL-3"].reason.startswith(UNEXPLAINED + "differs from the reference")


def test_one_of_several_targets_must_be_chosen(tmp_path):
    path = tmp_path / "expected.toml"
    several = result(failed("MASK-1"), targets=("a", "b"))
    with pytest.raises(ValueError, match="several targets; choose one of a, b"):
        written(path, several, TODAY)
    with pytest.raises(ValueError, match="no target 'c'; it has a, b"):
        written(path, several, TODAY, target="c")
    with pytest.raises(ValueError, match="several results of 'a'; run it once"):
        written(path, result(failed("MASK-1"), targets=("a", "a")), TODAY, target="a")
    assert not path.exists()
    assert written(path, several, TODAY, target="b").added == ("MASK-1",)


def test_a_requirement_of_another_version_changes_nothing(file):
    data = result(failed("MASK-1"))
    rows = data["results"][0]["requirements"]
    rows["NEW-1"] = rows["MASK-1"]
    with pytest.raises(ValueError, match="NEW-1"):
        written(file, data, TODAY)
    assert file.read_text() == FILE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("expected = [{requirement = 'MASK-2', reason = 'r'}]", "inline; write each under a line"),
        ("[[expected]]\nrequirement = 'MASK-2'", "reason is missing"),
    ],
)
def test_a_file_that_cannot_be_updated_is_left(file, text, message):
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        written(file, result(failed("MASK-1")), TODAY)
    assert file.read_text() == text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.text())
def test_whatever_a_message_holds_the_file_can_be_read(tmp_path, message):
    path = tmp_path / "expected.toml"
    path.unlink(missing_ok=True)
    written(path, result(failed("MASK-1", message)), TODAY)
    (entry,) = expectations(path).values()
    assert entry.reason.startswith(UNEXPLAINED)
    assert written(path, result(passed("MASK-1")), TODAY).removed == ("MASK-1",)
    assert path.read_text() == ""


def test_links_and_permissions_stay_and_nothing_is_left_behind(tmp_path, file):
    file.chmod(0o640)
    link = tmp_path / "link.toml"
    link.symlink_to(file)
    written(link, result(passed("MASK-1")), TODAY)
    assert link.is_symlink()
    assert expectations(file).keys() == {"MASK-2", "MASK-3"}
    assert file.stat().st_mode & 0o777 == 0o640
    assert {path.name for path in tmp_path.iterdir()} == {"expected.toml", "link.toml"}


def test_without_tomlkit_it_says_which_extra_has_it(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "tomlkit", None)
    with pytest.raises(ValueError, match=r"attn-conformance\[report\]"):
        written(file, result(passed("MASK-1")), TODAY)
    assert expectations(file)["MASK-1"] == Expectation("MASK-1", "r")


def test_rows_that_stand_back_are_added_since_they_no_longer_do_behind_what_is_expected(tmp_path):
    behind = Row("MASK-1", "must", "skipped", message=BACK.format("EQ-3"))
    found = written(tmp_path / "expected.toml", result(failed("EQ-3"), behind), TODAY)
    assert found.added == ("EQ-3", "MASK-1")
