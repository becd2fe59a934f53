"""Every fault of a checkpoint, made in a copy of a good one: refused with its name, before any work."""

import json
import os
import pickle
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from tests.support.checkpoints import TINY, write_checkpoint
from tests.support.memory import resident
from transformers import AutoModel

from q3_export.checkpoint import Checkpoint, open_checkpoint
from q3_export.config_check import expected_shapes
from q3_runtime.errors import ModelError
from q3_runtime.prompts import OFFICIAL_PROMPTS

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARDS = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
NORM = "layers.1.input_layernorm.weight"
PROJECTION = "layers.1.self_attn.q_proj.weight"
NESTED = b"[" * 100_000 + b"]" * 100_000

_events: list[tuple[str, str]] | None = None


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _events is None:
        return
    if event == "exec":
        _events.append((event, args[0].co_filename))
    elif event in ("open", "import", "compile", "pickle.find_class"):
        _events.append((event, " ".join(os.fsdecode(arg) for arg in args if isinstance(arg, str | bytes | os.PathLike))))


@pytest.fixture(scope="module", autouse=True)
def audit_hook() -> None:
    """A hook cannot be taken away again; outside ``audited`` this one does nothing."""
    sys.addaudithook(_audit)


@contextmanager
def audited() -> Iterator[list[tuple[str, str]]]:
    """What is opened, imported, compiled and executed meanwhile: event and arguments."""
    global _events
    _events = events = []
    try:
        yield events
    finally:
        _events = None


