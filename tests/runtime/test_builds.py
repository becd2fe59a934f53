"""Which of onnxruntime's two builds is installed, and what is written of it into what was made with it."""

import importlib.metadata
from pathlib import Path

import onnxruntime
import pytest

from q3_runtime import builds
from q3_runtime.errors import ProviderError


@pytest.fixture
def beside_cuda_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip leaves of onnxruntime's build for CUDA, found before all else."""
    metadata = tmp_path / "onnxruntime_gpu-9.8.7.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 9.8.7\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_the_version_of_onnxruntime_is_that_of_the_build_that_is_installed():
    found = builds.versions(("numpy", "onnxruntime"))
    assert found == {"numpy": importlib.metadata.version("numpy"), "onnxruntime": onnxruntime.__version__}


def test_a_build_of_another_name_is_written_down_as_onnxruntime(monkeypatch):
    """Exports and bulk jobs ended with an unexpected error where only the build for CUDA was installed."""

    def of_other_distributions(name: str) -> str:
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return importlib.metadata.version(name)

    monkeypatch.setattr(builds, "version", of_other_distributions)
    assert builds.versions(("onnxruntime", "tqdm"))["onnxruntime"] == onnxruntime.__version__


@pytest.mark.skipif(builds.installed() != "onnxruntime", reason="the build for CUDA is installed here")
def test_both_builds_beside_each_other_are_refused_with_what_to_type(beside_cuda_build):
    assert builds.installed() == "onnxruntime-gpu"
    with pytest.raises(ProviderError, match=r"are both installed .* pip uninstall -y") as caught:
        builds.load()
    assert caught.value.exit_code == 7
