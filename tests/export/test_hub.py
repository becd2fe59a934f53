"""Checkpoints by name and by key, from a look-alike of the hub on loopback."""

import json
import re
import subprocess
import sys

import pytest
from tests.support.hub_server import environment, serve

from q3_export import export_model
from q3_export.checkpoint import open_checkpoint
from q3_export.specs import SPECS
from q3_runtime.errors import UsageError

REPO = "Someone/Tiny-Embedding"
OPEN = """
import sys
from q3_export.checkpoint import open_checkpoint
from q3_runtime.errors import Q3Error
try:
    found = open_checkpoint(sys.argv[1], revision=sys.argv[2] or None, offline=bool(sys.argv[3]))
except Q3Error as error:
    sys.exit(f"{error.exit_code} {error.fault} {error}")
print(found.id, found.revision, found.sha256())
"""


@pytest.fixture(scope="module")
def published(checkpoint):
    """Name → content: a checkpoint as it is published, with files that an export does not need."""
    files = {path.relative_to(checkpoint).as_posix(): path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
    card = b"---\nlicense: apache-2.0\n---\n"
    return files | {"README.md": card, "pytorch_model.bin": b"pickle", "onnx/model.onnx": b"graph", "image.png": b"image"}


@pytest.fixture
def hub():
    with serve() as hub:
        yield hub


def run(hub, home, command, **variables):
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=environment(hub, home, **variables), capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def opened(hub, home, model, revision="", offline="", **variables):
    """What ``open_checkpoint`` finds in a process of its own, or the error it raises."""
    done = run(hub, home, ["-c", OPEN, model, revision, offline], **variables)
    assert done.stderr == "" or done.returncode == 1, done.stderr
    return (done.stdout or done.stderr).strip()


def test_a_checkpoint_is_exported_by_its_name_and_the_manifest_says_which_commit(hub, tmp_path, checkpoint, published):
    commit = hub.add(REPO, published)
    command = ["-m", "q3_export.cli", "--model", REPO, "--out", tmp_path / "out", "--quant", "fp32", "--json"]
    done = run(hub, tmp_path / "hf", command)
    assert (done.returncode, done.stderr) == (0, "")
    manifest = json.loads((tmp_path / "out/q3.json").read_text("utf-8"))
    assert manifest["source"] == {"id": REPO, "revision": commit, "sha256": open_checkpoint(checkpoint).sha256()}
    assert manifest["license"] == "apache-2.0"
    assert manifest["quants"]["fp32"]["fidelity"]["min"] > 0.99999
    assert f"base_model: {REPO}" in (tmp_path / "out/README.md").read_text("utf-8")
    unneeded = {"pytorch_model.bin", "onnx/model.onnx", "image.png"}
    assert hub.delivered() == sorted(set(published) - unneeded)

    hub.stop()
    command = ["-m", "q3_export.cli", "verify", tmp_path / "out", "--model", REPO, "--offline"]
    done = run(hub, tmp_path / "hf", command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("OK     fp32: ")


def test_offline_finds_the_commit_of_before_and_lists_what_is_missing(hub, tmp_path, published):
    commit = hub.add(REPO, published)
    message = opened(hub, tmp_path, REPO, offline="yes")
    assert message.startswith(f"3 E_HUB {REPO}: offline, and ")
    assert "config.json" in message
    first = opened(hub, tmp_path, REPO)
    assert first.startswith(f"{REPO} {commit} ")
    hub.stop()
    assert opened(hub, tmp_path, REPO, offline="yes") == first
    assert opened(hub, tmp_path, REPO, HF_HUB_OFFLINE="1") == first
    assert opened(hub, tmp_path, REPO).startswith("75 E_HUB")

    (snapshot,) = (tmp_path / "hub").glob("models--*/snapshots/*")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "1_Pooling/config.json").unlink()
    assert f"{tmp_path}/hub: 1_Pooling/config.json; type" in opened(hub, tmp_path, REPO, offline="yes")
    (snapshot / "1_Pooling/config.json").write_bytes(published["1_Pooling/config.json"])
    assert f"{tmp_path}/hub: model.safetensors; type" in opened(hub, tmp_path, REPO, offline="yes")


def test_a_key_is_the_commit_that_is_pinned_unless_another_is_asked_for(hub, tmp_path, published):
    spec = SPECS["0.6B"]
    assert spec.revision == "97b0c614be4d77ee51c0cef4e5f07c00f9eb65b3"
    hub.add(spec.repo, published, commit=spec.revision, branch="pinned")
    newer = hub.add(spec.repo, published | {"README.md": b"newer"})
    assert opened(hub, tmp_path, "0.6B").startswith(f"{spec.repo} {spec.revision} ")
    assert {line.split("?")[0] for line in hub.asked if "/api/models/" in line and "/tree/" not in line} == {
        f"GET /api/models/{spec.repo}/revision/{spec.revision}"
    }
    assert opened(hub, tmp_path, "0.6B", "main").startswith(f"{spec.repo} {newer} ")
    assert opened(hub, tmp_path, spec.repo).startswith(f"{spec.repo} {newer} ")
    assert opened(hub, tmp_path, "0.6B", "v9").startswith(f"3 E_HUB {spec.repo}: no revision 'v9'")


def test_the_pinned_commits_are_commits():
    pinned = {key: spec.revision for key, spec in SPECS.items() if spec.repo and key != "reranker-8B"}
    assert all(re.fullmatch("[0-9a-f]{40}", revision) for revision in pinned.values())
    assert len(set(pinned.values())) == 5


@pytest.mark.parametrize(
    ("change", "without", "message"),
    [
        ({"tokenizer_config.json": b'{"auto_map": {}}'}, "", "tokenizer_config.json: auto_map asks for remote code"),
        ({"modeling_qwen3.py": b"1 / 0"}, "", r"comes with code \(modeling_qwen3.py\)"),
        ({}, "model.safetensors", r"only pickled weights \(pytorch_model.bin\), which can run code"),
    ],
)
def test_a_repository_with_code_or_pickled_weights_is_refused_before_its_weights_are_downloaded(
    hub, tmp_path, published, change, without, message
):
    hub.add(REPO, {name: content for name, content in (published | change).items() if name != without})
    found = opened(hub, tmp_path, REPO)
    assert re.match(f"3 E_UNSAFE .*{message}", found), found
    assert not {"model.safetensors", "pytorch_model.bin", "modeling_qwen3.py"} & set(hub.delivered())


@pytest.mark.parametrize(
    "change",
    [
        lambda files: {"config.json": files["config.json"].replace(b"qwen3", b"qwen2")},
        lambda files: {"modules.json": files["modules.json"].replace(b"2_Normalize", b"2_Dense")},
    ],
    ids=["architecture", "modules"],
)
def test_another_architecture_is_refused_before_its_weights_are_downloaded(hub, tmp_path, published, change):
    hub.add(REPO, published | change(published))
    assert opened(hub, tmp_path, REPO).startswith("3 E_ARCH")
    assert "model.safetensors" not in hub.delivered()


def test_all_shards_of_a_checkpoint_are_downloaded(hub, tmp_path):
    from tests.support.checkpoints import write_checkpoint

    folder = write_checkpoint(tmp_path / "sharded", shards=3)
    hub.add(REPO, folder)
    assert opened(hub, tmp_path / "hf", REPO).endswith(open_checkpoint(folder).sha256())
    assert len([name for name in hub.delivered() if name.endswith(".safetensors")]) == 3


def test_weights_in_folders_of_a_training_run_are_left_there(hub, tmp_path, published):
    more = dict.fromkeys(("checkpoint-500/model.safetensors", "adapter/adapter_model.safetensors"), b"gigabytes")
    hub.add(REPO, published | more)
    assert opened(hub, tmp_path, REPO)[0] not in "1234567"
    assert [name for name in hub.delivered() if name.endswith(".safetensors")] == ["model.safetensors"]


def test_weights_of_the_right_size_with_other_content_are_refused_and_healed(hub, tmp_path, published):
    hub.add(REPO, published)
    content = published["model.safetensors"]
    hub.wrong["model.safetensors"] = content[:-1] + bytes([content[-1] ^ 1])
    assert re.match("6 E_HUB .*: model.safetensors: its hash is", opened(hub, tmp_path, REPO))
    hub.wrong.clear()
    assert opened(hub, tmp_path, REPO).startswith(REPO)


def test_an_error_of_the_hub_is_one_line_of_the_command_and_leaves_nothing(hub, tmp_path):
    hub.refuse = (401, "RepoNotFound")
    command = ["-m", "q3_export.cli", "--model", REPO, "--out", tmp_path / "out", "--json"]
    done = run(hub, tmp_path / "hf", command)
    assert (done.returncode, done.stdout) == (3, "")
    assert "HF_TOKEN" in json.loads(done.stderr)["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_a_folder_of_that_name_is_taken_before_the_hub(hub, tmp_path, published, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Someone").mkdir()
    (tmp_path / REPO).symlink_to(checkpoint)
    found = open_checkpoint(REPO)
    assert (found.id, found.revision) == ("Tiny-Embedding", None)


def test_a_revision_of_a_folder_is_refused(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="leave out --revision"):
        export_model(checkpoint, out=tmp_path / "out", revision="main")
