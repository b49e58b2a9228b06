"""The suite inside pytest, as a stranger meets it: a folder, an implementation, three lines or none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

RIGHT = """
from attn_reference import attention
"""
PLAIN = (Path(__file__).parents[2] / "examples" / "numpy_kernel.py").read_text(encoding="utf-8")
WRONG = """
from mypkg.plain import attention as plain

def attention(q, k, v, mask=None, is_causal=False):
    mask = ~mask if mask is not None and mask.dtype == bool else mask
    return plain(q, k, v, mask, is_causal)
"""
RIGHT_CLASS = """
from attn_reference import MultiHeadAttention
"""
WRONG_CLASS = """
import attn_flash

class MultiHeadAttention(attn_flash.MultiHeadAttention):
    def forward(self, x, xa=None, mask=None, kv_cache=None):
        return super().forward(x, xa, mask, kv_cache) + 1
"""
RAISING_CLASS = """
import attn_flash

class MultiHeadAttention(attn_flash.MultiHeadAttention):
    def forward(self, x, xa=None, mask=None, kv_cache=None):
        if x.shape[1] != 3:
            raise RuntimeError("three at a time")
        return super().forward(x, xa, mask, kv_cache)
"""
CRASHING_CLASS = """
import ctypes
import attn_flash

class MultiHeadAttention(attn_flash.MultiHeadAttention):
    def forward(self, x, xa=None, mask=None, kv_cache=None):
        return super().forward(x, xa, mask, kv_cache) if mask is None else ctypes.string_at(0)
"""
AT_HOME = """
import multiprocessing
from mypkg.plain import attention as plain

def attention(q, k, v, mask=None, is_causal=False):
    assert multiprocessing.parent_process() is None, "not at home"
    return plain(q, k, v, mask, is_causal)
"""
TEST = """
from attn_conformance import conformance

@conformance("{target}", effort="smoke", only=[{only}], {more})
def test_conformance(requirement):
    assert requirement.text
    assert requirement.level in ("must", "should", "observed")
    requirement.verify()
"""
HIDES_NAN = """
import numpy as np
from mypkg.plain import attention as plain

def attention(q, k, v, mask=None, is_causal=False):
    return plain(np.nan_to_num(q), k, v, mask, is_causal)