@pytest.fixture
def single(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, to be damaged."""
    return shutil.copytree(checkpoint, tmp_path / "Tiny")


@pytest.fixture(scope="module")
def in_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("sharded") / "Tiny", shards=3)


@pytest.fixture
def sharded(in_shards: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint in three files, to be damaged."""
    return shutil.copytree(in_shards, tmp_path / "Sharded")


def refused(folder: Path, fault: str | None, *named: object, kind: str | None = None) -> str:
    """The message with which a checkpoint is refused; it has to name each of ``named``."""
    with pytest.raises(ModelError) as caught:
        open_checkpoint(folder, kind)
    return checked(caught.value, fault, *named)


def checked(error: ModelError, fault: str | None, *named: object) -> str:
    assert (type(error), error.fault, error.exit_code) == (ModelError, fault, 3), str(error)
    for word in named:
        assert str(word) in str(error)
    return str(error)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the content of a JSON file in place."""
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def set_config(folder: Path, **changes: Any) -> None:
    edit(folder / "config.json", lambda config: config.update(changes))


def set_modules(folder: Path, *parts: str) -> None:
    (folder / "modules.json").write_text(json.dumps([{"idx": i, "path": part} for i, part in enumerate(("", *parts))]), "utf-8")


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def read_raw(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a .safetensors file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_raw(path: Path, header: dict[str, Any] | bytes, data: bytes) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


def header_length(path: Path) -> int:
    with path.open("rb") as file:
        return int(struct.unpack("<Q", file.read(8))[0])


def values(opened: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: opened.tensor(name) for name in opened.places if name != "lm_head.weight"}


# Checkpoints that are good.


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("prefix", ["", "model."], ids=["plain", "prefixed"])
def test_every_layout_of_the_same_weights_gives_the_same_tensors(checkpoint, tmp_path, shards, tied, prefix):
    opened = open_checkpoint(write_checkpoint(tmp_path / "Tiny", shards=shards, tied=tied, prefix=prefix))
    found, expected = values(opened), values(open_checkpoint(checkpoint))
    assert found.keys() == expected.keys() == expected_shapes(opened.raw_config).keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert ("lm_head.weight" in opened.places) == (not tied)
    assert opened.weights == sum(tensor.numel() for tensor in expected.values())
    assert opened.kind == "embedding"
    opened.check_finite()


def test_one_file_comes_before_the_index_of_shards_that_are_gone(sharded):
    """save_pretrained into a folder that had shards leaves it so, and transformers loads it."""
    tensors = {name: tensor for shard in SHARDS for name, tensor in load_file(sharded / shard).items()}
    save_file(tensors, sharded / SINGLE, metadata={"format": "pt"})
    for shard in SHARDS:
        (sharded / shard).unlink()
    found = values(open_checkpoint(sharded))
    loaded = AutoModel.from_pretrained(sharded, dtype=torch.bfloat16).state_dict()
    assert found.keys() == loaded.keys()
    assert all(torch.equal(found[name], loaded[name]) for name in found)


def test_float32_holds_every_stored_value_exactly(checkpoint):
    opened = open_checkpoint(checkpoint)
    assert opened.tensor(PROJECTION).dtype == torch.bfloat16
    assert opened.float32(PROJECTION).dtype == torch.float32
    assert torch.equal(opened.float32(PROJECTION).to(torch.bfloat16), opened.tensor(PROJECTION))


def test_a_reranker_is_known_by_its_modules_and_by_its_tokenizer(single):
    edit(single / "tokenizer.json", lambda content: content.update(post_processor=None))
    set_modules(single, "1_LogitScore")
    assert open_checkpoint(single).kind == "reranker"
    (single / "modules.json").unlink()
    assert open_checkpoint(single).kind == "reranker"
    assert open_checkpoint(single, "reranker").kind == "reranker"


def test_weights_in_links_open_as_the_hub_cache_keeps_them(single, tmp_path):
    (tmp_path / "blobs").mkdir()
    shutil.move(single / SINGLE, tmp_path / "blobs" / "a1b2")
    (single / SINGLE).symlink_to(tmp_path / "blobs" / "a1b2")
    open_checkpoint(single).check_finite()


def test_opening_16_gb_of_weights_reads_none_of_them(checkpoint, tmp_path):
    """The shape of the 8B model, its data a hole in a sparse file."""
    folder = shutil.copytree(checkpoint, tmp_path / "Large")
    set_config(
        folder, vocab_size=151665, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128,
    )  # fmt: skip
    header, end = {}, 0
    for name, shape in expected_shapes(json.loads((folder / "config.json").read_text())).items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    write_raw(folder / SINGLE, header, b"")
    with (folder / SINGLE).open("r+b") as file:
        file.truncate(8 + header_length(folder / SINGLE) + end)
    memory, read = resident(os.getpid()), bytes_read()
    opened = open_checkpoint(folder)
    assert opened.weights > 7.5e9
    assert resident(os.getpid()) - memory < 20e6
    assert bytes_read() - read < 5e6
    # A tensor is mapped: of 1.2 GB only the pages that are touched.
    assert opened.tensor("embed_tokens.weight")[151_000, :8].sum() == 0
    assert resident(os.getpid()) - memory < 20e6
    assert bytes_read() - read < 5e6


def bytes_read() -> int:
    """Bytes that this process has read so far with read(), mapped pages not counted; 0 where there is no /proc."""
    path = Path("/proc/self/io")
    return int(path.read_text().split("rchar: ")[1].split()[0]) if path.exists() else 0


# E1, E2: the length of the file and of its header.


@pytest.mark.parametrize("size", [0, 7])
def test_e1_a_file_shorter_than_its_header_length_is_refused(single, size):
    os.truncate(single / SINGLE, size)
    refused(single, "E_SHARD_TRUNCATED", SINGLE, f"{size} bytes", "at least the 8", "incomplete download?")


@pytest.mark.parametrize("kept", [0, 1, -1], ids=["nothing", "one byte", "all but one byte"])
def test_e1_a_file_cut_inside_its_header_is_refused(single, kept):
    length = header_length(single / SINGLE)
    size = 8 + kept % length
    os.truncate(single / SINGLE, size)
    refused(single, "E_SHARD_TRUNCATED", SINGLE, f"header ends at {8 + length}", f"the file has {size} bytes")


@pytest.mark.parametrize("place", ["header end", "middle", "last byte"])
def test_e1_a_file_cut_inside_its_data_is_refused(single, place):
    whole, start = (single / SINGLE).stat().st_size, 8 + header_length(single / SINGLE)
    size = {"header end": start, "middle": (start + whole) // 2, "last byte": whole - 1}[place]
    os.truncate(single / SINGLE, size)
    refused(single, "E_SHARD_TRUNCATED", SINGLE, f"tensors end at {whole}", f"the file has {size} bytes")


@pytest.mark.parametrize("shard", SHARDS)
def test_e1_the_cut_shard_is_named(sharded, shard):
    whole = (sharded / shard).stat().st_size
    os.truncate(sharded / shard, whole - 100)
    message = refused(sharded, "E_SHARD_TRUNCATED", shard, whole, whole - 100)
    assert not [other for other in SHARDS if other != shard and other in message]


@pytest.mark.parametrize("length", [0, 1, 100_000_001, 2**31, 2**63, 2**64 - 1])
def test_e2_an_absurd_header_length_is_refused(single, length):
    with (single / SINGLE).open("r+b") as file:
        file.write(struct.pack("<Q", length))
    refused(single, "E_ST_HEADER", SINGLE, f"header length {length},", "2 to 100000000")


def test_e2_a_header_of_150_mb_is_refused_unread_even_if_it_is_all_there(single):
    with (single / SINGLE).open("r+b") as file:
        file.write(struct.pack("<Q", 150_000_000))
        file.truncate(200_000_000)
    before = bytes_read()
    refused(single, "E_ST_HEADER", "header length 150000000,", "100000000")
    assert bytes_read() - before < 5e6


def test_e2_a_header_longer_than_the_file_is_refused_with_both_sizes(single):
    """It looks the same as a file that was cut off in its header, and has the same name."""
    with (single / SINGLE).open("r+b") as file:
        file.write(struct.pack("<Q", 90_000_000))
    refused(single, "E_SHARD_TRUNCATED", "header ends at 90000008", (single / SINGLE).stat().st_size)


@pytest.mark.parametrize(("name", "fault"), [(SINGLE, "E_ST_HEADER"), ("tokenizer.json", "E_TOKENIZER")])
def test_e2_a_pointer_of_git_lfs_is_said_to_be_one(single, name, fault):
    (single / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:6f\nsize 3\n")
    refused(single, fault, name, "a pointer of Git LFS", "git lfs pull")


# E3: the content of the header.


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe{}", b'{"\xc3\x28": 1}', b"{ ", b"hello", b'{"a": }', b"[]", b"null", b"17", b'"text"', b"{} {}", b"\0\0",
        NESTED, b'{"a":' + NESTED + b"}", b"1" * 5000,
    ],
    ids=lambda raw: repr(raw[:12]),
)  # fmt: skip
def test_e3_a_header_that_is_not_a_json_object_in_utf8_is_refused(single, raw):
    write_raw(single / SINGLE, raw, b"")
    refused(single, "E_ST_HEADER", SINGLE, "header", "expected safetensors")


def test_e3_a_tensor_that_stands_twice_in_the_header_is_refused(single):
    header, data = read_raw(single / SINGLE)
    raw = json.dumps(header)[:-1] + f', "{NORM}": {json.dumps(header[NORM])}}}'
    write_raw(single / SINGLE, raw.encode(), data)
    refused(single, "E_ST_HEADER", SINGLE, NORM, "twice")


def test_e3_a_hole_between_tensors_is_refused(single):
    header, data = read_raw(single / SINGLE)
    name, entry = by_offset(header)[5]
    start = entry["data_offsets"][0]
    for _, moved in by_offset(header)[5:]:
        moved["data_offsets"] = [offset + 8 for offset in moved["data_offsets"]]
    write_raw(single / SINGLE, header, data[:start] + bytes(8) + data[start:])
    base = 8 + header_length(single / SINGLE)
    refused(single, "E_ST_HEADER", SINGLE, f"tensor {name} ", f"byte {base + start + 8}", f"expected {base + start}")


def test_e3_tensors_that_overlap_are_refused(single):
    header, data = read_raw(single / SINGLE)
    name, entry = by_offset(header)[-1]
    start, end = entry["data_offsets"]
    entry["data_offsets"] = [start - 2, end - 2]
    write_raw(single / SINGLE, header, data[:-2])
    base = 8 + header_length(single / SINGLE)
    refused(single, "E_ST_HEADER", SINGLE, f"tensor {name} ", f"byte {base + start - 2}", f"expected {base + start}")


def test_e3_two_tensors_in_the_same_bytes_are_refused(single):
    header, data = read_raw(single / SINGLE)
    other = NORM.replace(".1.", ".2.")
    header[other]["data_offsets"] = header[NORM]["data_offsets"]
    write_raw(single / SINGLE, header, data)
    refused(single, "E_ST_HEADER", SINGLE, "no holes, no overlap")


def test_e3_trailing_bytes_are_refused(single):
    size = (single / SINGLE).stat().st_size
    with (single / SINGLE).open("ab") as file:
        file.write(b"PK\x03\x04")
    refused(single, "E_ST_HEADER", SINGLE, "trailing bytes", f"end at {size}", f"{size + 4} bytes")


def by_offset(header: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    return sorted(entries, key=lambda item: item[1]["data_offsets"])


@pytest.mark.parametrize(
    "entry",
    [
        None, 5, "text", [], {},
        {"shape": [64]}, {"data_offsets": None}, {"data_offsets": [0]}, {"data_offsets": [0, 1, 2]}, {"data_offsets": "ab"},
        {"data_offsets": [-128, 0]}, {"data_offsets": [0.0, 128.0]}, {"data_offsets": [False, 128]}, {"data_offsets": [128, 0]},
        {"shape": [63]}, {"shape": [-64]}, {"shape": [64.0]}, {"shape": None}, {"shape": [-8, -8]}, {"shape": [2**40, 2**40]},
        {"shape": [0], "data_offsets": [10**4300 - 1, 10**4300 - 1]}, {"shape": [10**4000, 10**4000]}, {"dtype": ["BF16"]},
    ],
    ids=lambda entry: json.dumps(entry)[:40] if entry != {"shape": [64]} else "other fields missing",
)  # fmt: skip
def test_e3_a_wrong_entry_is_refused_and_its_tensor_is_named(single, entry):
    header, data = read_raw(single / SINGLE)
    partial = isinstance(entry, dict) and entry not in ({}, {"shape": [64]})
    header[NORM] = header[NORM] | entry if partial else entry
    write_raw(single / SINGLE, header, data)
    refused(single, "E_ST_HEADER", SINGLE, f"tensor {NORM} ")


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.replace(b'{"format":"pt"}', b'{"format":7}'),
        lambda raw: raw.replace(b'{"format":"pt"}', b"5"),
        lambda raw: raw.replace(b'{"format":"pt"}', b'{"format":NaN}'),
        lambda raw: raw.replace(b'{"format":"pt"}', b'{"\\ud800":"pt"}'),
    ],
    ids=["number in metadata", "metadata is a number", "NaN", "lone surrogate"],
)
def test_e3_a_header_that_safetensors_itself_does_not_take_is_refused_at_once(single, change):
    _, data = read_raw(single / SINGLE)
    raw = (single / SINGLE).read_bytes()[8 : -len(data)]
    assert change(raw) != raw
    write_raw(single / SINGLE, change(raw), data)
    refused(single, "E_ST_HEADER", SINGLE)


# E4, E5: which file holds which tensor.


def test_e4_all_missing_shards_are_listed(sharded):
    (sharded / SHARDS[0]).unlink()
    (sharded / SHARDS[2]).unlink()
    message = refused(sharded, "E_SHARD_MISSING", "2 of 3", SHARDS[0], SHARDS[2], "incomplete download?")
    assert SHARDS[1] not in message


def test_e4_a_folder_in_the_place_of_a_shard_is_a_missing_shard(sharded):
    (sharded / SHARDS[1]).unlink()
    (sharded / SHARDS[1]).mkdir()
    refused(sharded, "E_SHARD_MISSING", "1 of 3", SHARDS[1])


def test_e4_a_shard_whose_name_no_disk_can_hold_is_a_missing_shard(sharded):
    name = "m" * 1000 + ".safetensors"
    edit(sharded / INDEX, lambda index: index["weight_map"].update({NORM: name}))
    refused(sharded, "E_SHARD_MISSING", "1 of 4", name)


def test_e4_a_checkpoint_without_weights_or_index_is_refused(single):
    (single / SINGLE).unlink()
    refused(single, "E_SHARD_MISSING", SINGLE, INDEX, "incomplete download?")


def test_e4_shards_without_their_index_are_refused(sharded):
    (sharded / INDEX).unlink()
    refused(sharded, "E_SHARD_MISSING", f"no {SINGLE} and no {INDEX}")


def test_e5_a_tensor_that_the_index_puts_into_the_wrong_shard_is_refused(sharded):
    index = json.loads((sharded / INDEX).read_text())
    right = index["weight_map"][NORM]
    wrong = next(shard for shard in SHARDS if shard != right)
    edit(sharded / INDEX, lambda index: index["weight_map"].update({NORM: wrong}))
    refused(sharded, "E_INDEX", INDEX, f"tensor {NORM} should be in {wrong}, found in {right}")


def test_e5_a_tensor_that_is_in_no_shard_is_refused(sharded):
    shard = json.loads((sharded / INDEX).read_text())["weight_map"][NORM]
    edit_tensors(sharded / shard, lambda tensors: tensors.pop(NORM))
    refused(sharded, "E_INDEX", f"tensor {NORM} should be in {shard}, found in none of the files")


def test_e5_a_tensor_that_the_index_does_not_list_is_refused(sharded):
    shard = json.loads((sharded / INDEX).read_text())["weight_map"][NORM]
    edit(sharded / INDEX, lambda index: index["weight_map"].pop(NORM))
    refused(sharded, "E_INDEX", shard, f"tensor {NORM} is not in {INDEX}")


def test_e5_a_tensor_that_two_shards_hold_is_refused(sharded):
    shard = json.loads((sharded / INDEX).read_text())["weight_map"][NORM]
    other = next(name for name in SHARDS if name != shard)
    edit_tensors(sharded / other, lambda tensors: tensors.update({NORM: torch.ones(64, dtype=torch.bfloat16)}))
    refused(sharded, "E_INDEX", other, f"tensor {NORM} ")


def test_e5_a_tensor_that_neither_index_nor_file_holds_is_refused_with_its_shape(single):
    edit_tensors(single / SINGLE, lambda tensors: tensors.pop(PROJECTION))
    refused(single, "E_INDEX", f"tensor {PROJECTION} is not in the weights", "expected shape [128, 64]")


@pytest.mark.parametrize("name", ["layers.1.self_attn.q_proj.bias", "layers.3.input_layernorm.weight", "score.weight"])
def test_e5_a_tensor_that_the_model_does_not_have_is_refused(single, name):
    edit_tensors(single / SINGLE, lambda tensors: tensors.update({name: torch.ones(64, dtype=torch.bfloat16)}))
    refused(single, "E_INDEX", f"tensor {name} ", "3 layers")


def test_e5_a_tensor_with_and_without_the_prefix_is_refused(single):
    edit_tensors(single / SINGLE, lambda tensors: tensors.update({f"model.{NORM}": torch.ones(64, dtype=torch.bfloat16)}))
    refused(single, "E_INDEX", NORM, f"model.{NORM}")


@pytest.mark.parametrize("prefix", ["", "model."], ids=["plain", "prefixed"])
def test_e5_an_extra_lm_head_of_a_tied_model_is_accepted(tmp_path, prefix):
    folder = write_checkpoint(tmp_path / "Tiny", prefix=prefix)
    embedding = load_file(folder / SINGLE)[f"{prefix}embed_tokens.weight"]
    edit_tensors(folder / SINGLE, lambda tensors: tensors.update({"lm_head.weight": embedding.clone()}))
    opened = open_checkpoint(folder)
    assert opened.raw_config["tie_word_embeddings"] is True
    assert torch.equal(opened.tensor("lm_head.weight"), embedding)
    assert opened.weights == sum(tensor.numel() for tensor in values(opened).values())


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "unlisted"])
def test_e5_an_extra_lm_head_in_a_shard_is_accepted(sharded, listed):
    head = torch.zeros(4005, 64, dtype=torch.bfloat16)
    edit_tensors(sharded / SHARDS[2], lambda tensors: tensors.update({"lm_head.weight": head}))
    if listed:
        edit(sharded / INDEX, lambda index: index["weight_map"].update({"lm_head.weight": SHARDS[2]}))
    open_checkpoint(sharded).check_finite()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"5", b"{}", b'{"weight_map": null}', b'{"weight_map": []}', b"\xff\xfe", NESTED],
    ids=lambda content: repr(content[:20]),
)
def test_e5_an_index_without_a_map_of_names_to_files_is_refused(sharded, content):
    (sharded / INDEX).write_bytes(content)
    refused(sharded, "E_INDEX", INDEX)


def test_e5_an_index_of_no_tensors_is_refused(sharded):
    (sharded / INDEX).write_text('{"weight_map": {}}')
    refused(sharded, "E_DTYPE", "no tensors")


def test_e5_a_tensor_that_stands_twice_in_the_index_is_refused(sharded):
    raw = (sharded / INDEX).read_text().replace('"weight_map": {', f'"weight_map": {{"{NORM}": "{SHARDS[0]}", ', 1)
    (sharded / INDEX).write_text(raw)
    refused(sharded, "E_INDEX", INDEX, NORM, "twice")


# E6: file names that leave the folder.


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors", "../outside/x.safetensors", "/abs.safetensors", "{outside}/x.safetensors", "a\\b.safetensors", "..",
        "..\\x.safetensors", "a\0b.safetensors", "sub/x.safetensors", "./x.safetensors", "C:x.safetensors", "", ".", "x.bin",
        "file://x.safetensors", "x\n.safetensors",
    ],
    ids=repr,
)  # fmt: skip
def test_e6_a_file_name_that_is_not_plain_is_refused_and_nothing_outside_is_opened(sharded, name):
    outside = sharded.parent / "outside"
    outside.mkdir()
    for place in (outside, sharded.parent, sharded, sharded / "sub"):
        place.mkdir(exist_ok=True)
        shutil.copy(sharded / SHARDS[0], place / "x.safetensors")
    for odd in ("a\\b.safetensors", "..\\x.safetensors", "C:x.safetensors", "x\n.safetensors"):
        shutil.copy(sharded / SHARDS[0], sharded / odd)
    name = name.format(outside=outside)
    edit(sharded / INDEX, lambda index: index["weight_map"].update({NORM: name}))
    with audited() as events:
        refused(sharded, "E_PATH", INDEX, repr(name), "plain *.safetensors")
    opened = [path for event, path in events if event == "open"]
    assert any(path.startswith(str(sharded / INDEX)) for path in opened)
    assert [path for path in opened if not path.startswith(f"{sharded}/") or ".safetensors" in path.replace(INDEX, "")] == []


# E7: another model, another kind.


@pytest.mark.parametrize(
    ("architectures", "model_type"),
    [
        (["Qwen2ForCausalLM"], "qwen2"), (["BertModel"], "bert"), (["Qwen3MoeForCausalLM"], "qwen3_moe"),
        (["Qwen3ForSequenceClassification"], "qwen3"), (["Qwen3ForCausalLM"], "qwen2"), (["Qwen2Model"], "qwen3"),
        (["Qwen3ForCausalLM", "Qwen3Model"], "qwen3"), ([], "qwen3"), (None, "qwen3"), (["Qwen3Model"], None),
        ("Qwen3Model", "qwen3"), ("Q", "qwen3"), (5, "qwen3"), ({"Qwen3Model": 1}, "qwen3"), ([["Qwen3Model"]], "qwen3"),
        (["Qwen3Model"], ["qwen3"]),
    ],
    ids=repr,
)  # fmt: skip
def test_e7_another_architecture_is_refused_with_the_supported_ones(single, architectures, model_type):
    set_config(single, architectures=architectures, model_type=model_type)
    refused(single, "E_ARCH", "config.json", repr(model_type), architectures or "", "'qwen3'", "Qwen3ForCausalLM", "Qwen3Model")


@pytest.mark.parametrize("name", ["Qwen3ForCausalLM", "Qwen3Model"])
def test_e7_both_architectures_of_qwen3_are_accepted(single, name):
    set_config(single, architectures=[name])
    assert open_checkpoint(single).raw_config["architectures"] == [name]


@pytest.mark.parametrize(
    ("change", "found", "expected"),
    [
        ({"hidden_act": "gelu"}, "'gelu'", "'silu'"), ({"attention_bias": True}, "True", "False"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'", "'default'"),
        ({"rope_scaling": {"type": "linear"}}, "'linear'", "'default'"), ({"rope_scaling": "yarn"}, "yarn", "default"),
        ({"rope_scaling": ["yarn"]}, "yarn", "default"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "'llama3'", "'default'"),
        (
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            "'yarn'", "'default'",
        ),
        ({"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}}, "full_attention", "'default'"),
        ({"use_sliding_window": True}, "True", "False"), ({"is_causal": False}, "is_causal is False", "True"),
        ({"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "sliding_attention", "full_attention"),
        ({"layer_types": 3}, "3", "full_attention"),
        ({"layer_types": [["full_attention"]]}, "['full_attention']", "full_attention"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq", "None"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 1", "0"), ({"head_dim": 40}, "head_dim modulo 16 is 8", "0"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_e7_an_option_that_changes_the_computation_is_refused(single, change, found, expected):
    set_config(single, **change)
    refused(single, "E_ARCH", "config.json", found, f"expected {expected}" if "'" in expected else expected)


@pytest.mark.parametrize("has_weights", [True, False])
def test_e7_an_adapter_is_refused_beside_weights_and_alone(single, has_weights):
    (single / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    if not has_weights:
        (single / SINGLE).rename(single / "adapter_model.safetensors")
        (single / "config.json").unlink()
    refused(single, "E_ARCH", "adapter_config.json", "merge the adapter into them")


def test_e7_a_reranker_by_its_modules_is_refused_as_an_embedding_model(single):
    set_modules(single, "1_LogitScore")
    refused(single, "E_ARCH", "modules.json says reranker", "--kind says embedding", kind="embedding")


def test_e7_an_embedding_model_by_its_modules_is_refused_as_a_reranker(single):
    refused(single, "E_ARCH", "modules.json says embedding", "--kind says reranker", kind="reranker")


def test_e7_an_embedding_model_by_its_tokenizer_is_refused_as_a_reranker(single):
    (single / "modules.json").unlink()
    refused(single, "E_ARCH", "appends <|endoftext|>", "an embedding model", "reranker", kind="reranker")


def test_e7_a_reranker_by_its_tokenizer_is_refused_as_an_embedding_model(single):
    (single / "modules.json").unlink()
    edit(single / "tokenizer.json", lambda content: content.update(post_processor=None))
    refused(single, "E_ARCH", "appends nothing", "a reranker model", "embedding", kind="embedding")


def test_e7_modules_and_tokenizer_of_different_kinds_are_refused(single):
    set_modules(single, "1_LogitScore")
    refused(single, "E_ARCH", "tokenizer.json", "appends <|endoftext|>", "an embedding model", "reranker")


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False},
        {"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True},
        {"pooling_mode": "mean"},
        {},
    ],
)
def test_e7_a_model_of_another_pooling_is_refused(single, pooling):
    (single / "1_Pooling/config.json").write_text(json.dumps(pooling), "utf-8")
    refused(single, "E_ARCH", "1_Pooling/config.json", "expected lasttoken")


def test_last_token_pooling_may_be_written_in_the_newer_form(single):
    (single / "1_Pooling/config.json").write_text('{"embedding_dimension": 64, "pooling_mode": "lasttoken"}', "utf-8")
    assert open_checkpoint(single).kind == "embedding"


def test_e7_modules_of_both_kinds_are_refused(single):
    set_modules(single, "1_LogitScore", "1_Pooling")
    refused(single, "E_ARCH", "modules.json", "1_LogitScore", "1_Pooling")


@pytest.mark.parametrize("parts", [("1_Pooling", "2_Dense", "3_Normalize"), ("1_WeightedLayerPooling",), ("1_Pooling", 7)])
def test_e7_a_module_that_is_not_exported_is_refused(single, parts):
    set_modules(single, *parts)
    refused(single, "E_ARCH", "modules.json", f"has {', '.join(str(part) for part in parts if part != '1_Pooling')}, expected")


@pytest.mark.parametrize("content", [b"", b"5", b'{"path": "1_Pooling"}', b'["1_Pooling"]', b"[{}]", b'[{"path": []}]', NESTED])
def test_modules_that_are_no_list_of_modules_are_refused(single, content):
    (single / "modules.json").write_bytes(content)
    refused(single, None, "modules.json", "not a list of modules")


# E8: code in a checkpoint.


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that code from the checkpoint would write."""
    return tmp_path / "executed"


def bait(marker: Path) -> bytes:
    """A pickle that writes a file when it is read."""
    return f"cbuiltins\nexec\n(Vopen({str(marker)!r}, 'w').close()\ntR.".encode()


def assert_refused_unexecuted(folder: Path, marker: Path, *named: object) -> None:
    with audited() as events:
        refused(folder, "E_UNSAFE", folder, *named)
    assert not marker.exists()
    inside = [(event, what) for event, what in events if str(folder) in what]
    assert {event for event, _ in inside} <= {"open"}
    assert [what for _, what in inside if ".json" not in what] == []
    assert "pickle.find_class" not in {event for event, _ in events}


def plant_code(folder: Path, marker: Path) -> None:
    (folder / "modeling_evil.py").write_text(f"open({str(marker)!r}, 'w').write('executed')\n")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_e8_auto_map_is_refused_and_nothing_is_imported(single, marker, name):
    edit(single / name, lambda content: content.update(auto_map={"AutoModel": "modeling_evil.Evil"}))
    plant_code(single, marker)
    assert_refused_unexecuted(single, marker, name, "auto_map")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, {}, "modeling_evil.Evil"], ids=repr)
