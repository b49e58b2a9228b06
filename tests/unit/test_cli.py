"""The command line as people and scripts meet it: texts, exit statuses, result files."""

import json
from importlib.resources import files

import jsonschema
import pytest

from attn_conformance.cli import main, parser

SCHEMA = json.loads(files("attn_conformance").joinpath("schema/result-1.json").read_text())


def run(capsys, *arguments):
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_conforming_kernel_exits_0_with_a_table_and_a_verdict(capsys, tmp_path):
    result = tmp_path / "result.json"
    status, out, _ = run(capsys, "run", "numpy-reference", "--effort", "smoke", "--json", str(result))
    assert status == 0
    assert "MASK-1" in out
    assert "numpy-reference conforms (" in out
    assert "must-requirements judged" in out
    data = json.loads(result.read_text())
    jsonschema.validate(data, SCHEMA)
    assert data["results"][0]["verdict"] == "conforms"
    assert data["environment"]["numpy"]


def test_a_wrong_kernel_exits_1_and_its_story_is_told(capsys):
    status, out, _ = run(
        capsys, "run", "mutant:inverted-mask", "--effort", "smoke", "--only", "MASK-1,CAUSAL-2"
    )
    assert status == 1
    assert "MASK-1 failed (must): In a boolean mask True means" in out
    assert "smallest case: B=2 H=2 T=2 S=2 D=4" in out
    for word in ("expected", "got", "bound", "times over"):
        assert word in out
    assert "mutant:inverted-mask fails (" in out


def test_quiet_leaves_the_failures_and_the_verdict(capsys):
    _, out, _ = run(capsys, "run", "mutant:inverted-mask", "--effort", "smoke", "--only", "MASK-1", "--quiet")
    assert out.strip().startswith("MASK-1 failed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nonsense"], "cannot judge nonsense: is not a registered implementation"),
        (["run", "numpy-reference", "--only", "MASQUE"], "no requirement or group 'MASQUE'"),
        (["run", "numpy-reference", "--with", "speed"], "unknown claim 'speed'"),
        (["run", "numpy-reference", "--json", "no/such/folder/x.json"], "--json: there is no folder"),
    ],
)
def test_what_cannot_be_done_exits_2_with_the_reason(capsys, arguments, message):
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert message in err


def test_one_target_that_cannot_be_judged_does_not_lose_the_others(capsys):
    status, out, err = run(
        capsys, "run", "nonsense", "numpy-reference", "--effort", "smoke", "--only", "EQ-3"
    )
    assert status == 2
    assert "numpy-reference conforms" in out
    assert "nonsense" in err


@pytest.mark.parametrize(
    "arguments", [[], ["run"], ["run", "x", "--effort", "heroic"], ["run", "x", "--head-dims", "0"]]
)
def test_usage_errors_exit_2(arguments):
    with pytest.raises(SystemExit) as error:
        parser().parse_args(arguments)
    assert error.value.code == 2


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("--jobs", "many", "a positive integer was expected, not 'many'"),
        ("--jobs", "2,3", "a positive integer was expected, not '2,3'"),
        ("--head-dims", "64,foo", "positive integers, as in 64,128, were expected, not '64,foo'"),
        ("--call-limit", "soon", "a positive number was expected, not 'soon'"),
    ],
)
def test_usage_errors_say_what_is_wanted(capsys, option, value, wanted):
    with pytest.raises(SystemExit):
        parser().parse_args(["run", "x", option, value])
    assert f"argument {option}: {wanted}" in capsys.readouterr().err


def test_every_option_has_a_help_text():
    verbs = next(action for action in parser()._actions if action.dest == "verb")
    silent = [
        (name, action.dest)
        for name, verb in verbs.choices.items()
        if name in ("run", "explain")
        for action in verb._actions
        if not action.help
    ]
    assert silent == []


PAIR = """
class Pair:
    def __init__(self, n_state, n_head, causal=False):
        from attn_reference import MultiHeadAttention
        self.inner = MultiHeadAttention(n_state, n_head, causal)
        self.query, self.key, self.value, self.out = (
            getattr(self.inner, name) for name in ("query", "key", "value", "out")
        )

    def __call__(self, x, xa=None, mask=None, kv_cache=None):
        return self.inner(x, xa, mask, kv_cache), None

    forward = __call__

    def qkv_attention(self, q, k, v, mask=None):
        return self.inner.qkv_attention(q, k, v, mask)

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state):
        self.inner.load_state_dict(state)
"""


@pytest.mark.parametrize("options", [("--only", "EQ-1,MASK-1"), ()])
def test_why_nothing_else_is_run_is_told_whatever_is_asked_for(capsys, tmp_path, options):
    (tmp_path / "pair.py").write_text(PAIR)
    status, out, _ = run(capsys, "run", f"{tmp_path}/pair.py:Pair", *options)
    assert status == 1
    assert "OUT-1 failed (must)" in out
    assert "returned the wrong type" in out
    assert "not run: the smallest call fails OUT-1: " in out


def test_a_verdict_of_nothing_says_that_nothing_was_asked_for(capsys):
    status, out, _ = run(capsys, "run", "numpy-reference-kernel", "--only", "MEM-1", "--effort", "smoke")
    assert status == 1
    assert "could not be judged completely (0 of " in out
    assert "no must-requirement was asked for" in out


def test_a_result_of_other_claims_is_replayed_by_the_command_that_is_told(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--only", "MASK-1", "--effort", "smoke", "--json", "it.json")
    run(capsys, "run", "mutant:inverted-mask", *options, "--dtype", "float32,float64")
    status, _, err = run(capsys, "run", "mutant:inverted-mask", "--replay", "it.json")
    assert status == 2
    command = "attn-conformance run mutant:inverted-mask --dtype float32,float64 --replay it.json"
    assert err.strip().endswith(f"give the options of that run: {command}")
    assert run(capsys, *command.split()[1:])[0] == 1


def test_list_names_what_is_registered(capsys):
    status, out, _ = run(capsys, "list")
    assert status == 0
    for name in ("attn-flash", "numpy-reference", "torch-sdpa", "jax-attention"):
        assert name in out
    assert "attn_conformance.adapters.ort_attention:implementation" in out  # in one piece
    assert "a class, a function or an adapter" in out


def test_explain_shows_the_requirement_who_agrees_and_a_failure(capsys):
    status, out, _ = run(capsys, "explain", "causal-3")
    assert status == 0
    assert "CAUSAL-3 (must" in out
    assert "pytorch-sdpa differs" in out
    assert "the_triangle_is_anchored_bottom_right" in out
    assert "An example of a failure: mutant:" in out
    assert "smallest case" in out


def test_explain_of_a_planned_and_of_an_unknown_requirement(capsys):
    assert "judged by attn-conformance bench" in run(capsys, "explain", "PERF-1")[1]
    status, _, out = run(capsys, "explain", "MASK-99")
    assert status == 2
    assert "known are: MASK-1" in out
    assert run(capsys, "explain", "cache2")[2] == "there is no requirement 'cache2'; did you mean CACHE-2?\n"


def test_a_part_of_a_run_accuses_nobody_of_what_the_other_parts_draw(capsys, tmp_path):
    page = tmp_path / "page.html"
    part = ("run", "numpy-reference-kernel", "--shard", "1/47", "--html", str(page))
    status, out, _ = run(capsys, *part)
    assert status == 0
    assert "defect of the suite" not in out + page.read_text()
