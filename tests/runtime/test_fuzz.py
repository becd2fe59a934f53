"""Folders damaged at random, their manifest signed anew, and texts of every kind: the right vectors or a clear error."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from warnings import catch_warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzzing import Content, Subject, budgets, changed_bytes, changed_graph, changed_json, examples, slots
from tests.support.signing import sign

from q3_export import export_model
from q3_runtime import Embedder
from q3_runtime.errors import TextError
from q3_runtime.quants import QUANTS

OTHERS = ["tokenizer.json", "config.json", "golden.json", "golden.safetensors"]


@pytest.fixture(scope="module")
def copy(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Damaged by every example, which puts back what it changed."""
    return Path(shutil.copytree(folder, tmp_path_factory.mktemp("scratch") / "tiny-onnx"))


@pytest.fixture(scope="module")
def subject(folder: Path, copy: Path) -> Iterator[Subject]:
    process = Subject("folder", folder, copy)
    yield process
    process.close()


def check(subject: Subject, copy: Path, name: str, content: bytes) -> None:
    path, manifest = copy / name, copy / "q3.json"
    before = {path: path.read_bytes(), manifest: manifest.read_bytes()}
    try:
        path.write_bytes(content)
        if path != manifest:
            sign(copy)
        subject.check()
    finally:
        for file, original in before.items():
            file.write_bytes(original)


@budgets(ci=100, full=3_000)
def test_a_damaged_manifest(budget, subject, copy, fuzzed):
    content = (copy / "q3.json").read_bytes()
    parsed = json.loads(content)

    @examples(budget)
    @given(changed_bytes(content) | changed_json(parsed))
    def damage(found: bytes) -> None:
        check(subject, copy, "q3.json", found)

    damage()
    fuzzed(subject.outcomes)


@budgets(ci=60, full=1_500)
@pytest.mark.parametrize("quant", ["fp32", "int8", "q4"])
def test_a_damaged_graph(budget, quant, checkpoint, tmp_path, fuzzed):
    good = export_model(checkpoint, quant=quant, out=tmp_path / "good")
    copy = Path(shutil.copytree(good, tmp_path / "copy"))
    name = QUANTS[quant].onnx_file
    content = Content((copy / name).read_bytes())
    places = slots(content)

    @examples(budget)
    @given(changed_bytes(content) | changed_graph(content, places))
    def damage(found: bytes) -> None:
        check(subject, copy, name, found)

    with closing(Subject("folder", good, copy)) as subject:
        damage()
    fuzzed(subject.outcomes)


@budgets(ci=40, full=1_000)
@pytest.mark.parametrize("name", OTHERS)
def test_another_damaged_file(budget, name, subject, copy, fuzzed):
    content = (copy / name).read_bytes()
    damaged = changed_bytes(content)
    if name.endswith(".json"):
        damaged |= changed_json(json.loads(content))

    @examples(budget)
    @given(damaged)
    def damage(found: bytes) -> None:
        check(subject, copy, name, found)

    damage()
    fuzzed(subject.outcomes)


LONG = [" " * 3000, "x" * 3000, "e" + "\u0301" * 2000]
PIECES = st.sampled_from(["\0", "\ud800", "\udfff", "<|endoftext|>", "<|im_end|>", "\ufeff", "\u202e", *LONG])
TEXTS = st.lists(st.lists(st.text(st.characters(), max_size=40) | PIECES, max_size=3).map("".join), min_size=1, max_size=5)


def is_refused(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


@budgets(ci=40, full=3_000)
def test_texts_of_every_kind(budget, folder, reference, fuzzed):
    model, outcomes = Embedder(folder), Counter()
    limit = model.manifest.max_tokens

    @examples(budget)
    @given(TEXTS)
    def embed(texts: list[str]) -> None:
        if any(map(is_refused, texts)):
            first = next(index for index, text in enumerate(texts) if is_refused(text))
            with pytest.raises(TextError, match=f"^text {first} has a lone surrogate"):
                model.encode(texts)
            texts = [re.sub("[\ud800-\udfff]", "\ufffd", text) for text in texts]
            outcomes["refused"] += 1
        expected = [reference.vector(text, truncation=True, max_length=limit) for text in texts]
        with catch_warnings(action="ignore", category=UserWarning):  # of texts that are cut
            np.testing.assert_allclose(model.encode(texts), expected, rtol=0, atol=1e-5)
        outcomes["right"] += 1

    embed()
    fuzzed(outcomes)
