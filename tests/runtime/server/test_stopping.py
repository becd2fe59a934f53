"""SIGTERM: what was accepted is answered, readiness goes first, and the exit code is 0."""

import http.client
import itertools
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.support.server import Server, not_under_nohup, read, serving


@pytest.mark.parametrize("trial", range(5))
def test_no_request_that_was_accepted_stays_unanswered(mini_folder, tmp_path, trial):
    assert lost(mini_folder, tmp_path / "log", 0.2 + 0.07 * trial) == []


def lost(folder, log, delay: float) -> list[str]:
    """Requests under load that a SIGTERM left without an answer. Those that were never connected do not count."""
    unanswered: list[str] = []
    answered = itertools.count()
    with serving("--model", f"{folder}:int8", log=log) as server:
        gone = threading.Event()

        def client(number: int) -> None:
            connection = None
            while not gone.is_set():
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                    try:
                        connection.connect()
                    except OSError:
                        return  # it listens no longer
                try:
                    connection.request("POST", "/embed", b'{"inputs": "some words"}', {"content-type": "application/json"})
                    answer = read(connection.getresponse())
                    assert answer.status == 200
                    next(answered)
                except (OSError, http.client.HTTPException) as error:
                    unanswered.append(f"client {number}: {type(error).__name__} {error}")
                    return
                if answer.headers.get("connection") == "close" or number % 2:  # odd ones open a connection a request
                    connection.close()
                    connection = None

        clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for each in clients:
            each.start()
        time.sleep(delay)
        code = server.stop()
        gone.set()
        for each in clients:
            each.join()
        assert code == 0
        assert next(answered) > 8
    return unanswered


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_runs_is_finished_though_nobody_hears_that_it_stops(mini_folder, number):
    """Ctrl-C in `q3 serve … 2>&1 | tee log` ends tee first."""
    command = [sys.executable, "-m", "q3_runtime.cli", "serve", "--model", f"{mini_folder}:int8", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=not_under_nohup) as process:
        ready = next(line for line in process.stderr if "ready on" in line)
        server = Server(process, int(ready.rpartition(":")[2]), Path())
        found = []
        long = threading.Thread(target=lambda: found.append(server.post("/embed", {"inputs": ["word " * 400] * 60})))
        long.start()
        while not server.figure("q3_waiting_tokens", model="mini"):
            time.sleep(0.01)
        process.stderr.close()
        process.send_signal(number)
        time.sleep(0.1)
        assert server.stop(signal.SIGHUP) == 0  # shell and kernel both send it
        long.join()
    assert (found[0].status, len(found[0].content)) == (200, 60)


def test_readiness_goes_at_once_and_what_runs_is_finished(mini_folder, tmp_path):
    with serving("--model", f"{mini_folder}:int8", log=tmp_path / "log") as server:
        keep = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        keep.request("GET", "/ready")
        assert read(keep.getresponse()).status == 200
        found = []
        body = {"inputs": ["word " * 400] * 60}
        long = threading.Thread(target=lambda: found.append(server.post("/embed", body)))
        long.start()
        while not server.figure("q3_waiting_tokens", model="mini"):
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.15)
        keep.request("GET", "/ready")
        answer = read(keep.getresponse())
        assert (answer.status, answer.headers["connection"]) == (503, "close")
        long.join()
        assert (found[0].status, len(found[0].content)) == (200, 60)
        assert server.process.wait(60) == 0
