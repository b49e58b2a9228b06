"""Yardsticks: their references, what they pose and to whom, and that right passes where wrong does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attn_conformance.cases import Call
from attn_conformance.judge import Failed
from attn_conformance.mutants import mutants
from attn_conformance.selftest.yardsticks import (
    compared,
    espnet,
    flash_attention,
    formula,
    pytorch,
    pytorch_modules,
    whisper,
)
from attn_conformance.selftest.yardsticks.__main__ import BEGIN, main
from attn_conformance.selftest.yardsticks.compared import YARDSTICKS, Compared, Verdict
from attn_conformance.selftest.yardsticks.posing import Posed, close, drawn, posable
from attn_conformance.selftest.yardsticks.yardstick import Test, Yardstick, judge
from attn_conformance.targets import TargetError, subject
from attn_reference import MultiHeadAttention, attention
from attn_reference.requirements import load_requirements

KILLS = Path(__file__).parents[2] / "docs" / "selftest" / "kills.json"


def only(module: object, *tests: Test) -> Yardstick:
    """The yardstick of a module with some of its tests: those of big sizes take too long here."""
    yardstick: Yardstick = module.YARDSTICK  # type: ignore[attr-defined]
    return replace(yardstick, tests=tests)


@pytest.mark.parametrize(
    ("yardstick", "mutant"),
    [
        (only(flash_attention, flash_attention.overflow), "causal-ignored"),
        (only(flash_attention, flash_attention.overflow), "row-term-missing"),
        (only(flash_attention, flash_attention.cached), "new-keys-before-the-old"),
        (only(pytorch, pytorch.small), "inverted-mask"),
        (only(pytorch, pytorch.small), "inverted-mask-in-qkv-attention"),
        (only(pytorch, pytorch.gradcheck), "key-gradient-not-scaled"),
        (only(pytorch, pytorch.biased), "mask-of-a-module-without-gradient"),
        (only(pytorch, *pytorch_modules.TESTS), "inverted-mask-in-forward"),
        (only(espnet, *espnet.YARDSTICK.tests), "value-read-from-the-key-entry"),
        (only(whisper, *whisper.YARDSTICK.tests), "cache-keyed-by-shape"),
    ],
)
def test_the_twin_passes_and_the_mutant_does_not(yardstick: Yardstick, mutant: str) -> None:
    wrong = judge(yardstick, f"mutant:{mutant}")
    assert wrong.rejected
    assert wrong.message
    right = judge(yardstick, f"twin:{mutant}")
    assert (right.posed, right.rejected) == (True, False)


@pytest.mark.parametrize("target", ["numpy-reference", "numpy-reference-kernel", "control:eager-autograd"])
@pytest.mark.parametrize(
    "yardstick",
    [
        only(flash_attention, flash_attention.overflow),
        only(
            pytorch, pytorch.small, pytorch.negative_scale, pytorch.grouped, pytorch.biased, pytorch.failures
        ),
        only(pytorch, *pytorch_modules.TESTS),
        espnet.YARDSTICK,
        whisper.YARDSTICK,
    ],
)
def test_right_ones_pass(target: str, yardstick: Yardstick) -> None:
    assert not judge(yardstick, target).rejected


def test_kernels_pose_nothing_to_the_tests_of_modules() -> None:
    for yardstick in (espnet.YARDSTICK, whisper.YARDSTICK, only(pytorch, *pytorch_modules.TESTS)):
        assert not judge(yardstick, "numpy-reference-kernel").posed


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("T", "S", "heads"), [(5, 9, 2), (9, 5, 1)])
@pytest.mark.parametrize("scaled", ["q", "k"])
def test_the_formula_is_that_of_the_specification(
    dtype: str, T: int, S: int, heads: int, scaled: formula.Side
) -> None:
    plain = drawn(1, dtype, (2, 2, T, 4), (2, heads, S, 4), dout_layout=None).call
    rng = np.random.default_rng(0)
    added = np.where(rng.random((2, 1, T, S)) < 0.3, -np.inf, 1).astype(plain.q.dtype)
    calls = [plain, replace(plain, is_causal=True), replace(plain, scale=0.3)]
    for call in (*calls, replace(plain, mask=added), replace(plain, mask=added > 0)):
        found = formula.solved(Posed(call), "float64", scaled)["out"]
        wide = [x.astype(np.float64) for x in (call.q, call.k, call.v)]
        mask = call.mask if call.mask is None or call.mask.dtype == bool else call.mask.astype(np.float64)
        expected = attention(wide[0], wide[1], wide[2], mask, call.is_causal, call.scale)
        np.testing.assert_array_equal(found, found.astype(call.q.dtype))
        half = float(np.finfo(np.float32).eps) if dtype in ("float64", "float32") else 0.01
        np.testing.assert_allclose(found, expected, atol=half, rtol=half)


def test_the_formula_of_modules_is_that_of_the_specification() -> None:
    weights = espnet.params(0, 12, "float64")
    rng = np.random.default_rng(0)
    x, xa = rng.standard_normal((2, 3, 12)), rng.standard_normal((2, 5, 12))
    mask = rng.random((3, 5)) > 0.4
    module, causal = (MultiHeadAttention(12, 3, rule) for rule in (False, True))
    for each in (module, causal):
        each.load_state_dict(weights)
    np.testing.assert_allclose(formula.module(x, xa, weights, 3, mask), module(x, xa, mask), atol=1e-12)
    np.testing.assert_allclose(formula.module(x, None, weights, 3, None, True), causal(x), atol=1e-12)


def test_calls_that_a_subject_does_not_claim_are_not_posed() -> None:
    kernel, module = (subject(name)[0] for name in ("numpy-reference-kernel", "numpy-reference"))
    plain = drawn(0, "float32", (1, 2, 3, 4), (1, 2, 5, 4)).call
    grouped = drawn(0, "float32", (1, 2, 3, 4), (1, 1, 5, 4)).call
    assert posable(kernel, plain) is plain
    posed = posable(module, plain)
    assert posed is not None
    assert posed.window == "qkv"
    assert posable(kernel, grouped) is grouped
    assert posable(module, grouped) is None
    assert posable(module, replace(plain, scale=1.0)) is None
    for feature, call in {
        "cross": plain,
        "causal": replace(plain, is_causal=True),
        "gqa": grouped,
        "bool-mask": replace(plain, mask=np.ones((3, 5), bool)),
        "zero-sizes": Call(plain.q[:0], plain.k[:0], plain.v[:0]),
    }.items():
        without = replace(kernel.claims, features=kernel.claims.features - {feature})
        assert posable(kernel.claiming(without), call) is None
    assert posable(kernel.claiming(replace(kernel.claims, dtypes=("float16",))), plain) is None


def test_close_wants_shapes_numbers_and_nan_where_it_is_due() -> None:
    one = np.array([1.0, np.nan])
    close(one + 1e-7, one, 0, 1e-6, "x")
    for got in (one[:1], np.array([1.1, np.nan]), np.array([1.0, 0.0]), np.array([np.nan, np.nan])):
        with pytest.raises(Failed, match="x: "):
            close(got, one, 0, 1e-6, "x")


def test_a_dtype_that_is_claimed_and_refused_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = subject("numpy-reference-kernel")

    def refusing(q: np.ndarray, *rest: object) -> np.ndarray:
        if q.dtype == np.float16:
            raise TypeError("no halves")
        return attention(q, *rest)  # type: ignore[arg-type]

    narrowed = found.claiming(replace(found.claims, dtypes=("float32",)))
    refused = replace(narrowed, function=refusing)  # type: ignore[call-arg]
    module = "attn_conformance.selftest.yardsticks.yardstick.subject"
    monkeypatch.setattr(module, lambda target: (refused, {"float16": "no halves"}))
    said = judge(only(flash_attention, flash_attention.overflow), "any")
    assert said.test == "overflow"
    assert said.message == "raised TypeError: no halves"


def test_what_is_no_target_is_no_verdict() -> None:
    with pytest.raises(TargetError):
        judge(whisper.YARDSTICK, "mutant:none-such")


def test_reach_names_requirements_that_there_are() -> None:
    table = load_requirements()
    for yardstick in YARDSTICKS.values():
        for kind, ids in yardstick.reach.items():
            assert ids <= table.keys()
            assert all(kind in table[name].kinds for name in ids if name.startswith("KERN"))


def test_reach_is_by_kind_requirement_and_dtype() -> None:
    table = mutants()
    kernel, module = table["causal-ignored"], table["new-keys-before-the-old"]
    flash = flash_attention.YARDSTICK
    assert flash.reaches(kernel)
    assert flash.reaches(module)
    assert not espnet.YARDSTICK.reaches(kernel)
    assert not flash.reaches(table["inverted-mask"])
    assert not flash.reaches(replace(kernel, claims=replace(kernel.claims, dtypes=("float32",))))


def test_the_tokens_of_the_small_model_leave_no_doubt() -> None:
    """Right modules round differently: the token that is chosen leads by far more than that."""
    gaps = []
    argmax = np.ndarray.argmax
    scored = whisper._scored

    def watched(*arguments: object, **options: object) -> np.ndarray:
        logits = scored(*arguments, **options)  # type: ignore[arg-type]
        first, second = np.sort(logits)[[-1, -2]]
        gaps.append(first - second)
        assert argmax(logits) == np.argsort(logits)[-1]
        return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whisper, "_scored", watched)
        tokens = whisper.expected.__wrapped__()
    assert min(gaps) > 0.02
    assert len(set(tokens)) > 8


def test_the_command_writes_the_file_the_page_and_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["mutant:inverted-mask", "twin:inverted-mask"]
    small = {"pytorch": only(pytorch, pytorch.small), "espnet": espnet.YARDSTICK}
    monkeypatch.setattr(compared, "targets", lambda: asked)
    monkeypatch.setattr(compared, "YARDSTICKS", YARDSTICKS | small)
    file, readme = tmp_path / "yardsticks.json", tmp_path / "README.md"
    (tmp_path / "kills.json").write_text(KILLS.read_text(encoding="utf-8"), encoding="utf-8")
    readme.write_text(f"{BEGIN}stale\n<!-- end -->\n", encoding="utf-8")
    monkeypatch.setattr(flash_attention, "_output", tuple)
    monkeypatch.setattr(flash_attention, "_repeated", tuple)
    main([str(file), "--readme", str(readme)])
    data = json.loads(file.read_text(encoding="utf-8"))
    result = Compared.from_json(data)
    assert json.loads(json.dumps(result.to_json())) == data
    assert {v.target for v in result.verdicts} == set(asked)
    assert result.by_any == {"mutant:inverted-mask"}
    assert "| PyTorch" not in readme.read_text(encoding="utf-8")
    assert "| in the manner of PyTorch | 1 of 1 |" in readme.read_text(encoding="utf-8")
    monkeypatch.setattr(compared, "judged", None)  # which nothing would ask again
    stale = [replace(v, bug_class=v.bug_class and "STATE") for v in result.verdicts]
    file.write_text(json.dumps(replace(result, verdicts=tuple(stale)).to_json()), encoding="utf-8")
    main([str(file), "--add"])
    again = Compared.from_json(json.loads(file.read_text(encoding="utf-8")))
    assert again.verdicts == result.verdicts
    page = file.with_suffix(".md")
    assert "None, by any yardstick." in page.read_text(encoding="utf-8")
    right = Verdict("pytorch", "control:naive", None, True, "small", "off by 1", 0.1)
    told = replace(result, verdicts=(*result.verdicts, right))
    file.write_text(json.dumps(told.to_json()), encoding="utf-8")
    main([str(file), "--tell"])
    assert "- PyTorch, `small`: `control:naive` (off by 1)" in page.read_text(encoding="utf-8")


def test_files_of_another_kind_are_refused() -> None:
    good = Compared(1, 0.5, (), {}, "0").to_json()
    assert Compared.from_json(good) == Compared(1, 0.5, (), {}, "0")
    for bad in ({**good, "selftest": "kills"}, {**good, "schema": 2}, {**good, "more": 1}):
        with pytest.raises(ValueError, match="not a file of yardsticks"):
            Compared.from_json(bad)
