"""Which build of onnxruntime is installed, what is written of it into what was made with it, and what to type for another."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from q3_export import export_model
from q3_runtime import builds
from q3_runtime.bulk.run import run_bulk
from q3_runtime.errors import ProviderError
from q3_runtime.manifest import Manifest


@pytest.fixture
def of_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which pip knows no onnxruntime: only a build of another name is installed."""
    from_name = importlib.metadata.Distribution.from_name

    def others(name: str) -> importlib.metadata.Distribution:
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return from_name(name)

    monkeypatch.setattr(importlib.metadata.Distribution, "from_name", others)


@pytest.fixture
def beside_cuda_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip leaves of onnxruntime's build for CUDA, found before all else."""
    metadata = tmp_path / "onnxruntime_gpu-9.8.7.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 9.8.7\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_the_version_of_onnxruntime_is_its_own_word_for_it(of_another_name):
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("onnxruntime")
    found = builds.versions(("numpy", "onnxruntime"))
    assert found == {"numpy": importlib.metadata.version("numpy"), "onnxruntime": onnxruntime.__version__}


def test_exports_and_bulk_jobs_write_it_down(of_another_name, checkpoint, tmp_path):
    """They ended with an unexpected error where only the build for CUDA was installed."""
    folder = export_model(checkpoint, quant="fp32", out=tmp_path / "folder", no_verify=True)
    assert Manifest.read(folder).made_with["onnxruntime"] == onnxruntime.__version__
    texts = tmp_path / "texts.txt"
    texts.write_text("one\nanother\n")
    run_bulk(folder, [texts], tmp_path / "out", workers=1)
    assert json.loads((tmp_path / "out/manifest.json").read_text())["made_with"]["onnxruntime"] == onnxruntime.__version__


def test_both_builds_beside_each_other_are_refused_with_what_to_type(beside_cuda_build):
    if not any(importlib.metadata.distributions(name="onnxruntime")):
        pytest.skip("the build for CUDA is installed here")
    with pytest.raises(ProviderError, match=r"are both installed .* pip uninstall -y") as caught:
        builds.load()
    assert caught.value.exit_code == 7


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("onnxruntime", "pip install -U onnxruntime"),
        ("onnxruntime-gpu", "pip install -U 'onnxruntime-gpu[cuda,cudnn]'"),
        ("onnxruntime-directml", "pip install -U onnxruntime-directml"),
    ],
)
def test_a_newer_one_is_of_the_same_build(name, typed, monkeypatch):
    """Another beside it would break both."""
    monkeypatch.setattr(onnxruntime, "package_name", name)
    assert builds.newer() == typed


def test_extras_bring_no_second_build(monkeypatch):
    """Beside onnxruntime-gpu, ``q3 serve`` and ``q3 bulk`` told to install the build for CPUs too."""
    assert builds.with_extras("bulk", "ray") == "pip install 'q3-onnx[bulk,ray]'"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert builds.with_extras("bulk", "ray") == "pip install 'q3-onnx[cpu,bulk,ray]'"


def test_one_that_cannot_be_imported_is_not_said_to_be_missing(tmp_path):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('DLL load failed while importing:\\nnot found')\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    code = "from q3_runtime import builds\ntry:\n    builds.load()\nexcept Exception as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("onnxruntime cannot be imported: DLL load failed while importing: not found; on Windows")
    assert "pip install --force-reinstall" in done.stdout
