"""The lines of docs/bulk.md that load vectors are run as they stand."""

import re

import numpy as np
import pytest
from tests.conftest import ROOT
from tests.support import bulk as files

from q3_runtime import Embedder
from q3_runtime.bulk.run import run_bulk

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/bulk.md").read_text("utf-8"), re.DOTALL)
TEXTS = files.texts(50)


@pytest.fixture(scope="module")
def wanted(folder):
    with Embedder(folder) as model:
        return model.encode(TEXTS)


@pytest.fixture
def vectors(folder, tmp_path, monkeypatch):
    """``vectors/`` in the working folder."""
    monkeypatch.chdir(tmp_path)
    run_bulk(folder, [files.write(tmp_path / "a.txt", TEXTS)], tmp_path / "vectors", chunk_rows=16, workers=1)


def test_the_page_has_a_block_for_python_numpy_frames_and_duckdb():
    assert len(BLOCKS) == 4


def test_run_bulk_from_python(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").mkdir()
    files.write(tmp_path / "corpus/a.jsonl", TEXTS)
    code = BLOCKS[0].replace("qwen3-embedding-0.6b-onnx", str(folder)).replace("dim=256", "dim=32")
    found = {}
    exec(code.replace('"body"', '"text"'), found)
    assert found["outcome"].counts.embedded == 50


def test_numpy(vectors, wanted):
    found = {}
    exec(BLOCKS[1], found)
    assert np.abs(found["array"] - wanted).max() <= 1e-5


def test_pandas_and_polars(vectors, wanted):
    found = {}
    exec(BLOCKS[2], found)
    assert np.abs(np.stack(found["frame"].embedding) - wanted).max() <= 1e-5
    rows = found["lazy"].sort("row").collect()
    assert np.abs(rows["embedding"].to_numpy() - wanted).max() <= 1e-5
    assert list(found["frame"].columns) == rows.columns == ["id", "embedding", "n_tokens", "truncated", "row"]


@pytest.mark.parametrize("precision", ["float16", "int8", "ubinary"])
def test_duckdb_and_polars_read_every_precision(precision, folder, tmp_path):
    import duckdb
    import polars as pl

    source = files.write(tmp_path / "a.txt", TEXTS)
    run_bulk(folder, [source], tmp_path / "vectors", precision=precision, workers=1)
    exact = files.array(files.vectors(tmp_path / "vectors")).astype(np.float32)
    (path,) = (tmp_path / "vectors/parts").rglob("*.parquet")
    rows = duckdb.sql(f"SELECT embedding FROM '{path}' ORDER BY row").fetchall()
    assert np.array_equal(np.array([row[0] for row in rows], np.float32), exact)
    assert np.array_equal(np.array(pl.read_parquet(path)["embedding"].to_list(), np.float32), exact)


def test_duckdb(vectors, wanted):
    found = {}
    exec(BLOCKS[3], found)
    ids, cosines = zip(*found["nearest"].fetchall(), strict=True)
    scores = wanted @ wanted[0]
    assert list(ids) == np.argsort(-scores, kind="stable")[:5].tolist()
    assert np.abs(np.array(cosines) - np.sort(scores)[::-1][:5]).max() <= 1e-5
