"""Programs that pip does not bring: Node.js with packages of npm, and a browser."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT

CACHE = ROOT / "build/node"


def program(*names: str) -> str:
    """The path of the first that is installed. Without one the test is skipped; where CI=true, it fails."""
    for name in names:
        if found := shutil.which(name):
            return found
    message = f"{' or '.join(names)} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{message}, and CI=true says that everything is there; see .ci/run")
    pytest.skip(message)


def run_script(script: Path, job: dict[str, Any]) -> Any:
    """What a script of Node prints, given ``job`` on its standard input; the package.json beside it is installed, once.

    No package's install script runs: onnxruntime-node's would download a GPU build from elsewhere.
    """
    node, npm = program("node"), program("npm")
    wanted = (script.parent / "package.json").read_bytes()
    folder = CACHE / hashlib.sha256(wanted).hexdigest()[:12]
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as name:
            new = Path(name) / "new"
            new.mkdir()
            (new / "package.json").write_bytes(wanted)
            command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
            subprocess.run(command, cwd=new, check=True)
            new.rename(folder)
    shutil.copy(script, folder)  # Node looks for packages beside the script
    result = subprocess.run(
        [node, script.name], cwd=folder, input=json.dumps(job), capture_output=True, encoding="utf-8", check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
