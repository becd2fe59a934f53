"""Models by name, from a look-alike of the hub on loopback: downloads, the cache, and what can go wrong."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from tests.support import hub_server
from tests.support.hub_server import environment, serve

from q3_runtime import Embedder
from q3_runtime.errors import UsageError
from q3_runtime.model_folder import is_hub_id

REPO = "Someone/Tiny-onnx"
WEIGHTS = "onnx/model.onnx_data"


@pytest.fixture(scope="module")
def published(folder):
    """Name → content: the exported folder with another quant, and files that nobody needs."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    manifest = json.loads(files["q3.json"])
    other = {"onnx/model_fp16.onnx": b"graph", "onnx/model_fp16.onnx_data": b"weights"}
    entries = {name: {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()} for name, text in other.items()}
    manifest["quants"]["fp16"] = manifest["quants"]["fp32"] | {"files": entries}
    return files | other | {"q3.json": json.dumps(manifest).encode(), "pytorch_model.bin": b"pickle", "code.py": b"1 / 0"}


@pytest.fixture
def hub(published):
    with serve() as hub:
        hub.add(REPO, published)
        yield hub


@pytest.fixture
def home(tmp_path):
    return tmp_path / "hf"


def run(hub, home, code, *arguments, **variables):
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, env=environment(hub, home, **variables), capture_output=True, text=True, check=False, timeout=120
    )
    assert "Traceback" not in done.stderr
    return done


def q3(hub, home, *arguments, **variables):
    return run(hub, home, "import sys; from q3_runtime.cli import main; sys.exit(main())", *arguments, **variables)


def refused(done, code):
    """The message of a command that ended with this code and one line."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert re.fullmatch(r"q3: error(\[E_HUB\])?: .*\n", done.stderr), done.stderr
    return done.stderr


def needed(published, quant="fp32"):
    manifest = json.loads(published["q3.json"])
    return sorted({"q3.json", *manifest["files"], *manifest["quants"][quant]["files"]})


def snapshot(home):
    (found,) = (home / "hub/models--Someone--Tiny-onnx/snapshots").iterdir()
    return found


def leftovers(home):
    return [path.name for path in (home / "hub").rglob("*.incomplete")]


def test_a_name_is_downloaded_only_the_files_of_the_chosen_quant_and_works_offline_afterwards(hub, home, published, folder):
    first = q3(hub, home, "embed", REPO, "some text", "--dim", "32")
    assert (first.returncode, first.stderr) == (0, "")
    assert hub.delivered() == needed(published)
    assert json.loads(first.stdout)["embedding"] == Embedder(folder).encode("some text", dim=32).tolist()
    assert (snapshot(home) / WEIGHTS).is_symlink()

    hub.asked.clear()
    assert q3(hub, home, "embed", REPO, "some text", "--dim", "32").stdout == first.stdout
    assert hub.delivered() == []

    hub.stop()
    again = q3(hub, home, "embed", REPO, "some text", "--dim", "32", HF_HUB_OFFLINE="1")
    assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, "")


def test_a_quant_that_is_asked_for_is_the_one_that_is_downloaded(hub, home, published):
    q3(hub, home, "embed", REPO, "some text", "--quant", "fp16")  # its files are no graph
    assert hub.delivered() == needed(published, "fp16")
    assert "pass one of these" in q3(hub, home, "embed", REPO, "text", "--quant", "q4").stderr


def test_info_takes_the_manifest_and_nothing_else(hub, home):
    done = q3(hub, home, "info", REPO)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Tiny-Embedding (embedding)" in done.stdout
    assert hub.delivered() == ["q3.json"]


def test_verify_takes_a_name(hub, home, published):
    done = q3(hub, home, "verify", REPO, "--quant", "fp32", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("OK     fp32: ")
    assert hub.delivered() == needed(published)


def test_the_token_of_the_environment_is_sent(hub, home):
    assert q3(hub, home, "info", REPO, HF_TOKEN="hf_secret").returncode == 0
    assert "Bearer hf_secret" in hub.tokens
    assert "hf_secret" not in "".join(path.read_text() for path in (home / "cache").rglob("*") if path.is_file())


def test_a_revision_is_a_branch_or_a_commit(hub, home, published):
    old = hub.branches[REPO]["main"]
    new = hub.add(REPO, published | {"README.md": b"new"})
    code = "import sys; from q3_runtime import Embedder; print(Embedder(sys.argv[1], revision=sys.argv[2] or None).folder.name)"
    for revision, commit in (("", new), ("main", new), (old, old)):
        assert run(hub, home, code, REPO, revision).stdout == commit + "\n"
    hub.stop()
    assert run(hub, home, code, REPO, old, HF_HUB_OFFLINE="1").stdout == old + "\n"
    assert run(hub, home, code, REPO, "", HF_HUB_OFFLINE="1").stdout == new + "\n"


def test_a_revision_of_a_folder_is_refused(folder):
    with pytest.raises(UsageError, match="leave out the revision"):
        Embedder(folder, revision="main")


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (
            (401, "RepoNotFound"),
            3,
            "no folder of this name here, and .* answered 401: not there, private or gated, .* set HF_TOKEN",
        ),
        ((403, "GatedRepo"), 3, "accept the model's terms on its page, and set HF_TOKEN"),
        ((404, "RepoNotFound"), 3, "no folder of this name here and no model on .*; check the name"),
        ((404, "RevisionNotFound"), 3, "no revision None on"),
        ((418, ""), 3, "answered 418"),
        ((429, ""), 75, "answered 429; try again"),
        ((503, ""), 75, "answered 503; try again"),
    ],
)
def test_what_the_hub_answers_is_one_line_and_an_exit_code(hub, home, status, code, message):
    hub.refuse = status
    assert re.search(message, refused(q3(hub, home, "info", REPO), code))


def test_names_that_are_nowhere(hub, home):
    assert "check the name" in refused(q3(hub, home, "info", "Someone/Else"), 3)
    assert "expected ORG/NAME" in refused(q3(hub, home, "info", "Some--one/Else"), 3)
    assert "no such folder" in refused(q3(hub, home, "info", "./Someone/Tiny-onnx"), 3)
    hub.asked.clear()
    assert "no such folder" in refused(q3(hub, home, "info", "../Someone/Tiny-onnx"), 3)
    assert hub.asked == []


def test_a_model_that_q3_export_has_not_made_says_so(hub, home):
    hub.add("Someone/Tiny", {"config.json": b"{}"})
    assert "type: q3-export --model Someone/Tiny" in refused(q3(hub, home, "info", "Someone/Tiny"), 3)


def test_a_revision_that_is_not_there(hub, home):
    code = """