def test_e8_auto_map_of_any_content_is_refused(single, name, content):
    edit(single / name, lambda config: config.update(auto_map=content))
    refused(single, "E_UNSAFE", name, "auto_map")


def test_e8_a_python_file_is_refused_and_not_executed(single, marker):
    plant_code(single, marker)
    assert_refused_unexecuted(single, marker, "modeling_evil.py", "plain Qwen3")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_e8_weights_that_are_only_pickled_are_refused_and_not_read(single, marker, name):
    (single / SINGLE).unlink()
    (single / name).write_bytes(bait(marker))
    assert_refused_unexecuted(single, marker, name, f"expected {SINGLE}")
    pickle.loads(bait(marker))
    assert marker.exists()  # the bait is a real one


def test_e8_pickled_weights_beside_safetensors_are_not_read(single, marker):
    (single / "pytorch_model.bin").write_bytes(bait(marker))
    with audited() as events:
        open_checkpoint(single).check_finite()
    assert not marker.exists()
    assert not [what for _, what in events if "pytorch_model.bin" in what]


# E9: dtypes.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_e9_dtypes_that_float32_holds_are_accepted(tmp_path, dtype):
    opened = open_checkpoint(write_checkpoint(tmp_path / "Tiny", dtype=dtype))
    assert opened.tensor(PROJECTION).dtype == dtype
    opened.check_finite()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_e9_float32_norms_beside_16_bit_weights_are_accepted(tmp_path, dtype):
    folder = write_checkpoint(tmp_path / "Tiny", dtype=dtype)
    edit_tensors(folder / SINGLE, lambda tensors: tensors.update({k: t.float() for k, t in tensors.items() if "norm" in k}))
    opened = open_checkpoint(folder)
    assert (opened.tensor(NORM).dtype, opened.tensor(PROJECTION).dtype) == (torch.float32, dtype)
    assert opened.weights == sum(tensor.numel() for tensor in values(opened).values())


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.float8_e5m2, "F8_E5M2"), (torch.float64, "F64")],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("only_one", [True, False], ids=["one tensor", "all tensors"])
def test_e9_another_dtype_is_refused(single, dtype, name, only_one):
    part = PROJECTION if only_one else ""
    edit_tensors(single / SINGLE, lambda tensors: tensors.update({k: t.to(dtype) for k, t in tensors.items() if part in k}))
    refused(single, "E_DTYPE", name, PROJECTION if only_one else "embed_tokens.weight", "expected BF16, F16 or F32")


