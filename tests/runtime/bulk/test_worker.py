"""What a worker tells: the error that it met, of any class, with the place of the row."""

import json
import subprocess
import sys

import pytest
from tests.runtime.test_errors import ERRORS
from tests.support import bulk as files

from q3_runtime.bulk.folder import OutFolder
from q3_runtime.bulk.run import run_bulk
from q3_runtime.bulk.tasks import Plan
from q3_runtime.bulk.worker import Options, Worker, as_raised, options_text, told
from q3_runtime.errors import ProviderError, Q3Error, StorageError

TEXTS = files.texts(40)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_of_a_worker_is_raised_as_it_was(error: Q3Error) -> None:
    found = as_raised(**json.loads(json.dumps(told(error, "here"))))
    assert (type(found), str(found), found.exit_code, found.fault) == (type(error), str(error), error.exit_code, error.fault)


def test_a_text_that_does_not_fit_in_memory_is_named_by_its_file_and_row(folder, tmp_path):
    out = OutFolder(tmp_path / "out")
    source = files.write(tmp_path / "a.txt", [*TEXTS, "word " * 1500, *TEXTS])
    run_bulk(folder, [source], out.path, chunk_rows=16)
    out.part(2).unlink()  # rows 32 to 47
    worker = Worker(Options(str(out.path), str(folder), lease="run", token=1, threads=1, keep_going=False))
    worker._model._runner._available = lambda: 3_000_000  # bytes of memory
    error = as_raised(**worker.answer(Plan(out).task(2))["error"])
    assert (type(error), error.exit_code, error.fault) == (ProviderError, 7, "E_MEMORY")
    assert str(error).startswith(f"{source}, row 40: a text with 150")  # tokens, those of the space behind it and of the end
    assert "3 MB are available; run it with fewer --workers" in str(error)


def test_a_disk_that_fails_while_a_worker_starts_is_an_error_of_the_disk(folder, tmp_path):
    """A folder in the place of the job's file, for a file that cannot be read."""
    (tmp_path / "_q3_job.json").mkdir()
    options = options_text(Options(str(tmp_path), str(folder), lease="run", token=1, threads=1, keep_going=False))
    done = subprocess.run(
        [sys.executable, "-m", "q3_runtime.bulk.worker", options],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    error = as_raised(**json.loads(done.stdout)["error"])
    assert (type(error), error.exit_code, error.fault) == (StorageError, 5, "E_IO")
    assert "_q3_job.json: Is a directory" in str(error)