import sys
from q3_runtime import Embedder, Q3Error
try: Embedder(sys.argv[1], revision="v9")
except Q3Error as error: sys.exit(f"{error.exit_code} {error}")
"""
    assert run(hub, home, code, REPO).stderr.startswith(f"3 {REPO}: no revision 'v9' on {hub.url}, expected a branch")


def test_a_hub_that_is_away_is_busy_and_says_how_to_go_on_without(hub, home):
    hub.stop()
    message = refused(q3(hub, home, "info", REPO), 75)
    assert "no folder of this name here, and" in message
    assert "cannot be reached" in message
    assert "HF_HUB_OFFLINE=1" in message


@pytest.mark.parametrize("page", [b"<html>please log in</html>", b"{}", b"[]"])
def test_a_server_that_is_no_hub_is_said_to_be_none(hub, home, page):
    hub.refuse, hub.page = (200, ""), page
    assert "does not answer as a hub does" in refused(q3(hub, home, "info", REPO), 3)


def test_a_mirror_that_lists_no_hashes_is_checked_by_those_it_delivers(hub, home, published, monkeypatch):
    monkeypatch.setattr(hub_server, "_sibling", lambda name, _: {"rfilename": name})
    hub.wrong["q3.json"] = published["q3.json"][:-20] + bytes(20)
    assert "q3.json: its hash is" in refused(q3(hub, home, "info", REPO), 6)
    hub.wrong.clear()
    assert q3(hub, home, "info", REPO).returncode == 0


def test_a_download_that_breaks_off_once_goes_on_where_it_was(hub, home):
    hub.cut[WEIGHTS] = 1
    done = q3(hub, home, "embed", REPO, "text", "--dim", "32")
    assert (done.returncode, done.stderr) == (0, "")
    assert len([line for line in hub.asked if line.startswith("GET /cdn") and line.endswith(WEIGHTS)]) == 2


def test_a_download_that_keeps_breaking_off_is_busy_and_leaves_no_half_file(hub, home, published):
    assert q3(hub, home, "info", REPO).returncode == 0
    hub.cut[WEIGHTS] = -1
    assert "broke off" in refused(q3(hub, home, "embed", REPO, "text"), 75)
    assert leftovers(home) == []
    assert not (snapshot(home) / WEIGHTS).exists()
    hub.cut.clear()
    hub.asked.clear()
    assert q3(hub, home, "embed", REPO, "text").returncode == 0
    assert WEIGHTS in hub.delivered()
    assert "q3.json" not in hub.delivered()


@pytest.mark.parametrize("name", ["q3.json", "onnx/model.onnx"])
def test_a_file_of_the_right_size_with_other_content_is_refused_and_healed_by_the_next_run(hub, home, published, name):
    hub.wrong[name] = published[name][:-20] + bytes(20)
    message = refused(q3(hub, home, "embed", REPO, "text"), 6)
    assert f"{REPO}: {name}: its hash is " in message
    assert "type the same again" in message
    hub.wrong.clear()
    assert q3(hub, home, "embed", REPO, "text").returncode == 0


def test_a_hub_that_fails_after_the_first_answer_is_busy(hub, home, monkeypatch):
    assert q3(hub, home, "info", REPO).returncode == 0
    (tree,) = (home / "hub").rglob("trees/*.json")
    tree.unlink()
    (snapshot(home) / "q3.json").unlink()
    answer = hub_server._Handler._send_json

    def fail(handler, content):
        handler._send(418, {}, b"") if isinstance(content, list) else answer(handler, content)

    monkeypatch.setattr(hub_server._Handler, "_send_json", fail)
    assert "the hub did not deliver q3.json; try again" in refused(q3(hub, home, "info", REPO), 75)


def test_a_repository_that_changes_between_look_and_download_is_busy(hub, home, published):
    changed = published | {"q3.json": published["q3.json"].replace(b"Tiny-Embedding", b"Tony-Embedding")}

    def change(name):
        hub.before_delivery = str
        hub.commits[REPO].clear()
        hub.add(REPO, changed)

    hub.before_delivery = change
    assert "it changed on the hub while it was downloaded; try again" in refused(q3(hub, home, "info", REPO), 75)
    assert "Tony-Embedding" in q3(hub, home, "info", REPO).stdout


def test_offline_the_missing_files_are_listed(hub, home, published):
    assert "in the cache" in refused(q3(hub, home, "info", REPO, HF_HUB_OFFLINE="1"), 3)
    assert q3(hub, home, "info", REPO).returncode == 0
    hub.stop()
    message = refused(q3(hub, home, "embed", REPO, "text", HF_HUB_OFFLINE="1"), 3)
    listed = re.search(r"in the cache [^:]+: ([^;]+);", message)
    assert listed
    assert sorted(listed.group(1).split(", ")) == [name for name in needed(published) if name != "q3.json"]


@pytest.fixture
def cached(hub, home):
    """The snapshot of a complete download; the hub is away."""
    assert q3(hub, home, "embed", REPO, "text").returncode == 0
    hub.stop()
    return snapshot(home)


def test_a_damaged_blob_is_found_offline_and_removed(hub, home, cached):
    blob = (cached / WEIGHTS).resolve()
    with blob.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert f"{WEIGHTS}: its hash is" in refused(q3(hub, home, "embed", REPO, "text", HF_HUB_OFFLINE="1"), 6)
    assert not blob.exists()
    assert WEIGHTS in refused(q3(hub, home, "embed", REPO, "text", HF_HUB_OFFLINE="1"), 3)


def test_a_link_that_leads_out_of_the_cache_is_refused_whatever_is_there(hub, home, cached, tmp_path):
    elsewhere = shutil.copy((cached / "tokenizer.json").resolve(), tmp_path / (cached / "tokenizer.json").resolve().name)
    (cached / "tokenizer.json").unlink()
    (cached / "tokenizer.json").symlink_to(elsewhere)
    message = refused(q3(hub, home, "embed", REPO, "text", HF_HUB_OFFLINE="1"), 6)
    assert f"leads to {elsewhere}, expected a file in" in message
    assert elsewhere.exists()


def test_the_snapshot_of_the_cache_loads_as_a_folder(cached):
    assert (cached / WEIGHTS).is_symlink()
    assert Embedder(cached).encode("text").shape == (64,)


def share(cached):
    """Move the blobs to where the hub's library keeps those that several repositories share."""
    store = cached.parents[2] / "blobs"
    for blob in (cached.parents[1] / "blobs").iterdir():
        place = store / blob.name[-2:] / f"x{blob.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        blob.rename(place)
        blob.symlink_to(os.path.relpath(place, blob.parent))