@pytest.mark.parametrize("name", ["F4", "bfloat16", "", None, 5], ids=repr)
def test_e9_an_unknown_dtype_is_refused(single, name):
    header, data = read_raw(single / SINGLE)
    header[NORM]["dtype"] = name
    write_raw(single / SINGLE, header, data)
    refused(single, "E_DTYPE", SINGLE, f"tensor {NORM} ", repr(name), "expected BF16, F16 or F32")


def test_e9_a_mix_of_16_bit_dtypes_is_refused_with_a_tensor_of_each(single):
    edit_tensors(single / SINGLE, lambda tensors: tensors.update({PROJECTION: tensors[PROJECTION].to(torch.float16)}))
    refused(single, "E_DTYPE", "BF16 (embed_tokens.weight)", f"F16 ({PROJECTION})", "only F32 beside another")


# E10: sizes.


@pytest.mark.parametrize(
    ("change", "tensor", "found", "implied"),
    [
        ({"num_attention_heads": 8}, "self_attn.o_proj.weight", [64, 128], [64, 256]),
        ({"num_attention_heads": 2}, "self_attn.o_proj.weight", [64, 128], [64, 64]),
        ({"num_key_value_heads": 4}, "self_attn.k_proj.weight", [64, 64], [128, 64]),
        ({"head_dim": 64}, "self_attn.k_norm.weight", [32], [64]),
        ({"vocab_size": 4006}, "embed_tokens.weight", [4005, 64], [4006, 64]),
        ({"vocab_size": 4004}, "embed_tokens.weight", [4005, 64], [4004, 64]),
        ({"vocab_size": 2**31 - 1}, "embed_tokens.weight", [4005, 64], [2**31 - 1, 64]),
        ({"hidden_size": 128}, "embed_tokens.weight", [4005, 64], [4005, 128]),
        ({"intermediate_size": 256}, "mlp.", [64, 192], [64, 256]),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_e10_a_config_of_other_sizes_is_refused_with_both_shapes(single, change, tensor, found, implied):
    set_config(single, **change)
    refused(single, "E_SHAPE", tensor, f"has shape {found}", f"implies {implied}")


def test_e10_a_tensor_of_another_shape_is_refused(single):
    edit_tensors(single / SINGLE, lambda tensors: tensors.update({PROJECTION: tensors[PROJECTION].T.contiguous()}))
    refused(single, "E_SHAPE", f"tensor {PROJECTION} ", "[64, 128]", "implies [128, 64]")


@pytest.mark.parametrize("layers", [4, 28])
def test_e10_a_config_of_more_layers_is_refused(single, layers):
    set_config(single, num_hidden_layers=layers)
    refused(single, "E_INDEX", "tensor layers.3.", "not in the weights")


def test_e10_a_config_of_far_too_many_layers_is_refused_without_listing_their_tensors(single):
    set_config(single, num_hidden_layers=2**31 - 1)
    refused(single, "E_INDEX", "2147483647 layers", "35 tensors")


@pytest.mark.parametrize("name", ["rms_norm_eps", "rope_theta"])
@pytest.mark.parametrize("value", [0, -1.0, None, "1e-6", [1], True, float("nan"), float("inf")], ids=repr)
def test_e10_a_constant_that_is_no_positive_number_is_refused(single, name, value):
    set_config(single, **{name: value})
    refused(single, "E_SHAPE", "config.json", f"{name} is {value!r}", "expected a positive number")


def test_e10_rope_theta_among_the_rope_parameters_is_checked_too(single):
    set_config(single, rope_parameters={"rope_type": "default", "rope_theta": "much"})
    refused(single, "E_SHAPE", "config.json", "rope_theta is 'much'", "expected a positive number")


@pytest.mark.parametrize(
    "change", [{"tie_word_embeddings": "x"}, {"layer_types": ["full_attention"]}, {"attention_dropout": []}], ids=json.dumps
)
def test_a_config_that_transformers_cannot_read_is_refused_when_it_is_asked_for(single, change):
    set_config(single, **change)
    with pytest.raises(ModelError) as caught:
        _ = open_checkpoint(single).config
    checked(caught.value, None, "config.json", next(iter(change)))


def test_e10_a_config_of_fewer_layers_is_refused(single):
    set_config(single, num_hidden_layers=2)
    refused(single, "E_INDEX", "tensor layers.2.", "2 layers")


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "num_hidden_layers", "head_dim", "max_position_embeddings"])
@pytest.mark.parametrize("value", [0, -1, None, "64", 64.0, True, [64], 2**31, 10**4299], ids=lambda value: repr(value)[:8])
def test_e10_a_size_that_is_no_positive_whole_number_is_refused(single, name, value):
    set_config(single, **{name: value})
    refused(
        single,
        "E_SHAPE",
        "config.json",
        f"{name} is {str(value)[:20] if isinstance(value, int) else repr(value)}",
        "expected a positive",
    )


