"""The runtime stands on its own: PyTorch and the exporter are never imported."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "runtime/q3_runtime"
EXPORT_ONLY = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors", "sentence_transformers", "q3_export"}
HEAVY = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors", "q3_export", "huggingface_hub")


def modules_after(code: str, *arguments: object) -> set[str]:
    """Names of the packages that a fresh interpreter has imported after running the code."""
    report = "\nimport sys, json; print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", code + report, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_fresh_interpreter_embeds_and_searches_without_pytorch(folder, tmp_path):
    (tmp_path / "notes.txt").write_text("one line\nanother line\n", encoding="utf-8")
    code = """
import sys
import numpy as np
from q3_runtime import Embedder
from q3_runtime.cli import main
model = Embedder(sys.argv[1])
queries, documents = model.encode_query(["one"]), model.encode_document(["one line", "another line"], dim=None)
assert model.similarity(queries, documents).shape == (1, 2)
assert np.isfinite(documents).all()
assert main(["search", sys.argv[1], sys.argv[2], "--query", "one"]) == 0
assert main(["embed", sys.argv[1], "text"]) == 0
assert main(["info", sys.argv[1]]) == 0
"""
    found = modules_after(code, folder, tmp_path / "notes.txt")
    assert {"onnxruntime", "tokenizers", "numpy"} <= found
    assert not found & set(HEAVY)


def test_verifying_a_folder_needs_no_pytorch(folder):
    code = "import sys; from q3_runtime.cli import main; assert main(['verify', sys.argv[1], '--quiet']) == 0"
    assert not modules_after(code, folder) & set(HEAVY)


def test_importing_the_runtime_does_not_even_load_what_it_needs():
    """Each verb of q3 does: Ctrl-C in that time was a traceback."""
    assert not modules_after("import q3_runtime.cli") & {*HEAVY, "onnxruntime", "numpy", "tokenizers", "tqdm"}


def test_the_names_of_the_runtime_are_there_all_the_same():
    import q3_runtime
    from q3_runtime.embedder import Embedder
    from q3_runtime.reranker import Reranker

    assert (q3_runtime.Embedder, q3_runtime.Reranker) == (Embedder, Reranker)
    assert set(q3_runtime.__all__) <= set(dir(q3_runtime))
    with pytest.raises(AttributeError, match="'q3_runtime' has no attribute 'Embeder'"):
        _ = q3_runtime.Embeder


@pytest.mark.parametrize("module", ["q3_runtime.cli", "q3_export.cli"])
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_imports_nothing_heavy(module, option):
    code = f"""
from {module} import main
try:
    main(["{option}"])
except SystemExit as end:
    assert not end.code
else:
    raise AssertionError("{option} goes on")
"""
    assert not modules_after(code) & {"torch", "transformers", "onnx", "onnxruntime", "onnx_ir", "onnxscript"}


@pytest.mark.parametrize("verb", ["embed", "search", "verify", "info"])
def test_help_of_a_verb_imports_nothing_heavy(verb):
    code = f"from q3_runtime.cli import main\ntry: main(['{verb}', '--help'])\nexcept SystemExit as end: assert not end.code"
    assert not modules_after(code) & {"torch", "transformers", "onnx", "onnxruntime", "onnx_ir", "onnxscript"}


@pytest.mark.parametrize("module", ["q3_runtime.cli", "q3_export.cli"])
@pytest.mark.parametrize("options", [[], ["-OO"]], ids=["as usual", "without docstrings"])
def test_the_commands_run_as_modules(module, options):
    command = [sys.executable, *options, "-m", module, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


def test_the_runtime_loads_with_no_network_of_its_own(folder, tmp_path):
    code = """
import sys
def refuse(event, arguments):
    assert not event.startswith("socket."), (event, arguments)
sys.addaudithook(refuse)
from q3_runtime import Embedder
assert Embedder(sys.argv[1]).encode("text").shape == (64,)
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_onnxruntime_is_told_not_to_report_on_its_users(folder, tmp_path):
    """Where it does, it leaves a device id and a queue of events under the user's cache; sockets open only later."""
    code = "import sys; from q3_runtime import Embedder; Embedder(sys.argv[1]).encode('text')"
    kept_from_us = ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED", "ORT_RUNNING_UNIT_TESTS", "CI")
    environment = {name: value for name, value in os.environ.items() if name not in kept_from_us}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"cache/q3-onnx/hashes.json"}


def imports(path: Path) -> list[tuple[str, int]]:
    """Package and line of every import in a file, those inside functions too; types are imported for nobody."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name.partition(".")[0], node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found.append(((node.module or "").partition(".")[0], node.lineno))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("__import__", "import_module")):
            assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: imports who knows what"
            found.append((str(node.args[0].value).partition(".")[0], node.lineno))
    return found


@pytest.mark.parametrize("path", sorted(RUNTIME.rglob("*.py")), ids=lambda path: path.relative_to(RUNTIME).as_posix())
def test_no_file_of_the_runtime_imports_the_exporter_or_what_only_it_needs(path):
    assert [f"{name} in line {line}" for name, line in imports(path) if name in EXPORT_ONLY] == []


def test_the_test_over_the_imports_sees_an_import_anywhere(tmp_path):
    function = "def f():\n  from torch.nn import Linear\n  import importlib\n  importlib.import_module('onnx.x')"
    hidden = f"import os\n{function}"
    (tmp_path / "a.py").write_text(hidden)
    assert [name for name, _ in imports(tmp_path / "a.py")] == ["os", "torch", "importlib", "onnx"]


def test_a_home_that_is_not_there_is_no_obstacle(folder, tmp_path):
    code = "import sys; from q3_runtime import Embedder; print(Embedder(sys.argv[1]).encode('text').shape)"
    environment = os.environ | {"HOME": str(tmp_path / "none"), "XDG_CACHE_HOME": "/dev/null/none"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "(64,)\n", "")
