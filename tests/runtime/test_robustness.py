"""Too little memory, forks, signals, threads, closed models: a clear line, and the next call works."""

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.test_embedder import patch_weights

from q3_runtime import Embedder
from q3_runtime.errors import NonFiniteError, Q3Error, TooLargeError, UsageError
from q3_runtime.manifest import Manifest
from q3_runtime.memory import ModelSizes, available_memory
from q3_runtime.runner import Runner
from q3_runtime.session import open_session

CPU = "CPUExecutionProvider"
MAX_DELTA = 1e-5
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone says what memory there is, and limits it")


@pytest.fixture(scope="module")
def model(folder: Path) -> Embedder:
    return Embedder(folder)


def python(code: str, *arguments: object, lines: int) -> list[str]:
    """What a fresh interpreter prints, if it ends well and says nothing on standard error."""
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == lines
    return done.stdout.splitlines()


# Memory (R14, R22)


@linux
def test_a_text_that_cannot_fit_is_refused_before_it_runs_with_both_numbers(model):
    available = available_memory()
    sizes = ModelSizes.read(model.folder)
    tokens = 2_000_000 * available // sizes.run_bytes(1, 1_000_000)
    words = rf"text 0 with {tokens} tokens needs about [\d,]+ MB of memory, [\d,]+ MB are available; shorten or split the text"
    with pytest.raises(TooLargeError, match=words) as caught:
        model.run([np.zeros(tokens, dtype=np.int8)])
    assert isinstance(caught.value, MemoryError)
    assert isinstance(caught.value, Q3Error)
    assert (caught.value.index, caught.value.tokens, caught.value.exit_code) == (0, tokens, 7)
    assert caught.value.needed == sizes.run_bytes(1, tokens) > caught.value.available
    assert model.encode("short").shape == (64,)


def narrow(folder: Path, room: int) -> tuple[Runner, list[int]]:
    """A runner that is told of so much memory, and the list of how often it asked."""
    asked: list[int] = []

    def available() -> int:
        asked.append(room)
        return room

    entry = Manifest.read(folder).quants["fp32"]
    return Runner(open_session(folder, entry, CPU), 0, ModelSizes.read(folder), available=available), asked


def test_a_batch_that_does_not_fit_is_halved_until_it_does(folder, model):
    rows = [np.arange(row, row + 100) for row in range(8)]
    runner, asked = narrow(folder, ModelSizes.read(folder).run_bytes(2, 100))
    found = runner.run(rows, range(8))
    assert len(asked) == 2 + 2 * 2 + 4  # for 8, 4 and 2 rows; twice where it did not fit, the heap trimmed between
    assert np.abs(found - model.run(rows)).max() <= MAX_DELTA
    left = runner.run(rows, range(8), padding_side="left")
    assert np.abs(left - found).max() <= MAX_DELTA


def test_halving_leaves_the_rows_in_their_order_and_pads_each_half_for_itself(folder, model):
    rows = [np.arange(length) for length in (300, 1, 7, 2, 60)]
    runner, _ = narrow(folder, ModelSizes.read(folder).run_bytes(1, 300))
    alone = np.concatenate([model.run([row]) for row in rows])
    assert np.abs(runner.run(rows, range(5)) - alone).max() <= MAX_DELTA


def test_the_text_that_does_not_fit_alone_is_named(folder):
    sizes = ModelSizes.read(folder)
    runner, _ = narrow(folder, sizes.run_bytes(1, 50))
    with pytest.raises(TooLargeError, match="text 12 with 51 tokens") as caught:
        runner.run([np.arange(5), np.arange(5), np.arange(51)], [10, 11, 12])
    assert (caught.value.needed, caught.value.available) == (sizes.run_bytes(1, 51), sizes.run_bytes(1, 50))
    assert runner.run([np.arange(50)], [0]).shape == (1, 64)


@linux
def test_an_allocation_that_fails_halves_the_batch_and_then_names_the_text(folder):
    """The limit is set behind the estimate's back, on the address space, so onnxruntime itself runs out."""
    code = """
import re, resource, sys
from pathlib import Path
import numpy as np
from q3_runtime import Embedder
from q3_runtime.batching import pad
from q3_runtime.errors import TooLargeError
from q3_runtime.runner import NO_MEMORY
model = Embedder(sys.argv[1], threads=1)
texts = [f"{i} " + "word " * 400 for i in range(64)]
expected = model.encode(texts, batch_tokens=1)
size = int(re.search(r"VmSize:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 40_000_000, resource.RLIM_INFINITY))
batch = pad([item.ids for item in model.tokenizer.encode(texts)], 0)
try:
    model._runner.session().run(["sentence_embedding"], batch)
except Exception as error:
    print("a whole batch fails" if NO_MEMORY.search(str(error)) else error)
found = model.encode(texts, batch_tokens=100_000)
print(np.abs(found - expected).max() <= 1e-5)
try:
    model.run([np.arange(5), np.arange(30_000) % 900])
except TooLargeError as error:
    print(error.index, error.tokens, error.exit_code, error.available, str(error))
print(np.abs(model.encode(texts, batch_tokens=1) - expected).max() <= 1e-5)
"""
    whole, same, error, usable = python(code, folder, lines=4)
    assert whole == "a whole batch fails"
    assert same == usable == "True"
    assert error.startswith("1 30000 7 None text 1 with 30000 tokens needs about ")
    assert "it could not be had; shorten or split the text" in error


