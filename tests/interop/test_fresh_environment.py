"""A new machine: only the wheel and its [cpu] extra."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT

HEAVY = {"torch", "transformers", "onnx", "onnx-ir", "onnxscript", "safetensors"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with ``q3-onnx[cpu]`` from a built wheel."""
    base = tmp_path_factory.mktemp("fresh")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(base), str(ROOT)], check=True)
    (wheel,) = base.glob("q3_onnx-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(base / "venv")], check=True)
    python = [str(base / "venv/bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*python, "install", "-c", str(ROOT / "constraints.txt"), f"{wheel}[cpu]"], check=True)
    return base / "venv"


def run(environment: Path, *args: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(environment / "bin" / args[0]), *args[1:]], capture_output=True, text=True, check=False, **options
    )


def test_embed_and_verify_run_without_anything_heavy(environment: Path, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")  # a folder that came from elsewhere
    embedded = run(environment, "q3", "embed", str(copy), "some text", "--dim", "32")
    assert embedded.returncode == 0, embedded.stderr
    assert '"embedding": [' in embedded.stdout
    verified = run(environment, "q3", "verify", str(copy))
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.startswith("OK     fp32")
    installed = run(environment, "python", "-m", "pip", "--disable-pip-version-check", "list", "--format=freeze").stdout
    names = {line.split("==")[0].lower() for line in installed.splitlines()}
    assert not names & HEAVY
    assert "onnxruntime" in names


def test_the_installed_size_is_the_one_in_the_readme(environment: Path) -> None:
    (packages,) = environment.glob("lib/python*/site-packages")
    own = ("pip", "setuptools", "_distutils_hack", "wheel")  # what venv brings itself
    parts = [part for part in packages.iterdir() if not part.name.startswith(own)]
    files = [file for part in parts for file in ([part] if part.is_file() else part.rglob("*")) if file.is_file()]
    size = sum(file.stat().st_size for file in files if file.suffix != ".pyc") / 1e6
    stated = re.search(r"([\d,]+) MB installed", (ROOT / "README.md").read_text())
    assert stated, f"{size:.0f} MB"
    assert float(stated.group(1).replace(",", "")) == pytest.approx(size, rel=0.1)


def test_q3_export_says_which_extra_is_missing(environment: Path, tmp_path: Path) -> None:
    result = run(environment, "q3-export", "--model", str(tmp_path))
    assert result.returncode == 2
    assert "pip install 'q3-onnx[export]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_without_onnxruntime_the_line_says_what_to_type(environment: Path, folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(environment, tmp_path / "bare", symlinks=True)
    for part in bare.glob("lib/python*/site-packages/onnxruntime*"):
        shutil.rmtree(part)
    (packages,) = bare.glob("lib/python*/site-packages")
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.append({str(packages)!r}); from q3_runtime.cli import main; sys.exit(main())",
    ]
    result = subprocess.run([*command, "embed", str(folder), "x"], capture_output=True, text=True, check=False)
    assert result.returncode == 7
    assert result.stderr == "q3: error: onnxruntime is not installed; type: pip install 'q3-onnx[cpu]'   (or [gpu])\n".replace(
        "   ", " "
    )
