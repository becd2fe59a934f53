"""--push: from an export to a repository that the runtime loads, on a look-alike of the hub."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.support.checkpoints import write_checkpoint
from tests.support.hub_server import Hub, environment, serve

from q3_runtime import Embedder
from q3_runtime.manifest import Manifest

REPO = "whale-lab/tiny-onnx"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as hub:
        hub.uploads.users["hf_writer"] = ("mel", ["whale-lab"])
        yield hub


def export(hub: Hub, checkpoint: Path, home: Path, *options: str, token: str | None = "hf_writer", **more: str):
    command = [sys.executable, "-m", "q3_export.cli", "--model", str(checkpoint), "--out", str(home / "out"), "--no-verify"]
    kept = environment(hub, home / "hf", **more) | ({"HF_TOKEN": token} if token else {})
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False, env=kept)


def files(hub: Hub) -> dict[str, bytes]:
    return {
        name: file.content for name, file in hub.commits[REPO][hub.branches[REPO]["main"]].items() if name != ".gitattributes"
    }


def test_what_was_exported_is_there_in_one_commit_and_the_runtime_loads_it(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    done = export(hub, checkpoint, tmp_path, "--quant", "q8", "--push", REPO)
    assert done.returncode == 0, done.stderr
    assert f"pushed to {hub.url}/{REPO}, private if it is new" in done.stderr
    out = tmp_path / "out"
    local = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert files(hub) == local
    assert hub.uploads.messages == ["q3-export: q8"]
    assert hub.uploads.private == {REPO}

    code = (
        "import sys, numpy; from q3_runtime import Embedder; numpy.save(sys.argv[2], Embedder(sys.argv[1]).encode(['whale']))"
    )
    kept = environment(hub, tmp_path / "other")
    subprocess.run([sys.executable, "-c", code, REPO, str(tmp_path / "v.npy")], check=True, env=kept, capture_output=True)
    with Embedder(out) as ours:
        assert np.array_equal(np.load(tmp_path / "v.npy"), ours.encode(["whale"]))


def test_a_second_push_replaces_what_the_first_left(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    assert export(hub, checkpoint, tmp_path, "--quant", "q8", "--push", REPO).returncode == 0
    hub.add(REPO, files(hub) | {".gitattributes": b"", "plots/mine.png": b"not ours"})
    done = export(hub, checkpoint, tmp_path, "--quant", "q4", "--push", REPO, "--layout", "tei", "--force")
    assert done.returncode == 0, done.stderr
    assert sorted(name for name in files(hub) if "onnx/" in name) == ["onnx/model.onnx", "onnx/model.onnx_data"]
    assert list(json.loads(files(hub)["q3.json"])["quants"]) == ["q4"]
    assert files(hub)["plots/mine.png"] == b"not ours"
    assert len(hub.uploads.messages) == 2


def test_a_token_that_may_not_write_is_refused_before_any_work(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    none = export(hub, checkpoint, tmp_path, "--push", REPO, token=None)
    assert (none.returncode, none.stderr.count("\n")) == (3, 1)
    assert "no token, expected one with write access; set HF_TOKEN" in none.stderr
    unknown = export(hub, checkpoint, tmp_path, "--push", REPO, token="hf_nobody")
    assert unknown.returncode == 3
    assert "set HF_TOKEN to a token with write access" in unknown.stderr
    other = export(hub, checkpoint, tmp_path, "--push", "qwen/tiny")
    assert other.returncode == 3
    assert "the token is for mel, whale-lab; give one of these as ORG" in other.stderr
    hub.uploads.read_only.add("hf_writer")
    reader = export(hub, checkpoint, tmp_path, "--push", REPO)
    assert reader.returncode == 3
    assert "the token may only read, expected one with write access" in reader.stderr
    assert not (tmp_path / "out").exists()
    assert hub.commits == {}


def test_a_name_that_is_none_and_being_offline_are_refused(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    wrong = export(hub, checkpoint, tmp_path, "--push", "tiny")
    assert wrong.returncode == 2
    assert "push 'tiny': expected ORG/NAME" in wrong.stderr
    for offline in (export(hub, checkpoint, tmp_path, "--push", REPO, "--offline"),
                    export(hub, checkpoint, tmp_path, "--push", REPO, HF_HUB_OFFLINE="1")):  # fmt: skip
        assert offline.returncode == 2
        assert "offline given together" in offline.stderr


def test_a_repository_that_holds_something_else_is_left_alone(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    hub.add(REPO, {"README.md": b"mine", "model.safetensors": b"weights"})
    done = export(hub, checkpoint, tmp_path, "--push", REPO)
    assert done.returncode == 3
    assert f"{REPO}: holds 2 files and no q3.json" in done.stderr
    assert sorted(files(hub)) == ["README.md", "model.safetensors"]


@pytest.mark.parametrize(
    ("status", "said", "code", "words"),
    [
        (403, "Private repository storage limit reached", 3, "403 (Private repository storage limit reached), expected leave"),
        (412, "A commit has happened since", 75, "(the hub answered 412: A commit has happened since); look at that"),
    ],
)
def test_where_the_hub_refuses_at_the_end_the_folder_is_whole_and_the_way_out_is_said(
    hub: Hub, checkpoint: Path, tmp_path: Path, status: int, said: str, code: int, words: str
) -> None:
    hub.uploads.refused["/commit/"] = (status, said)
    done = export(hub, checkpoint, tmp_path, "--quant", "q8", "--push", REPO)
    assert done.returncode == code
    assert words in done.stderr.splitlines()[-1]
    assert f"is complete; type: hf upload {REPO} {tmp_path / 'out'}" in done.stderr.splitlines()[-1]
    assert list(Manifest.read(tmp_path / "out").quants) == ["q8"]


def test_a_card_that_the_hub_refuses_is_said(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    hub.uploads.wrong_in_cards.append('"license" must be one of those known')
    done = export(hub, checkpoint, tmp_path, "--quant", "q8", "--push", REPO)
    assert done.returncode == 3
    assert 'the hub refuses the folder\'s card: Invalid metadata in README.md. - "license" must be one of' in done.stderr
    assert f"is complete; type: hf upload {REPO}" in done.stderr


def test_a_file_that_arrived_damaged_is_said(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    hub.uploads.damage = b"x"
    done = export(hub, checkpoint, tmp_path, "--quant", "q8", "--push", REPO)
    assert done.returncode == 6
    assert "the hub does not hold what was sent" in done.stderr


def test_another_models_repository_is_not_replaced_without_force(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    assert export(hub, checkpoint, tmp_path / "first", "--quant", "q8", "--push", REPO).returncode == 0
    other = write_checkpoint(tmp_path / "Other-Embedding", seed=1)
    done = export(hub, other, tmp_path / "second", "--quant", "q8", "--push", REPO)
    assert done.returncode == 3
    assert f"{REPO}: was made from another checkpoint (Tiny-Embedding); give another name, or --force" in done.stderr
    assert not (tmp_path / "second/out").exists()
    assert len(hub.uploads.messages) == 1
