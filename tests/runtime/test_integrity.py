"""Files that are not the ones that were exported, hashes that are remembered, manifests that are damaged."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q3_runtime import Embedder, hash_memory
from q3_runtime.cli import main
from q3_runtime.errors import IntegrityError, ModelError
from q3_runtime.golden import Golden
from q3_runtime.hash_memory import sha256
from q3_runtime.manifest import MAX_MANIFEST_BYTES, Manifest

DATA = "onnx/model.onnx_data"
USED = ("onnx/model.onnx", DATA, "tokenizer.json", "config.json", "golden.safetensors")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the exported folder that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which this test's hashes are remembered, of files made a moment ago too; it is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_memory, "SETTLED", 0)
    return tmp_path / "cache/q3-onnx/hashes.json"


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "q3.json").read_text("utf-8"))
    change(content)
    (folder / "q3.json").write_text(json.dumps(content), encoding="utf-8")


def manifest_entry(folder: Path, name: str) -> dict[str, Any]:
    content = json.loads((folder / "q3.json").read_text("utf-8"))
    return (content["files"] | content["quants"]["fp32"]["files"])[name]


# One byte


@pytest.mark.parametrize("name", USED)
def test_one_changed_byte_is_refused_with_both_hashes(copy, name):
    flip_a_byte(copy / name)
    found, expected = sha256(copy / name), manifest_entry(copy, name)["sha256"]
    with pytest.raises(IntegrityError) as caught:
        Embedder(copy)
    assert caught.value.exit_code == 6
    assert str(copy / name) in str(caught.value)
    assert found[:12] in str(caught.value)
    assert expected[:12] in str(caught.value)


@pytest.mark.parametrize("name", USED)
def test_verify_refuses_one_changed_byte(copy, name, capsys):
    flip_a_byte(copy / name)
    assert main(["verify", str(copy), "--quiet"]) == 6
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert str(copy / name) in err
    assert sha256(copy / name)[:12] in err
    assert manifest_entry(copy, name)["sha256"][:12] in err


def test_a_byte_changed_after_a_first_load_is_refused_too(copy, cache):
    Embedder(copy)
    flip_a_byte(copy / DATA)
    with pytest.raises(IntegrityError, match=r"model\.onnx_data: sha256"):
        Embedder(copy)


# Sizes


@pytest.mark.parametrize("name", [DATA, "onnx/model.onnx", "tokenizer.json"])
def test_a_missing_file_is_named(copy, name):
    expected = (copy / name).stat().st_size
    (copy / name).unlink()
    with pytest.raises(IntegrityError) as caught:
        Embedder(copy)
    assert caught.value.exit_code == 6
    assert str(caught.value).startswith(f"{copy / name}: missing, expected {expected} bytes; ")


@pytest.mark.parametrize("name", [DATA, "onnx/model.onnx", "tokenizer.json"])
@pytest.mark.parametrize("change", [-1, 1, 4096])
def test_a_shorter_or_longer_file_is_named_with_both_sizes(copy, name, change):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:change] if change < 0 else content + bytes(change))
    with pytest.raises(IntegrityError) as caught:
        Embedder(copy)
    assert caught.value.exit_code == 6
    assert str(caught.value).startswith(f"{copy / name}: {len(content) + change} bytes, expected {len(content)}; ")


@pytest.mark.parametrize("name", [DATA, "tokenizer.json", "golden.safetensors"])
def test_a_pointer_of_git_lfs_is_said_to_be_one(copy, name):
    (copy / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:6f\nsize 3\n")
    with pytest.raises(IntegrityError, match=rf"{name}: a pointer of Git LFS, .*git lfs pull"):
        Embedder(copy)


def test_an_empty_data_file_is_named(copy):
    (copy / DATA).write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"model\.onnx_data: 0 bytes, expected"):
        Embedder(copy)


def test_a_folder_in_place_of_a_file_is_missing(copy):
    (copy / DATA).unlink()
    (copy / DATA).mkdir()
    with pytest.raises(IntegrityError, match=r"model\.onnx_data: missing"):
        Embedder(copy)


# Links


def test_links_that_lead_elsewhere_are_refused_with_and_without_hashes(copy, tmp_path):
    for name in ("onnx/model.onnx", DATA, "tokenizer.json", "onnx"):
        linked = Path(shutil.copytree(copy, tmp_path / name.replace("/", "-") / "copy"))
        real = (linked / name).rename(tmp_path / f"real-{name.replace('/', '-')}")
        (linked / name).symlink_to(real)
        for hashes in (True, False) if "onnx" in name else (True,):
            with pytest.raises(IntegrityError, match=r"a link to .*, expected a file, or a link of the hub's cache"):
                Embedder(linked, check_hashes=hashes)


def test_a_link_to_another_file_of_the_folder_is_refused(copy):
    (copy / DATA).rename(copy / "onnx/other")
    (copy / DATA).symlink_to("other")
    with pytest.raises(IntegrityError, match="a link to"):
        Embedder(copy)


def test_a_link_to_the_folder_and_hard_links_are_fine(folder, copy, tmp_path):
    (tmp_path / "link").symlink_to(copy)
    expected = Embedder(folder).encode("a")
    np.testing.assert_array_equal(Embedder(tmp_path / "link").encode("a"), expected)
    (tmp_path / "onnx").mkdir()
    for name in ("onnx/model.onnx", DATA):
        os.link(copy / name, tmp_path / name)
    np.testing.assert_array_equal(Embedder(copy).encode("a"), expected)


def test_blobs_of_a_hub_cache_count_only_beside_their_own_snapshot(copy, tmp_path):
    snapshot = tmp_path / "models--org--name/snapshots/abc"
    blobs = tmp_path / "models--org--name/blobs"
    blobs.mkdir(parents=True)
    shutil.copytree(copy, snapshot)
    for name in USED:
        real = (snapshot / name).rename(blobs / name.replace("/", "-"))
        (snapshot / name).symlink_to(os.path.relpath(real, (snapshot / name).parent))
    assert Embedder(snapshot).encode("a").shape == (64,)
    (tmp_path / "named").symlink_to(snapshot)
    assert Embedder(tmp_path / "named").encode("a").shape == (64,)
    other = tmp_path / "models--org--other/snapshots/abc"
    shutil.copytree(copy, other)
    (other / DATA).unlink()
    (other / DATA).symlink_to(blobs / DATA.replace("/", "-"))
    with pytest.raises(IntegrityError, match="a link to"):
        Embedder(other)


@pytest.mark.parametrize("name", ["tokenizer.json", "onnx/model.onnx"])
def test_a_file_that_is_read_whole_and_is_far_too_large_is_refused_before_it_is_read(copy, name):
    size = (1 << 28) + 1
    os.truncate(copy / name, size)
    edit_manifest(copy, lambda manifest: (manifest["files"] | manifest["quants"]["fp32"]["files"])[name].update(bytes=size))
    with pytest.raises(IntegrityError, match=rf"{size} bytes, expected at most"):
        Embedder(copy)


# Without hashes


def test_check_hashes_false_loads_a_changed_folder(copy):
    (copy / "config.json").write_text("{}")
    flip_a_byte(copy / DATA)
    model = Embedder(copy, check_hashes=False, self_check=False)
    assert model.encode(["text"]).shape == (1, model.dims)


def test_check_hashes_false_still_has_one_clear_error_for_a_missing_data_file(copy):
    (copy / DATA).unlink()
    with pytest.raises(IntegrityError, match="missing, expected") as caught:
        Embedder(copy, check_hashes=False)
    assert "\n" not in str(caught.value)


def test_check_hashes_false_still_has_one_clear_error_for_a_graph_that_is_none(copy):
    (copy / "onnx/model.onnx").write_bytes(b"not a graph")
    with pytest.raises(IntegrityError, match="not a graph of q3-export") as caught:
        Embedder(copy, check_hashes=False)
    assert "\n" not in str(caught.value)


def test_check_hashes_false_still_has_one_clear_error_for_a_tokenizer_that_appends_nothing(copy):
    content = json.loads((copy / "tokenizer.json").read_text("utf-8"))
    (copy / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}), "utf-8")
    with pytest.raises(IntegrityError, match=r"tokenizer\.json: it appends nothing to a text, expected <\|endoftext\|>"):
        Embedder(copy, check_hashes=False)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.clear(),
        lambda content: content["post_processor"]["processors"][1].update(
            special_tokens={}
        ),  # tokenizers panics when it encodes
        lambda content: content["model"].update(continuing_subword_prefix="##"),  # panics when it is loaded
        lambda content: content["model"].update(continuing_subword_prefix="x"),  # ends the process
    ],
)
def test_check_hashes_false_still_has_one_clear_error_for_a_tokenizer_that_is_none(copy, damage):
    content = json.loads((copy / "tokenizer.json").read_text("utf-8"))
    damage(content)
    (copy / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(IntegrityError, match=r"tokenizer\.json: not a tokenizer") as caught:
        Embedder(copy, check_hashes=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("golden.json", b"{"),
        ("golden.json", b"[]"),
        ("golden.json", b'[{"text": "a"}]'),
        ("golden.json", b"[" * 200_000),
        ("golden.safetensors", b""),
        ("golden.safetensors", b"\x00" * 32),
        ("golden.safetensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"),
    ],
)
def test_golden_vectors_that_cannot_be_read_are_an_integrity_error(copy, name, content):
    (copy / name).write_bytes(content)
    with pytest.raises(IntegrityError, match="golden vectors cannot be read"):
        Golden.read(copy)


@pytest.mark.parametrize(
    ("key", "value"), [("ids", 7), ("ids", []), ("ids", ["a"]), ("ids", [1.0]), ("ids", None), ("text", 7), ("kind", [])]
)
def test_a_golden_text_that_is_none_is_an_integrity_error(copy, key, value):
    probes = json.loads((copy / "golden.json").read_text("utf-8"))
    probes[1][key] = value
    (copy / "golden.json").write_text(json.dumps(probes), encoding="utf-8")
    with pytest.raises(IntegrityError, match="golden vectors cannot be read"):
        Golden.read(copy)


# Remembered hashes


def test_the_first_load_remembers_a_hash_for_each_file(copy, cache):
    Embedder(copy)
    manifest = Manifest.read(copy)
    files = manifest.files | manifest.quants["fp32"].files
    remembered = json.loads(cache.read_text())
    assert sorted(remembered.values()) == sorted(entry.sha256 for entry in files.values())
    stat = (copy / DATA).stat()
    key = f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
    assert remembered[key] == files[DATA].sha256


def test_the_second_load_takes_what_is_remembered(copy, cache):
    Embedder(copy)
    remembered = json.loads(cache.read_text())
    cache.write_text(json.dumps(dict.fromkeys(remembered, "0" * 64)))
    with pytest.raises(IntegrityError, match="sha256 000000000000…"):
        Embedder(copy)


def test_the_second_load_writes_nothing(copy, cache):
    Embedder(copy)
    before = cache.stat()
    Embedder(copy)
    assert (cache.stat().st_ino, cache.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_changed_modification_time_hashes_again(copy, cache):
    Embedder(copy)
    remembered = json.loads(cache.read_text())
    cache.write_text(json.dumps(dict.fromkeys(remembered, "0" * 64)))
    for path in copy.rglob("*"):
        os.utime(path, ns=(1, 1))
    Embedder(copy)
    assert len(json.loads(cache.read_text())) == 2 * len(remembered)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no time of the last change that cannot be set")
def test_a_file_that_was_changed_and_given_its_old_time_back_is_refused(copy, cache):
    Embedder(copy)
    stat = (copy / DATA).stat()
    flip_a_byte(copy / DATA)
    os.utime(copy / DATA, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(IntegrityError, match=r"model\.onnx_data: sha256"):
        Embedder(copy)


def test_a_file_that_was_changed_a_moment_ago_is_hashed_again(copy, cache, monkeypatch):
    """A second change within a tick of the file system's clock would leave its times as they are."""
    monkeypatch.setattr(hash_memory, "SETTLED", 2_000_000_000)
    Embedder(copy)
    assert not cache.exists()
    time.sleep(2.1)
    Embedder(copy)
    assert manifest_entry(copy, DATA)["sha256"] in json.loads(cache.read_text()).values()


