"""Environments beside ours, for tools that cannot be installed together with it: a dependency group of pyproject.toml each."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

CACHE = ROOT / "build/interop"
CLIENTS = ROOT / "tests/interop/clients"
PIP = ("-m", "pip", "--disable-pip-version-check")


@dataclass(frozen=True)
class Environment:
    """A virtual environment; it survives the tests and is made again when what it was made of has changed."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    def version(self, package: str) -> str:
        return {_name(line): line.split("==")[1] for line in (self.folder / "installed.txt").read_text().split()}[package]

    def run(self, client: str | Path, *args: str | Path, given: object = None) -> Any:
        """What a script prints as JSON; it reads ``given`` as JSON from its standard input. Clients go by their names."""
        command = [str(self.python), str(CLIENTS / client), *map(str, args)]  # an absolute path stays what it is
        result = subprocess.run(command, input=json.dumps(given), capture_output=True, encoding="utf-8", check=False)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout) if result.stdout else None


def environment(group: str, interpreter: str = sys.executable) -> Environment:
    """The environment of a dependency group: with the versions that it states, else with those of constraints.txt."""
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"][group]
    stated = {_name(line) for line in requirements if re.search("[=<>]", line)}
    constraints = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    others = [line for line in constraints if line and not line.startswith("#") and _name(line) not in stated]
    version = subprocess.run([interpreter, "-VV"], check=True, capture_output=True, text=True).stdout.strip()
    wanted = "\n".join([version, *requirements, *others])
    is_ours = interpreter == sys.executable
    made = Environment(CACHE / (group if is_ours else f"{group}-{Path(interpreter).name}"))
    if not (made.folder / "made_of.txt").is_file() or (made.folder / "made_of.txt").read_text("utf-8") != wanted:
        shutil.rmtree(made.folder, ignore_errors=True)
        subprocess.run([interpreter, "-m", "venv", str(made.folder)], check=True)
        limits = made.folder / "constraints.txt"
        limits.write_text("\n".join(others), "utf-8")
        subprocess.run([made.python, *PIP, "install", "--quiet", "-c", str(limits), *requirements], check=True)
        listed = subprocess.run([made.python, *PIP, "list", "--format=freeze"], check=True, capture_output=True, text=True)
        (made.folder / "installed.txt").write_text(listed.stdout, "utf-8")
        (made.folder / "made_of.txt").write_text(wanted, "utf-8")
    return made


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")