def test_e10_a_size_that_is_not_there_is_refused(single):
    edit(single / "config.json", lambda config: config.pop("num_key_value_heads"))
    refused(single, "E_SHAPE", "num_key_value_heads is None")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"5", NESTED], ids=lambda content: repr(content[:4]))
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_config_that_is_no_json_object_is_refused(single, name, content):
    (single / name).write_bytes(content)
    refused(single, None, single / name, "JSON")


def test_a_checkpoint_without_config_is_refused(single):
    (single / "config.json").unlink()
    refused(single, None, single / "config.json", "cannot be read")


# E11: values.


def test_e11_nan_and_infinity_are_counted_and_the_first_tensor_is_named(single):
    def plant(tensors):
        tensors[NORM][3] = float("nan")
        tensors[PROJECTION][5, 7] = float("inf")
        tensors[PROJECTION][127, 63] = float("-inf")

    edit_tensors(single / SINGLE, plant)
    opened = open_checkpoint(single)
    with pytest.raises(ModelError) as caught:
        opened.check_finite()
    message = checked(caught.value, "E_NONFINITE", "3 weights", f"first in tensor {NORM}", "expected none")
    assert PROJECTION not in message


def test_e11_values_far_down_a_long_tensor_in_another_shard_are_found(tmp_path):
    folder = write_checkpoint(tmp_path / "Tiny", replace(TINY, vocab=9000), shards=3)
    shard = json.loads((folder / INDEX).read_text())["weight_map"]["embed_tokens.weight"]
    edit_tensors(folder / shard, lambda tensors: tensors["embed_tokens.weight"][8999].fill_(float("nan")))
    with pytest.raises(ModelError) as caught:
        open_checkpoint(folder).check_finite()
    checked(caught.value, "E_NONFINITE", "64 weights", "first in tensor embed_tokens.weight")