def test_verify_never_takes_what_is_remembered(copy, cache, capsys):
    Embedder(copy)
    planted = json.dumps(dict.fromkeys(json.loads(cache.read_text()), "0" * 64))
    cache.write_text(planted)
    assert main(["verify", str(copy), "--quiet"]) == 0
    assert cache.read_text() == planted


def test_a_refused_file_is_not_remembered_as_right(copy, cache):
    flip_a_byte(copy / DATA)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=r"model\.onnx_data"):
            Embedder(copy)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"5", b"\xff\xfe", b"[" * 200_000, b'{"1:2:3:4": 5}'],
    ids=["empty", "cut", "list", "null", "number", "not UTF-8", "deep", "other"],
)
def test_a_damaged_memory_is_ignored_and_written_anew(copy, cache, content):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content)
    Embedder(copy)
    assert manifest_entry(copy, DATA)["sha256"] in json.loads(cache.read_text()).values()


@pytest.mark.parametrize("value", [5, None, [], {}])
def test_a_remembered_hash_of_the_wrong_type_is_ignored(copy, cache, value):
    Embedder(copy)
    cache.write_text(json.dumps(dict.fromkeys(json.loads(cache.read_text()), value)))
    Embedder(copy)
    assert manifest_entry(copy, DATA)["sha256"] in json.loads(cache.read_text()).values()


