"""scripts/demo, the first thing a newcomer types."""

import os
import re
import subprocess
import sys

from tests.conftest import ROOT


def test_the_demo_proves_an_export_and_shows_ranked_answers() -> None:
    result = subprocess.run(
        [str(ROOT / "scripts/demo")], env=os.environ | {"VENV": sys.prefix}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"^OK     int8: cosine to PyTorch fp32 over 128 texts: mean \d", result.stdout, re.MULTILINE)
    answers = re.findall(r"^ *(-?\d\.\d{3}) +\d+  \S", result.stdout, re.MULTILINE)
    assert len(answers) == 5
    assert sorted(answers, key=float, reverse=True) == answers
    assert "punctured bicycle tube" in result.stdout.split("--query")[1].splitlines()[1]