def test_blobs_that_repositories_share_load_too(hub, home, cached):
    share(cached)
    for _ in range(2):
        done = q3(hub, home, "embed", REPO, "text", HF_HUB_OFFLINE="1")
        assert (done.returncode, done.stderr) == (0, "")
    plain = cached.parents[1] / "plain" / cached.name / WEIGHTS
    assert plain.samefile(cached / WEIGHTS)
    assert not plain.is_symlink()
    shutil.rmtree(cached.parents[1] / "plain")
    (cached.parents[3] / "link").symlink_to(cached)
    for path in (cached, cached.parents[3] / "link"):  # by its path, too
        assert Embedder(path).encode("text").shape == (64,)


def test_a_damaged_shared_blob_is_found_and_removed(hub, home, cached):
    share(cached)
    real = (cached / "config.json").resolve()
    real.write_bytes(real.read_bytes().replace(b"qwen3", b"qwen2"))
    assert "config.json: its hash is" in refused(q3(hub, home, "embed", REPO, "text", HF_HUB_OFFLINE="1"), 6)
    assert not real.exists()


def test_hard_linked_copies_of_a_folder_load(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy", copy_function=os.link)
    assert (copy / WEIGHTS).stat().st_nlink > 1
    assert Embedder(copy).encode("text").shape == (64,)


def test_a_folder_loads_without_a_socket_in_a_home_that_cannot_be_written(folder):
    code = """
import sys
sockets = []
sys.addaudithook(lambda event, arguments: sockets.append(event) if event.startswith("socket.") else None)
from q3_runtime import Embedder
print(Embedder(sys.argv[1]).encode("text").shape, sockets, "huggingface_hub" in sys.modules)
"""
    variables = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    variables |= {"HOME": "/proc", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code, str(folder)], env=variables, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("(64,) [] False\n", "")


def test_offline_a_name_opens_no_socket_either(hub, home, cached):
    code = """
import sys
sockets = []
sys.addaudithook(lambda event, arguments: sockets.append(event) if event.startswith("socket.") else None)
from q3_runtime import Embedder
print(Embedder(sys.argv[1]).encode("text").shape, sockets)
"""
    done = run(hub, home, code, REPO, HF_HUB_OFFLINE="1")
    assert (done.stdout, done.stderr) == ("(64,) []\n", "")


@pytest.mark.parametrize("stand_in", ["None", "type(sys)('huggingface_hub')"], ids=["missing", "too old"])
def test_without_the_library_the_extra_is_named(hub, home, stand_in):
    code = f"""
import sys
sys.modules['huggingface_hub'] = {stand_in}
from q3_runtime.cli import main
sys.exit(main(["info", "{REPO}"]))
"""
    assert "type: pip install 'q3-onnx[hub]'" in refused(run(hub, home, code), 2)


def test_the_library_is_imported_when_it_is_used_and_not_before():
    code = "import sys, q3_runtime.hub, q3_runtime.model_folder; print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen3-Embedding-0.6B", True),
        ("a/b", True),
        ("./a", False),
        ("../a", False),
        ("~/a", False),
        ("~a/b", False),
        ("/a/b", False),
        ("a", False),
        ("a/b/c", False),
        ("a/", False),
        ("a\\b", False),
        ("a/b\n", False),
        ("ä/b", False),
    ],
)
def test_which_names_can_be_of_the_hub(name, expected):
    assert is_hub_id(name) is expected