def test_a_memory_that_cannot_be_written_is_done_without(copy, tmp_path, monkeypatch):
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a-file"))
    for _ in range(2):
        Embedder(copy)
    assert (tmp_path / "a-file").read_text() == ""


def test_a_memory_that_cannot_be_replaced_leaves_nothing_beside_it(copy, cache):
    cache.mkdir(parents=True)
    Embedder(copy)
    assert list(cache.parent.iterdir()) == [cache]


def test_a_user_without_a_home_is_done_without_a_memory(copy, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 987_654_321)
    with pytest.raises(RuntimeError):
        Path.home()
    Embedder(copy)


# Manifests


def test_a_missing_folder_says_what_to_type(tmp_path):
    with pytest.raises(ModelError, match=r"no such folder, expected .*; check the path, or type: q3-export --model") as caught:
        Embedder(tmp_path / "missing")
    assert caught.value.exit_code == 3
    assert str(tmp_path / "missing") in str(caught.value)


def test_a_folder_that_is_not_ours_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"a folder without q3\.json, expected .*; give another one \(q3 doctor") as caught:
        Embedder(tmp_path)
    assert caught.value.exit_code == 3


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_text("")
    with pytest.raises(ModelError, match="a file, expected a folder"):
        Embedder(tmp_path / "model.onnx")