"""


@pytest.fixture
def folder(pytester: pytest.Pytester) -> pytest.Pytester:
    package = pytester.mkpydir("mypkg")
    for name, source in {
        "plain": PLAIN,
        "right": RIGHT,
        "wrong": WRONG,
        "right_class": RIGHT_CLASS,
        "wrong_class": WRONG_CLASS,
        "crashing_class": CRASHING_CLASS,
        "raising_class": RAISING_CLASS,
        "at_home": AT_HOME,
        "hides_nan": HIDES_NAN,
    }.items():
        (package / f"{name}.py").write_text(source, encoding="utf-8")
    return pytester


def asked(
    folder: pytest.Pytester, target: str, only: str, *arguments: str, more: str = ""
) -> pytest.RunResult:
    named = ", ".join(repr(name) for name in only.split(","))
    folder.makepyfile(test_it=TEST.format(target=target, only=named, more=more))
    return folder.runpytest_subprocess("-W", "error", "--strict-markers", "-rA", *arguments)


def suite(folder: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    command = ("--pyargs", "attn_conformance.suite", "--attn-effort", "smoke", "-rA", *arguments)
    return folder.runpytest_subprocess(*command)


def test_a_right_class_passes_with_an_id_for_each_requirement(folder: pytest.Pytester) -> None:
    result = asked(folder, "mypkg.right_class:MultiHeadAttention", "MASK-1,CTOR-1", "-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["test_it.py::test_conformance[[]MASK-1[]] PASSED*"])


def test_a_wrong_class_fails_with_the_story_and_without_our_traceback(folder: pytest.Pytester) -> None:
    result = asked(folder, "mypkg.wrong_class:MultiHeadAttention", "EQ-1,CTOR-1")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "EQ-1 failed (must): *",
            "  smallest case: forward, self-attention, B=1 *",
            "  what happened: differs from the reference: *",
            "  found after * example*; again: attn-conformance run mypkg.wrong_class:MultiHeadAttention *",
        ]
    )
    assert "asking.py" not in result.stdout.str()
    headline = [line for line in result.outlines if line.startswith("FAILED ")]
    assert len(headline) == 1
    assert (
        "[EQ-1] - Failed: forward: differs" in headline[0] or "[EQ-1] - Failed: differs from" in headline[0]
    )


def test_each_test_is_judged_alone_and_says_on_what_it_rests(
    folder: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)  # there pytest's summary shows messages once more, and whole
    result = asked(folder, "mutant:no-scale", "EQ-3,MASK-1")
    result.assert_outcomes(failed=2)
    told = [line for line in result.outlines if "rests on something simpler" in line]
    assert len(told) == 1
    assert "look at EQ-3" in told[0]


def test_scripts_are_shown_once_for_what_fails_alike(
    folder: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)  # there pytest's summary shows messages once more, and whole
    result = asked(folder, "mypkg.raising_class:MultiHeadAttention", "EQ-1,EQ-2,OUT-2")
    result.assert_outcomes(failed=3)
    output = result.stdout.str()
    assert output.count("sys.excepthook = ") == 1
    assert output.count("\n  script: python .attn-conformance/scripts/") == 3


def test_what_the_settings_of_pytest_made_importable_is_found_again(folder: pytest.Pytester) -> None:
    (folder.path / "src").mkdir()
    (folder.path / "mypkg").rename(folder.path / "src" / "mypkg")
    folder.makepyprojecttoml('[tool.pytest.ini_options]\npythonpath = ["src"]\n')
    result = asked(folder, "mypkg.wrong:attention", "MASK-1")
    result.assert_outcomes(failed=1)
    text = " ".join(result.stdout.str().split())
    (again,) = re.findall(r"again: (PYTHONPATH=src attn-conformance run .* --effort smoke)", text)
    assert "mypkg.wrong:attention --only MASK-1" in again
    assert f'sys.path.insert(0, "{folder.path}/src")' in text


@pytest.mark.parametrize(
    ("module", "target", "named"),
    [
        ("mypkg.right_class", "MultiHeadAttention", "CTOR-1"),
        ("mypkg.plain", "attention", "EQ-3"),
    ],
)
def test_the_target_may_be_the_class_or_function_itself(
    folder: pytest.Pytester, module: str, target: str, named: str
) -> None:
    folder.makepyfile(
        test_it=f"import {module}\n"
        + TEST.format(target="", only=repr(named), more="").replace('""', f"{module}.{target}", 1)
    )
    folder.runpytest_subprocess("-W", "error").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("decorator", "message"),
    [
        ("@conformance", "write what is to be judged: @conformance(*"),
        ("@conformance(object())", "an object of type object that no module has under a name of its own; name it: *"),
        ("@conformance('mypkg.plain:attention', expected_failures=['MASK-10'])",
         "expected_failures is a list; it is {id: reason}, or the path of a TOML file"),
        ("@conformance('mypkg.plain:attention', effort='quick')", "effort is 'quick'; it is one of smoke, *"),
        ("@conformance('mypkg.plain:attention', seed='x')", "seed is 'x'; it is an integer"),
    ],
)  # fmt: skip
def test_what_the_decorator_cannot_mean_is_one_clear_error(
    folder: pytest.Pytester, decorator: str, message: str
) -> None:
    folder.makepyfile(
        test_it="from attn_conformance import conformance\n\n"
        f"{decorator}\ndef test_conformance(requirement):\n    requirement.verify()\n"
    )
    result = folder.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"attn-conformance cannot judge it: {message}"])
    assert "Traceback" not in result.stdout.str()


def test_a_class_that_crashes_is_a_failure_and_the_other_tests_run(folder: pytest.Pytester) -> None:
    for workers in ("0", "2"):
        result = asked(
            folder, "mypkg.crashing_class:MultiHeadAttention", "CTOR-1,MASK-1,OUT-1", "-n", workers
        )
        result.assert_outcomes(passed=2, failed=1)
        result.stdout.fnmatch_lines(
            [
                "MASK-1 failed (must): *",
                "  what happened: ended the process by SIGSEGV (segmentation fault)",
                "* line 7 in forward",
            ]
        )
        assert "Fatal Python error" not in result.stdout.str() + result.stderr.str()


def test_without_isolation_it_runs_in_the_process_of_pytest(folder: pytest.Pytester) -> None:
    result = asked(folder, "mypkg.at_home:attention", "EQ-3", "--attn-no-isolate")
    result.assert_outcomes(passed=1)
    result = asked(folder, "mypkg.at_home:attention", "EQ-3")
    result.stdout.fnmatch_lines(["*attn-conformance cannot judge mypkg.at_home:attention: * not at home*"])


def test_without_a_file_and_on_two_workers(folder: pytest.Pytester) -> None:
    targets = ("--attn-impl", "mypkg.right:attention", "--attn-impl", "mypkg/wrong.py:attention")
    result = suite(folder, *targets, "--attn-only", "MASK-1,EQ-3", "-n", "2")
    result.assert_outcomes(passed=3, failed=1)
    output = result.stdout.str()
    assert "::test_conformance[mypkg.right:attention-MASK-1]" in output
    assert "MASK-1 failed (must): In a boolean mask True means" in output


def test_one_node_can_be_asked_for(folder: pytest.Pytester) -> None:
    node = "attn_conformance.suite.test_conformance::test_conformance[mypkg.right:attention-MASK-1]"
    arguments = ("--pyargs", node, "--attn-impl", "mypkg.right:attention", "--attn-effort", "smoke")
    folder.runpytest_subprocess(*arguments).assert_outcomes(passed=1)


def test_the_command_line_fills_in_what_the_decorator_leaves_out(folder: pytest.Pytester) -> None:
    folder.makepyfile(test_it=TEST.format(target="mypkg.right:attention", only="'MASK'", more=""))
    options = ("--attn-without", "float-mask", "--attn-dtype", "float32", "--attn-seed", "3")
    result = folder.runpytest_subprocess("-rA", *options)
    result.stdout.fnmatch_lines(["SKIPPED * not claimed: float-mask"])
    assert result.ret == 0


def test_a_failed_should_is_an_expected_failure_unless_strict(folder: pytest.Pytester) -> None:
    result = asked(folder, "mypkg.hides_nan:attention", "NUM-4")
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["XFAIL *NUM-4* a should-requirement: NaN at * is hidden in *"])
    asked(folder, "mypkg.hides_nan:attention", "NUM-4", "--attn-strict").assert_outcomes(failed=1)
    asked(folder, "mypkg.hides_nan:attention", "NUM-4", more="strict=True").assert_outcomes(failed=1)


def test_a_documented_difference_passes_unless_strict(folder: pytest.Pytester) -> None:
    target = "torch.nn.functional:scaled_dot_product_attention"
    asked(folder, target, "CAUSAL-3", more="dtype=['float32']").assert_outcomes(passed=1)
    result = asked(folder, target, "CAUSAL-3", "--attn-strict", more="dtype=['float32']")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["CAUSAL-3 differs as documented: *top left*"])


@pytest.mark.parametrize(
    "more", ["expected_failures={'MASK-1': 'see #12'}", "expected_failures='known.toml'"]
)
def test_expected_failures_and_unexpected_passes(folder: pytest.Pytester, more: str) -> None:
    (folder.path / "known.toml").write_text('[[expected]]\nrequirement = "MASK-1"\nreason = "see #12"\n')
    result = asked(folder, "mypkg.wrong:attention", "MASK-1", more=more)
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["XFAIL *MASK-1* see #12"])
    result = asked(folder, "mypkg.right:attention", "MASK-1", more=more)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*passed, though it was expected to fail: see #12"])


def test_expected_failures_on_the_command_line(folder: pytest.Pytester) -> None:
    (folder.path / "known.toml").write_text('[[expected]]\nrequirement = "MASK-1"\nreason = "see #12"\n')
    wrong = ("--attn-impl", "mypkg.wrong:attention", "--attn-only", "MASK-1")
    suite(folder, *wrong, "--attn-expect", "known.toml").assert_outcomes(xfailed=1)
    result = suite(folder, *wrong, "--attn-expect", "absent.toml")
    result.stdout.fnmatch_lines(["*absent.toml: the file cannot be read: No such file*"])
    assert "Traceback" not in result.stdout.str()


def test_what_is_observed_passes_with_a_property(folder: pytest.Pytester) -> None:
    asked(folder, "mypkg.right:attention", "CAUSAL-7", "--junit-xml=it.xml").assert_outcomes(passed=1)
    assert '<property name="observation" value="' in (folder.path / "it.xml").read_text(encoding="utf-8")


def test_what_is_not_claimed_is_skipped_with_the_reason(folder: pytest.Pytester) -> None:
    result = asked(folder, "mypkg.right:attention", "MASK-2,GRAD-2", more="without=['float-mask']")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED *: not claimed: float-mask", "SKIPPED *: not claimed: gradients"])


def test_the_suite_without_a_target_is_a_usage_error(folder: pytest.Pytester) -> None:
    result = suite(folder)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: attn_conformance.suite needs a target: --attn-impl *"])


@pytest.mark.parametrize(
    ("target", "only", "message"),
    [
        (
            "mypkg.absent:attention",
            "MASK-1",
            "cannot judge mypkg.absent:attention: no module named 'mypkg.absent' in mypkg",
        ),
        (
            "mypkg.right:attention",
            "MASQUE",
            "cannot judge it: no requirement or group 'MASQUE'; groups are *",
        ),
    ],
)
def test_what_cannot_be_judged_is_one_clear_error(
    folder: pytest.Pytester, target: str, only: str, message: str
) -> None:
    result = asked(folder, target, only)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{message}"])
    assert "pytest_plugin.py" not in result.stdout.str()
