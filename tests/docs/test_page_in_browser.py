"""HTML reports in headless Chromium, by browser/check.mjs; CONTRIBUTING.md says what to install for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attn_conformance.bench.results import Benchmark, Benchmarks, LeftOut, Measurement
from attn_conformance.bench.rule import Decision, Rule, Verdict
from attn_conformance.bench.workloads import Workload
from attn_conformance.report.bench import write_bench
from attn_conformance.report.html import run_page, write_report
from attn_conformance.report.reading import read

ROOT = Path(__file__).parents[2]
BROWSER = ROOT / "tests" / "browser"
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
BASELINES = sorted((ROOT / "docs" / "baselines").glob("*.json"))

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></script></pre><svg/onload=alert(1)>",
    "{{ 7*7 }}",
    "javascript:alert(1)",
    "left \u202e right \x07",
    "long " * 20_000,
]


def needed() -> None:
    """Skip where something is missing."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (BROWSER / "node_modules" / "playwright-core").is_dir():
        pytest.skip("npm install --prefix tests/browser was not run")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no Chromium at {CHROMIUM}")


def check(pages: list[Path], texts: Path) -> subprocess.CompletedProcess[str]:
    command = ["node", str(BROWSER / "check.mjs"), "--texts", str(texts), *map(str, pages)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def hostile() -> dict[str, Any]:
    """A result file in which every failure tells one of the hostile texts, and the target is another."""
    data = read(BASELINES[0])
    (result,) = data["results"]
    result |= {"target": HOSTILE[0] + HOSTILE[1], "verdict": "fails"}
    for row, text in zip(result["requirements"].values(), HOSTILE, strict=False):
        row |= {"status": "failed", "message": text, "reproducer": f"print(1)\n{text}", "declared": text}
    return data


def benchmarks() -> list[Benchmarks]:
    """Twelve runs of three workloads, of which one gets slower; names are hostile."""
    works = [Workload("forward", 1, 8, n, n, 64, "float32") for n in (256, 512, 1024)]
    verdicts: list[Verdict] = ["regressed", "inconclusive", "fine"]
    runs = []
    for day in range(12):
        made = []
        for work, verdict in zip(works, verdicts, strict=True):
            ratio = 1.1 if verdict == "regressed" and day >= 6 else 1.0
            times = tuple(work.flops / 4e10 * (1 + n / 300 + day % 3 / 400) for n in range(20))
            slower = tuple(ratio * time for time in times)
            candidate = Measurement(
                HOSTILE[0], HOSTILE[1], slower, peak=2**20, kernels=(HOSTILE[2], "x" * 160)
            )
            base = Measurement(HOSTILE[3], HOSTILE[4], times, peak=2**21, kernels=(HOSTILE[5],))
            decision = Decision(verdict, ratio, ratio * 0.98, ratio * 1.02, 0.01, 20)
            made.append(Benchmark(work, "thread", candidate, base, decision, HOSTILE[1]))
        environment = {"date": f"2026-01-{day + 1:02d}", HOSTILE[0]: HOSTILE[2]}
        rule, left_out = Rule(), (LeftOut(replace(works[0], work="masked"), HOSTILE[2]),)
        run = Benchmarks(
            HOSTILE[0], HOSTILE[3], 0, rule, {}, environment, "0", 1.0, None, tuple(made), left_out
        )
        runs.append(run)
    return runs


def test_pages_hold_in_a_browser(tmp_path: Path) -> None:
    needed()
    write_bench(benchmarks(), tmp_path / "benchmarks.html")
    write_bench([*benchmarks(), replace(benchmarks()[0], candidate="other")], tmp_path / "two.html")
    results = [hostile(), *map(read, BASELINES)]
    write_report(results, tmp_path)
    (tmp_path / "one.html").write_text(run_page(results), encoding="utf-8")
    texts = tmp_path / "texts.json"
    shown = [text.replace("\u202e", "\\u202e").replace("\x07", "\\x07") for text in HOSTILE]
    texts.write_text(json.dumps(shown), encoding="utf-8")
    pages = sorted(tmp_path.glob("*.html"))
    assert len(pages) == 7
    done = check(pages, texts)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    needed()
    source = run_page([hostile()])
    page = tmp_path / "page.html"
    smuggled = '<img src="https://example.org/x.png" onerror="alert(1)"><button></button>'
    smuggled += '<a href="javascript:alert(1)">x</a>'
    page.write_text(source.replace("</main>", f"{smuggled}</main>"), encoding="utf-8")
    texts = tmp_path / "texts.json"
    texts.write_text('["a text that is not there"]', encoding="utf-8")
    done = check([page], texts)
    assert done.returncode == 1
    for said in ("elements or attributes that no template writes", "links to javascript:", "not shown",
                 "Content Security Policy", "axe image-alt", "axe button-name"):  # fmt: skip
        assert said in done.stdout
