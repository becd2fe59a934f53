"""Checkpoints damaged at random: E1 to E5, E7 to E10. What opens can be read to its end and gives the same tensors."""

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.checkpoints import write_checkpoint
from tests.support.fuzzing import Content, Subject, budgets, changed_bytes, changed_json, examples

SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("good") / "Tiny", shards=3)


@pytest.fixture(scope="module")
def copy(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Damaged by every example, which puts back what it changed."""
    return Path(shutil.copytree(good, tmp_path_factory.mktemp("scratch") / "Tiny"))


@pytest.fixture(scope="module")
def subject(good: Path, copy: Path) -> Iterator[Subject]:
    process = Subject("checkpoint", good, copy)
    yield process
    process.close()


def changed_header(content: bytes) -> st.SearchStrategy[Content]:
    """Of a .safetensors file: bytes of its header and length, or a value in the header, which is of that length again."""
    end = 8 + struct.unpack("<Q", content[:8])[0]
    raw = changed_bytes(content[:end])
    value = changed_json(json.loads(content[8:end])).map(lambda header: struct.pack("<Q", len(header)) + header)
    return (raw | value).map(lambda header: Content(header + content[end:]))


@budgets(ci=60, full=3_000)
@pytest.mark.parametrize("name", [SHARD, "model.safetensors.index.json", "config.json", "tokenizer.json"])
def test_a_damaged_checkpoint(budget, name, subject, copy, fuzzed):
    path = copy / name
    content = path.read_bytes()
    damaged = changed_header(content) if name == SHARD else changed_bytes(content) | changed_json(json.loads(content))

    @examples(budget)
    @given(damaged)
    def damage(found: bytes) -> None:
        try:
            path.write_bytes(found)
            subject.check()
        finally:
            path.write_bytes(content)

    damage()
    fuzzed(subject.outcomes)
