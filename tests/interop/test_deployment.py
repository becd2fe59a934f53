"""The files of examples/serve: what they type is understood by the command that they run."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT

from q3_runtime.cli import parse_args

EXAMPLES = ROOT / "examples/serve"
yaml = pytest.importorskip("yaml")


def commands() -> dict[str, list[str]]:
    """File → the arguments of q3 in it."""
    docker = re.search(r"^ENTRYPOINT (\[.*\])$", (EXAMPLES / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    unit = re.search(r"^ExecStart=(.*)$", (EXAMPLES / "q3-serve.service").read_text("utf-8"), re.MULTILINE)
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    return {
        "Dockerfile": yaml.safe_load(docker[1]),
        "q3-serve.service": shlex.split(unit[1]),
        "kubernetes.yaml": pod["command"],
    }


def manifests() -> dict[str, dict]:
    found = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text("utf-8"))
    return {manifest["kind"]: manifest for manifest in found}


@pytest.mark.parametrize("name", ["Dockerfile", "q3-serve.service", "kubernetes.yaml"])
def test_the_command_is_one_that_q3_understands(name):
    program, *arguments = commands()[name]
    assert Path(program).name == "q3"
    parsed = parse_args(arguments)
    assert (parsed.verb, parsed.port) == ("serve", 8080)
    assert parsed.host == "127.0.0.1" or name != "q3-serve.service"


def test_kubernetes_waits_longer_than_the_server_takes_to_stop_and_asks_the_right_paths():
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= pause + 30 + 5
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/ready", "readiness": "/ready", "liveness": "/live"}
    labels = manifests()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests()["Service"]["spec"]["selector"] == labels
    assert manifests()["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "q3-serve"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    unit = (EXAMPLES / "q3-serve.service").read_text("utf-8").replace("/opt/q3/bin/q3", f"{Path(sys.executable).parent}/q3")
    (tmp_path / "q3-serve.service").write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "q3-serve.service"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