# E12: the tokenizer.


def test_e12_a_tokenizer_with_more_ids_than_rows_is_refused(tmp_path):
    folder = write_checkpoint(tmp_path / "Tiny", replace(TINY, vocab=4004))
    refused(folder, "E_TOKENIZER", "tokenizer.json", "largest id 4004", "4004 rows")


def test_e12_a_tokenizer_with_fewer_ids_than_rows_is_accepted(tmp_path):
    assert open_checkpoint(write_checkpoint(tmp_path / "Tiny", replace(TINY, vocab=4096))).raw_config["vocab_size"] == 4096


def test_e12_an_embedding_tokenizer_without_post_processor_is_refused(single):
    edit(single / "tokenizer.json", lambda content: content.update(post_processor=None))
    refused(single, "E_TOKENIZER", "tokenizer.json", "encoding '' gives []", "<|endoftext|> (4000)")
    refused(single, "E_TOKENIZER", "encoding '' gives []", "<|endoftext|> (4000)", kind="embedding")


@pytest.mark.parametrize(
    ("template", "ids"),
    [
        (["$A", "<|im_end|>"], [4002]), (["$A", "<|endoftext|>", "<|endoftext|>"], [4000, 4000]),
        (["<|im_start|>", "$A", "<|endoftext|>"], [4001, 4000]), (["$A", "<|im_end|>", "<|endoftext|>"], [4002, 4000]),
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("kind", [None, "embedding"])
def test_e12_a_tokenizer_that_appends_anything_else_is_refused_with_its_ids(single, template, ids, kind):
    names = {"<|endoftext|>": 4000, "<|im_start|>": 4001, "<|im_end|>": 4002}

    def change(content):
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"Sequence": {"id": "A", "type_id": 0}} if part == "$A" else {"SpecialToken": {"id": part, "type_id": 0}}
                for part in template
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in names.items()},
        }

    edit(single / "tokenizer.json", change)
    refused(single, "E_TOKENIZER", f"encoding '' gives {ids}", "<|endoftext|> (4000)", kind=kind)


