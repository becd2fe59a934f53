"""What the tests of the server share: one that serves mini and a reranker."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.server import Server, serving

pytest.importorskip("uvicorn", reason="needs the extra serve")


@pytest.fixture(scope="session")
def served(mini_folder: Path, reranker_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Mini's int8 and fp32, and a reranker's fp32."""
    models = [f"mini={mini_folder}:int8", f"mini-fp32={mini_folder}:fp32", f"judge={reranker_folder}:fp32"]
    with serving("--model", *models, log=tmp_path_factory.mktemp("server") / "log") as server:
        yield server