# Vectors that are none (R19)


def test_integers_of_a_model_that_gives_nan_are_refused_by_row_too(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    patch_weights(copy, "embed_tokens.weight", float("nan"), row=Embedder(folder).tokenizer.encode(["<|im_start|>"])[0].ids[0])
    damaged = Embedder(copy)
    texts = ["a", "b <|im_start|> c", "d", "e <|im_start|>"]
    for precision in ("float32", "int8", "ubinary"):
        with pytest.raises(NonFiniteError) as caught:
            damaged.encode(texts, precision=precision)
        assert sorted(caught.value.rows) == [1, 3]
    assert damaged.encode(["a", "d"], precision="int8").shape == (2, 64)


# Threads (R20)


def test_eight_threads_with_batches_of_their_own_get_the_vectors_of_one(model):
    works = [[f"thread {number} text {i} " + "more " * ((number * i) % 17) for i in range(24)] for number in range(8)]
    serial = [model.encode(texts) for texts in works]
    start = threading.Barrier(8)

    def work(texts: list[str]) -> np.ndarray:
        start.wait()
        return model.encode(texts)

    with ThreadPoolExecutor(8) as pool:
        for found, expected in zip(pool.map(work, works), serial, strict=True):
            np.testing.assert_array_equal(found, expected)


# Processes (R21)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_is_told_at_once_and_the_parent_goes_on(folder):
    code = """
import os, sys
from q3_runtime import Embedder
model = Embedder(sys.argv[1])
expected = model.encode("text").tolist()
child = os.fork()
if child == 0:
    for use in (lambda: model.encode("text"), lambda: model.encode([]), lambda: model.run([])):
        try:
            use()
        except Exception as error:
            print(type(error).__name__, error.exit_code, error, flush=True)
    os._exit(5)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), model.encode("text").tolist() == expected)
"""
    *refused, parent = python(code, folder, lines=4)
    assert parent == "5 True"
    for line in refused:
        assert line.startswith("ProviderError 7 this model was loaded by process ")
        assert line.endswith("load it in each process, or start them with multiprocessing's 'spawn'")


def test_processes_that_are_spawned_load_the_model_and_agree(folder, model, tmp_path):
    (tmp_path / "work.py").write_text(
        """
import json, multiprocessing, sys
from q3_runtime import Embedder

def work(text):
    return Embedder(sys.argv[1], threads=1).encode(text).tolist()

if __name__ == "__main__":
    Embedder(sys.argv[1]).encode("before")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print(json.dumps(pool.map(work, ["a", "another text"])))
""",
        encoding="utf-8",
    )
    command = [sys.executable, str(tmp_path / "work.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = np.array(json.loads(done.stdout))
    assert np.abs(found - model.encode(["a", "another text"])).max() <= MAX_DELTA


# Interruption (R23)


@linux
def test_an_interrupt_stops_encode_and_the_next_call_works(folder):
    code = """
import os, signal, sys, threading, time
import numpy as np
from q3_runtime import Embedder
model = Embedder(sys.argv[1])
expected = model.encode(["a", "b"])
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
started = time.monotonic()
try:
    model.encode([f"text {i} " + "word " * 50 for i in range(50_000)])
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - started < 5)
print(np.array_equal(model.encode(["a", "b"]), expected))
"""
    assert python(code, folder, lines=2) == ["interrupted True", "True"]


@linux
def test_a_batch_that_is_being_computed_stops_at_an_interrupt_or_a_timeout_and_the_next_one_works(folder):
    """Seconds are those of the processor: other work on the machine does not count."""
    code = """
import os, signal, sys, threading, time
import numpy as np
from q3_runtime import Embedder

def time_out(*_):
    raise TimeoutError

signal.signal(signal.SIGALRM, time_out)
model = Embedder(sys.argv[1])
batch = [np.arange(12_000) % 900]
clock, seconds = time.monotonic(), time.process_time()
expected = model.run(batch)
clock, seconds = time.monotonic() - clock, time.process_time() - seconds
for number in (signal.SIGINT, signal.SIGALRM):
    threading.Timer(clock / 10, os.kill, (os.getpid(), number)).start()
    started = time.process_time()
    try:
        model.run(batch)
    except (KeyboardInterrupt, TimeoutError) as error:
        share = (time.process_time() - started) / seconds
        print(type(error).__name__, share < 0.7 or share)
print(np.array_equal(model.run(batch), expected))
"""
    assert python(code, folder, lines=3) == ["KeyboardInterrupt True", "TimeoutError True", "True"]


@linux
def test_a_signal_whose_handler_returns_does_not_disturb_a_batch(folder):
    code = """
import signal, sys
import numpy as np
from q3_runtime import Embedder
model = Embedder(sys.argv[1])
expected = model.run([np.arange(3_000) % 900])
handled = []
signal.signal(signal.SIGALRM, lambda *_: handled.append(model.run([np.arange(100)])))
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.05)
found = model.run([np.arange(3_000) % 900])
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(handled) > 0, np.array_equal(found, expected))
"""
    assert python(code, folder, lines=1) == ["True True"]


# The end (R24)


def test_a_closed_model_says_so_and_closes_twice(folder):
    model = Embedder(folder)
    model.close()
    model.close()
    for use in (lambda: model.encode("a"), lambda: model.encode([]), lambda: model.run([np.arange(3)])):
        with pytest.raises(UsageError, match="this model was closed, expected an open one; load it again") as caught:
            use()
        assert caught.value.exit_code == 2
    assert model.dims == 64


def test_a_with_block_closes_the_model_also_on_an_error(folder):
    with Embedder(folder) as model:
        assert model.encode("a").shape == (64,)
    with pytest.raises(UsageError, match="was closed"):
        model.encode("a")
    with pytest.raises(ZeroDivisionError), Embedder(folder) as other:
        _ = 1 / 0
    with pytest.raises(UsageError, match="was closed"):
        other.encode("a")


def test_a_run_that_is_under_way_survives_closing(folder):
    model = Embedder(folder)
    text = "word " * 2000
    expected = model.encode(text)
    session, begun = model._runner.session(), threading.Event()

    class Slow:
        """The session, which says when it has begun."""

        def run(self, *args: object) -> object:
            begun.set()
            time.sleep(0.1)
            return session.run(*args)

    model._runner._session = Slow()
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(model.encode, text)
        assert begun.wait(10)
        model.close()
        np.testing.assert_array_equal(result.result(), expected)
    with pytest.raises(UsageError, match="was closed"):
        model.encode(text)


@pytest.mark.parametrize("end", ["", "model.close()", "del model", "sys.exit()", "model = [model]; model.append(model)"])
def test_the_end_of_a_program_is_silent(folder, end):
    code = f"import sys\nfrom q3_runtime import Embedder\nmodel = Embedder(sys.argv[1])\nmodel.encode('a')\n{end}"
    assert python(code, folder, lines=0) == []


def test_a_model_can_be_used_while_the_program_ends(folder):
    code = """
import atexit, sys
from q3_runtime import Embedder
model = Embedder(sys.argv[1])
atexit.register(lambda: print(model.encode("word " * 100).shape))
"""
    assert python(code, folder, lines=1) == ["(64,)"]


LATE = "threading.Thread(target=lambda: (threading.main_thread().join(), work())).start()"


@pytest.mark.parametrize("late", ["atexit.register(work)", LATE])
def test_a_model_can_be_loaded_while_the_program_ends(folder, late):
    """Python then starts no threads of pools any more."""
    code = f"""
import atexit, sys, threading
from q3_runtime import Embedder
def work():
    print(Embedder(sys.argv[1]).encode("word").shape)
{late}
"""
    assert python(code, folder, lines=1) == ["(64,)"]


def worker_of(model: Embedder) -> threading.Thread:
    """The thread that computes what the main thread asks this model for."""
    before = threading.enumerate()
    model.run([np.arange(100)])
    (thread,) = set(threading.enumerate()) - set(before)
    return thread


def test_models_that_are_dropped_give_their_memory_and_their_thread_back(folder):
    model = Embedder(folder)
    thread = worker_of(model)
    dropped = weakref.ref(model._runner.session()._session)
    del model
    gc.collect()
    assert dropped() is None
    thread.join(60)
    assert not thread.is_alive()


def test_a_closed_model_gives_its_thread_back(folder):
    model = Embedder(folder)
    thread = worker_of(model)
    model.close()
    thread.join(60)
    assert not thread.is_alive()


def test_a_query_needs_no_thread(folder):
    """Handing it over would cost it up to some milliseconds on a busy machine."""
    model = Embedder(folder)
    before = threading.enumerate()
    model.encode("What is the capital of China?")
    assert set(threading.enumerate()) <= set(before)