def test_e12_a_tokenizer_without_the_pad_token_is_refused(single):
    def rename(content):
        content["post_processor"] = None
        content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<|endoftext|>"]

    edit(single / "tokenizer.json", rename)
    (single / "modules.json").unlink()
    refused(single, "E_TOKENIZER", "tokenizer.json", "<|endoftext|> (None)")


@pytest.mark.parametrize("word", ["yes", "no"])
def test_e12_a_reranker_tokenizer_that_splits_an_answer_is_refused_with_its_ids(single, word):
    def split(content):
        content["post_processor"] = None
        content["model"]["merges"] = [pair for pair in content["model"]["merges"] if "".join(pair) != word]

    edit(single / "tokenizer.json", split)
    set_modules(single, "1_LogitScore")
    refused(single, "E_TOKENIZER", "tokenizer.json", f"{word!r} is [", "expected one token")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff\xfe", b'{"model": 5}', NESTED], ids=lambda content: repr(content[:12])
)
def test_e12_a_file_that_is_no_tokenizer_is_refused(single, content):
    (single / "tokenizer.json").write_bytes(content)
    refused(single, "E_TOKENIZER", single / "tokenizer.json", "download it again")


def test_e12_a_template_with_a_token_that_it_does_not_define_is_refused(single):
    """tokenizers panics on it: an exception that is no Exception, and a Rust backtrace."""
    edit(single / "tokenizer.json", lambda content: content["post_processor"]["processors"][1].update(special_tokens={}))
    refused(single, "E_TOKENIZER", "tokenizer.json", "<|endoftext|>", "does not define")