def test_a_kind_that_the_figures_contradict_is_damage(copy):
    edit_manifest(copy, lambda content: content.update(kind="reranker"))
    with pytest.raises(IntegrityError, match=r"q3.json: damaged \(KeyError: 'score_delta'\)"):
        Embedder(copy)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b"{}",
        b"\xff",
        b"[" * 200_000,
        b'{"schema_version": 1}',
        b'{"schema_version": ' + b"9" * 9999,
    ],
    ids=["empty", "cut", "list", "null", "number", "nothing in it", "not UTF-8", "deep", "only a version", "long number"],
)
def test_a_manifest_that_is_not_one_is_damaged(copy, content):
    (copy / "q3.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"q3\.json: damaged") as caught:
        Embedder(copy)
    assert caught.value.exit_code == 6


def test_a_key_that_stands_twice_is_damage(copy):
    text = (copy / "q3.json").read_text("utf-8")
    (copy / "q3.json").write_text(text.replace('"dims": 64', '"dims": 64, "dims": 64', 1), encoding="utf-8")
    with pytest.raises(IntegrityError, match="stands twice"):
        Embedder(copy)


def test_a_newer_schema_is_one_clear_line(copy, capsys):
    edit_manifest(copy, lambda content: content.update(schema_version=2, new_key=True))
    with pytest.raises(
        ModelError, match="schema_version 2, this q3-onnx reads up to 1; type: pip install -U q3-onnx"
    ) as caught:
        Embedder(copy)
    assert caught.value.exit_code == 3
    assert main(["info", str(copy)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "schema_version 2" in err


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None])
def test_a_schema_version_that_never_was_is_damage(copy, version):
    edit_manifest(copy, lambda content: content.update(schema_version=version))
    with pytest.raises(IntegrityError, match="damaged"):
        Embedder(copy)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "onnx/../../x", "a\\b", "C:x", "", ".", "onnx//x", "a\nb", "a\0b"])
