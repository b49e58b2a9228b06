"""action.yml: its steps run here as a runner runs them, on a wrong kernel and on hostile inputs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
GUIDE = (ROOT / "docs" / "guides" / "github-action.md").read_text(encoding="utf-8")
SOURCES = os.pathsep.join(str(ROOT / name) for name in ("reference", "impl", "conformance"))
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]
"""How a runner starts `shell: bash`."""

PYTHON = """\
#!/bin/sh
if [ "$1 $2" = "-m pip" ]; then printf '%s\\n' "$@" > "$RUNNER_TEMP/pip"; else exec {python} "$@"; fi
"""


class Runner:
    """A job of one step that uses the action: inputs are filled in, shell steps run, and their outputs are kept."""

    def __init__(self, folder: Path, inputs: dict[str, str]) -> None:
        declared = {name: str(value.get("default", "")) for name, value in ACTION["inputs"].items()}
        assert inputs.keys() <= declared.keys()
        self.values = {f"inputs.{name}": value for name, value in (declared | inputs).items()}
        self.folder = folder
        self.work = folder / "work"
        tools = folder / "tools"
        for made in (self.work, tools, folder / "temp"):
            made.mkdir()
        scripts = {
            "python": PYTHON.format(python=sys.executable),
            "attn-conformance": f'#!/bin/sh\nexec {sys.executable} -m attn_conformance "$@"\n',
        }
        for name, text in scripts.items():
            (tools / name).write_text(text, encoding="utf-8")
            (tools / name).chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": SOURCES,
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(folder / "output"),
            "GITHUB_STEP_SUMMARY": str(folder / "summary"),
            "RUNNER_TEMP": str(folder / "temp"),
        }

    def filled(self, text: str) -> str:
        return re.sub(r"\$\{\{ (\S+) \}\}", lambda found: self.values.get(found[1], ""), str(text))

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the shell steps until one fails; the last one's result."""
        for step in STEPS:
            if "run" not in step:
                continue
            given = {name: self.filled(value) for name, value in step.get("env", {}).items()}
            script = self.folder / "script"
            script.write_text(step["run"], encoding="utf-8")
            done = subprocess.run(
                [*BASH, str(script)],
                cwd=self.work,
                env=self.environment | given,
                capture_output=True,
                text=True,
                timeout=120,
            )
            output = self.folder / "output"
            lines = output.read_text(encoding="utf-8").splitlines() if output.exists() else []
            for name, value in (line.split("=", 1) for line in lines):
                self.values[f"steps.{step.get('id')}.outputs.{name}"] = value
            if done.returncode:
                break
        return done

    @property
    def outputs(self) -> dict[str, str]:
        """The action's outputs."""
        return {name: self.filled(value["value"]) for name, value in ACTION["outputs"].items()}


def test_inputs_reach_a_script_through_its_environment_alone() -> None:
    scripts = [step for step in STEPS if "run" in step]
    assert len(scripts) == 2
    for step in scripts:
        assert "${{" not in step["run"]
        assert step["shell"] == "bash"
    given = {value for step in STEPS for value in (step.get("env", {}) | step.get("with", {})).values()}
    used = {*re.findall(r"inputs\.([\w-]+)", str(STEPS))}
    assert used == ACTION["inputs"].keys()
    assert all(re.fullmatch(r"\$\{\{ [\w.-]+ \}\}", value) for value in given)


def test_other_actions_are_pinned_to_a_major_version() -> None:
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert len(used) == 2
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", name) for name in used)


def test_results_are_uploaded_also_when_the_run_failed() -> None:
    (upload,) = [step for step in STEPS if "upload-artifact" in step.get("uses", "")]
    assert upload["if"].startswith("always() &&")
    assert upload is STEPS[-1]


def test_a_wrong_kernel_fails_with_its_status_and_its_results(tmp_path: Path) -> None:
    runner = Runner(
        tmp_path,
        {"target": "mutant:top-left-triangle", "effort": "smoke", "args": " --only CAUSAL\n --quiet"},
    )
    done = runner.run()
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "temp" / "pip").read_text().splitlines() == [
        "-m",
        "pip",
        "install",
        "--",
        f"{ROOT}[report]",
    ]
    outputs = runner.outputs
    assert outputs["verdict"] == "fails"
    data = json.loads(Path(outputs["json"]).read_text(encoding="utf-8"))
    rows = data["results"][0]["requirements"]
    assert {name for name, row in rows.items() if row["status"] == "failed"} == {"CAUSAL-3"}
    assert ElementTree.parse(outputs["junit"]).find(".//failure") is not None
    assert "CAUSAL-3" in Path(outputs["html"]).read_text(encoding="utf-8")
    assert "::error title=mutant%3Atop-left-triangle%3A CAUSAL-3::" in done.stdout
    assert "top&#45;left&#45;triangle" in (tmp_path / "summary").read_text(encoding="utf-8")


def test_a_right_kernel_passes_and_files_come_from_the_workspace(tmp_path: Path) -> None:
    runner = Runner(
        tmp_path,
        {
            "target": "my kernel.py:attention",
            "effort": "smoke",
            "args": "--only NUM-4",
            "expect": "known failures.toml",
        },
    )
    shutil.copy(ROOT / "examples" / "numpy_kernel.py", runner.work / "my kernel.py")
    (runner.work / "known failures.toml").write_text("", encoding="utf-8")
    done = runner.run()
    assert done.returncode == 1  # no must was asked
    assert runner.outputs["verdict"] == "incomplete"
    runner.values["inputs.args"] = "--only NUM"
    assert runner.run().returncode == 0
    assert runner.outputs["verdict"] == "conforms"


@pytest.mark.parametrize(
    "name", [name for name in ACTION["inputs"] if name not in ("python-version", "artifact")]
)
@pytest.mark.parametrize(
    "hostile", ['"; touch pwned; "$(touch pwned)`touch pwned`', "' ; touch pwned #\ntouch pwned"]
)
def test_what_stands_in_an_input_is_never_executed(tmp_path: Path, name: str, hostile: str) -> None:
    runner = Runner(tmp_path, {"target": "mutant:top-left-triangle", "effort": "smoke", name: hostile})
    if name != "suite":
        assert runner.run().returncode == 2
        assert runner.outputs["verdict"] == ""
    else:
        runner.values["inputs.target"] = "no such target"
        runner.run()
        assert (tmp_path / "temp" / "pip").read_text() == f"-m\npip\ninstall\n--\n{hostile}\n"
    assert not list(tmp_path.rglob("pwned"))


def test_the_guide_names_every_input_and_output() -> None:
    named = set(re.findall(r"^\| `([\w-]+)` \|", GUIDE, re.M))
    assert named == ACTION["inputs"].keys() | ACTION["outputs"].keys()


def test_workflows_of_the_guide_use_what_the_action_has() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", GUIDE, re.M | re.S)
    assert blocks
    for block in blocks:
        data = yaml.safe_load(block)
        steps = data["jobs"]["conformance"]["steps"] if isinstance(data, dict) else data
        ours = [step for step in steps if "/attn-conformance@" in step.get("uses", "")]
        assert len(ours) == 1
        assert ours[0].get("with", {}).keys() <= ACTION["inputs"].keys()
        assert "target" in ours[0]["with"]