def test_e12_a_prefix_that_merges_do_not_have_is_refused(single):
    """tokenizers aborts the process on it."""
    edit(single / "tokenizer.json", lambda content: content["model"].update(continuing_subword_prefix="##"))
    refused(single, "E_TOKENIZER", "tokenizer.json", "'##'", "expected ''")


def test_e12_a_checkpoint_without_tokenizer_is_refused(single):
    (single / "tokenizer.json").unlink()
    refused(single, "E_TOKENIZER", single / "tokenizer.json")


# What is not a checkpoint at all.


def test_a_model_that_is_no_folder_is_refused_with_what_was_found(tmp_path):
    refused(tmp_path / "absent", None, tmp_path / "absent", "no such folder", "expected the folder of a Qwen3 checkpoint")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", None, tmp_path / "file", "a file", "expected the folder of a Qwen3 checkpoint")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", None, tmp_path / "empty", "config.json")


def test_an_untied_reranker_without_lm_head_is_refused(single):
    edit(single / "tokenizer.json", lambda content: content.update(post_processor=None))
    set_modules(single, "1_LogitScore")
    set_config(single, tie_word_embeddings=False)
    refused(single, "E_INDEX", "tie_word_embeddings is false", "lm_head.weight")


# What sentence-transformers keeps beside a checkpoint of its own


@pytest.mark.parametrize("stored", ["padding", "truncation"])
def test_a_tokenizer_that_was_saved_after_a_padded_call_is_this_models(single, stored):
    tokenizer = tokenizers.Tokenizer.from_file(str(single / "tokenizer.json"))
    tokenizer.enable_padding(length=64) if stored == "padding" else tokenizer.enable_truncation(16)
    tokenizer.save(str(single / "tokenizer.json"))
    assert open_checkpoint(single).kind == "embedding"


def test_texts_are_cut_where_sentence_transformers_cuts_them(single):
    write = (single / "sentence_bert_config.json").write_text
    for content, expected in (
        ('{"max_seq_length": 64}', 64),
        ('{"max_seq_length": null, "do_lower_case": false}', 2048),
        ("{}", 2048),
    ):
        write(content, "utf-8")
        assert open_checkpoint(single).max_tokens == expected


def test_the_tokenizers_limit_holds_where_sentence_transformers_says_nothing(single):
    """Its version 6 keeps the limit there alone. What is no limit, 10³⁰, is none."""
    for limit, expected in ((256, 256), (10**30, 2048), (None, 2048)):
        edit(single / "tokenizer_config.json", lambda content, limit=limit: content.update(model_max_length=limit))
        assert open_checkpoint(single).max_tokens == expected


@pytest.mark.parametrize(
    ("content", "fault", "said"),
    [
        ({"do_lower_case": True}, "E_ARCH", "do_lower_case is True, expected false"),
        ({"max_seq_length": "64"}, None, "max_seq_length is '64', expected a whole number"),
        ({"max_seq_length": 1}, None, "max_seq_length is 1"),
    ],
)
def test_settings_that_would_make_other_vectors_are_refused(single, content, fault, said):
    (single / "sentence_bert_config.json").write_text(json.dumps(content), "utf-8")
    refused(single, fault, "sentence_bert_config.json", said)


def test_vectors_that_are_compared_by_their_length_too_are_refused(single):
    set_modules(single, "1_Pooling")
    (single / "config_sentence_transformers.json").write_text('{"similarity_fn_name": "dot"}', "utf-8")
    refused(single, "E_ARCH", "similarity_fn_name is 'dot'", "expected cosine or 2_Normalize")
    set_modules(single, "1_Pooling", "2_Normalize")
    assert open_checkpoint(single).kind == "embedding"


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, {"query": "", "document": ""}),
        ({"query": "Q: "}, {"query": "Q: ", "document": ""}),
        ({"s2p_query": "Q: "}, {"query": "", "document": "", "s2p_query": "Q: "}),
        (None, OFFICIAL_PROMPTS),
    ],
)
def test_prompts_are_the_checkpoints_own_where_it_says_that_there_are_none_too(single, own, expected):
    (single / "config_sentence_transformers.json").write_text(json.dumps({"prompts": own}), "utf-8")
    assert open_checkpoint(single).prompts == expected


def test_a_folder_that_was_exported_is_named(folder):
    with pytest.raises(ModelError, match=rf"{folder}: exported already, expected a Qwen3 checkpoint; type: q3 info {folder}"):
        open_checkpoint(folder)


def test_a_config_without_permission_is_not_called_damaged(single, monkeypatch):
    read = Path.read_text

    def refuse(path: Path, *args: str) -> str:
        if path.name == "config.json":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(PermissionError):
        open_checkpoint(single)