def test_a_file_name_that_leaves_the_folder_is_refused(copy, name):
    entry = manifest_entry(copy, "config.json")
    for place in ("files", "quants"):
        shutil.copy(copy / "q3.json", copy / "q3.json.kept")
        edit_manifest(copy, lambda content, place=place: file_table(content, place).update({name: entry}))
        with pytest.raises(IntegrityError, match="leaves the folder"):
            Embedder(copy)
        shutil.move(copy / "q3.json.kept", copy / "q3.json")


def file_table(content: dict[str, Any], place: str) -> dict[str, Any]:
    return content["files"] if place == "files" else content["quants"]["fp32"]["files"]


def test_a_manifest_that_is_too_large_is_not_read(copy):
    with (copy / "q3.json").open("ab") as file:
        file.write(b" " * MAX_MANIFEST_BYTES)
    with pytest.raises(IntegrityError, match=f"expected at most {MAX_MANIFEST_BYTES}"):
        Embedder(copy)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("source", None),
        ("source", {}),
        ("license", 5),
        ("made_with", 5),
        ("dims", "64"),
        ("dims", 0),
        ("dims", True),
        ("mrl_dims", None),
        ("mrl_dims", ["32"]),
        ("mrl_dims", [128]),
        ("max_tokens", None),
        ("max_tokens", 1),
        ("max_tokens", float("inf")),
        ("prompts", []),
        ("prompts", {"query": 5}),
        ("files", []),
        ("files/config.json", None),
        ("files/config.json/bytes", float("inf")),
        ("files/config.json/bytes", "719"),
        ("files/config.json/bytes", -1),
        ("files/config.json/sha256", "abc"),
        ("files/config.json/sha256", None),
        ("quants", {}),
        ("quants", []),
        ("quants/fp32", None),
        ("quants/fp32/files", {}),
        ("quants/fp32/min_onnxruntime", None),
        ("quants/fp32/min_onnxruntime", "new"),
        ("quants/fp32/recipe", 1),
        ("quants/fp32/kept_wider", 5),
        ("quants/fp32/inputs", None),
        ("quants/fp32/outputs", [5]),
        ("quants/fp32/fidelity", 5),
        ("quants/fp32/fidelity", {}),
        ("quants/fp32/fidelity/mean", None),
        ("quants/fp32/fidelity/floor", {}),
        ("quants/fp32/fidelity/floor", {"min": "0.9"}),
        ("quants/fp32/fidelity/floor", {"min": 0.9, "median": 0.9}),
        ("quants/fp32/fidelity/floor", {"mean": 0.9}),
        ("quants/fp32/fidelity/mean", float("nan")),
        ("quants/fp32/fidelity/self_check", float("nan")),
    ],
)
@pytest.mark.parametrize("use", ["load", "info", "verify"])
def test_a_manifest_with_a_value_of_the_wrong_kind_is_damaged(copy, place, value, use, capsys):
    def change(content: dict[str, Any]) -> None:
        *parents, last = place.split("/")
        for parent in parents:
            content = content[parent]
        content[last] = value

    edit_manifest(copy, change)
    if use == "load":
        with pytest.raises(IntegrityError, match="damaged"):
            Embedder(copy)
    else:
        assert main([use, str(copy)]) == 6
        assert "damaged" in capsys.readouterr().err


def test_what_the_manifest_does_not_list_is_ignored(copy):
    (copy / "onnx/leftover.onnx").write_text("anything")
    assert np.isfinite(Embedder(copy).encode("text")).all()


def test_the_manifest_that_is_read_is_the_one_that_was_written(folder):
    assert Manifest.read(folder).to_json() == (folder / "q3.json").read_text("utf-8")


def test_a_quant_of_a_later_version_that_nobody_measured_loads(copy):
    def change(content: dict[str, Any]) -> None:
        content["quants"]["q9"] = content["quants"].pop("fp32") | {"fidelity": None}

    edit_manifest(copy, change)
    assert Embedder(copy).encode("text").shape == (64,)
    assert Manifest.read(copy).floor("q9") == {}
