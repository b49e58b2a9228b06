"""What docs/real-libraries.md says of PyTorch is so, for the version that it names."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parents[2] / "docs" / "real-libraries.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_page_has_scripts_and_names_the_version():
    assert len(SCRIPTS) == 5
    assert "torch 2.13.0" in PAGE


@pytest.mark.skipif(
    not torch.__version__.startswith("2.13."), reason="seen on torch 2.13, another one is installed"
)
@pytest.mark.parametrize("number", range(len(SCRIPTS)))
def test_scripts_of_the_page_show_what_it_says(number):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPTS[number]], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
