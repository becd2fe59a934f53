"""Connections that misbehave: too much, too slowly, or not at all. Deadlines are shortened; their kinds are the real ones."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.server import Server, read_all, request, serving

SECONDS = {"HEADER_SECONDS": 1.0, "BODY_SECONDS": 1.5, "WRITE_SECONDS": 1.5, "LINGER_SECONDS": 0.5, "IDLE_SECONDS": 1.0}
HEAD = b"POST /embed HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
GOOD = HEAD + b'content-length: 15\r\n\r\n{"inputs": "a"}'


@pytest.fixture(scope="module")
def hasty(mini_folder, tmp_path_factory):
    """A server with short deadlines."""
    folder = tmp_path_factory.mktemp("hasty")
    with serving("--model", f"{mini_folder}:int8", log=folder / "log", seconds=SECONDS) as server:
        yield server


def trickle(client: socket.socket, data: bytes, pause: float, most: float) -> tuple[float, bytes]:
    """Send a byte at a time until the server has had enough; how long that took, and what it said."""
    started = time.monotonic()
    client.settimeout(pause)
    said = b""
    for byte in data:
        try:
            client.sendall(bytes([byte]))
            part = client.recv(65536)
            said += part
            if not part:
                break
        except TimeoutError:
            assert time.monotonic() - started < most
        except ConnectionError:
            break
    return time.monotonic() - started, said


def test_slow_headers_end_at_the_deadline_whatever_comes_between(hasty: Server):
    with hasty.connect() as client:
        seconds, said = trickle(client, b"GET /live HTTP/1.1\r\nhost: a\r\nx-slow: " + b"a" * 200, 0.05, 5)
    assert 0.9 <= seconds <= 2.5
    assert said.startswith(b"HTTP/1.1 408 ")


def test_a_slow_body_ends_at_the_deadline(hasty):
    with hasty.connect() as client:
        client.sendall(HEAD + b"content-length: 1000\r\n\r\n")
        seconds, said = trickle(client, b" " * 200, 0.05, 5)
    assert 1.4 <= seconds <= 3
    assert said.startswith(b"HTTP/1.1 408 ")
    assert json.loads(said.split(b"\r\n\r\n")[1])["code"] == "request_timeout"


def test_the_second_request_of_a_connection_has_a_deadline_too(hasty):
    with hasty.connect() as client:
        client.sendall(GOOD)
        assert client.recv(100_000).startswith(b"HTTP/1.1 200 ")
        seconds, said = trickle(client, b"GET /live HTTP/1.1\r\nx-slow: " + b"a" * 200, 0.05, 5)
    assert 0.9 <= seconds <= 2.5
    assert b"HTTP/1.1 408 " in said


def test_five_hundred_slow_clients_do_not_keep_out_a_normal_one(hasty):
    slow = [hasty.connect() for _ in range(500)]
    try:
        for number, client in enumerate(slow):
            client.sendall(b"GET /live HTTP/1.1\r\nx: " if number % 2 else HEAD + b"content-length: 99\r\n\r\n{")
        assert hasty.post("/embed", {"inputs": "a"}).status == 200
        for client in slow:
            client.settimeout(10)
            assert read_all(client).startswith(b"HTTP/1.1 408 ")
    finally:
        for client in slow:
            client.close()
    assert hasty.post("/embed", {"inputs": "a"}).status == 200


def test_a_connection_that_says_nothing_is_closed_without_a_word(hasty):
    with hasty.connect() as client:
        started = time.monotonic()
        assert read_all(client) == b""
        assert 0.9 <= time.monotonic() - started <= 3


NO_BODY_YET = b"POST /nothing HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n"


@pytest.mark.parametrize(
    "first", [(GOOD,), (NO_BODY_YET, b"12345")], ids=["after an answer", "after an answer to half a request"]
)
def test_an_idle_connection_is_closed(hasty, first):
    with hasty.connect() as client:
        for part in first:
            client.sendall(part)
            time.sleep(0.3)
        client.recv(100_000)
        started = time.monotonic()
        client.settimeout(4)
        read_all(client)
        assert 0.5 <= time.monotonic() - started <= 3


def test_large_bodies_that_are_withheld_do_not_keep_out_a_normal_client(hasty):
    body = b'{"inputs": "' + b"a" * 1_900_000
    slow = [hasty.connect() for _ in range(40)]
    try:
        for client in slow:
            client.sendall(HEAD + b"content-length: 1999999\r\n\r\n" + body)
        assert hasty.post("/embed", {"inputs": "a"}).status == 200
    finally:
        for client in slow:
            client.close()


def test_a_protocol_error_of_a_head_request_is_answered_without_a_body(hasty):
    said = hasty.raw(b"HEAD /live HTTP/1.1\r\nhost: a\r\n" + b"x: a\r\n" * 100 + b"\r\n")
    assert said.startswith(b"HTTP/1.1 431 ")
    assert said.endswith(b"\r\n\r\n")


def test_a_client_that_does_not_read_is_cut_off_and_blocks_nobody(hasty):
    body = json.dumps({"inputs": ["a"] * 2000}).encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", hasty.port))
        client.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        answered = hasty.figure("q3_requests_total", route="/embed", status="200")
        while hasty.figure("q3_requests_total", route="/embed", status="200") == answered:
            time.sleep(0.05)
        assert hasty.post("/embed", {"inputs": "a"}).status == 200
        time.sleep(2.5)
        client.settimeout(10)
        with pytest.raises(ConnectionError):  # aborted: the rest of the answer never comes
            read_all(client)


def test_answers_that_nobody_takes_count_until_they_are_taken(mini_folder, tmp_path):
    """Above the limit others are told to come again."""
    limit = "from q3_runtime.server import application; application.MOST_ANSWER_BYTES = 1_000_000"
    body = json.dumps({"inputs": ["a"] * 2000}).encode()
    with serving("--model", f"{mini_folder}:int8", log=tmp_path / "log", also=limit) as server:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
            while not server.figure("q3_requests_total", route="/embed", status="200"):
                time.sleep(0.05)
            assert server.post("/embed", {"inputs": "a"}).status == 429
            taken = b""
            while not taken.endswith(b"]]"):
                taken += client.recv(65536)
        assert len(json.loads(taken.partition(b"\r\n\r\n")[2])) == 2000
        while server.post("/embed", {"inputs": "a"}).status != 200:
            time.sleep(0.05)


def test_answers_count_before_they_are_made(mini_folder, tmp_path):
    """Two of 6 MB do not fit, however many ask before the first is there."""
    limit = "from q3_runtime.server import application; application.MOST_ANSWER_BYTES = 10_000_000"
    body = {"inputs": ["a"] * 2000}
    with serving("--model", f"{mini_folder}:int8", log=tmp_path / "log", also=limit) as server:
        with ThreadPoolExecutor(8) as pool:
            statuses = [answer.status for answer in pool.map(lambda _: server.post("/embed", body), range(8))]
        assert set(statuses) == {200, 429}
        with ThreadPoolExecutor(8) as pool:
            body = {"inputs": ["a"] * 500, "dimensions": 32}
            small = list(pool.map(lambda _: server.post("/embed", body), range(8)))
        assert [answer.status for answer in small] == [200] * 8


def test_room_for_an_answer_that_is_not_made_is_free_again(mini_folder, tmp_path):
    """Where only one answer has room, one that was forgotten would keep out all others."""
    limit = "from q3_runtime.server import application; application.MOST_ANSWER_BYTES = 1"
    with serving("--model", f"{mini_folder}:int8", log=tmp_path / "log", also=limit) as server:

        def status(path: str, content: object) -> int:
            """Of the first answer that is not 429: the room of the one before is free a moment after it was taken."""
            deadline = time.monotonic() + 20
            while (found := server.post(path, content).status) == 429 and time.monotonic() < deadline:
                time.sleep(0.02)
            return found

        assert status("/embed", {"inputs": ["a"] * 20}) == 200
        assert status("/embed", {"inputs": "a", "dimensions": 5000}) == 422
        assert status("/embed", {"inputs": ["a"] * 3000}) == 422
        assert status("/embed", {"inputs": "word " * 40_000, "truncate": False}) == 422
        assert status("/embed", {"inputs": "a", "model": "another"}) == 404
        assert status("/embed", {"inputs": "a", "prompt_name": "another"}) == 422
        with server.connect() as client:
            client.sendall(request("/embed", {"inputs": ["word " * 900] * 300}))
            while not server.figure("q3_waiting_tokens", model="mini"):
                time.sleep(0.02)
            assert server.post("/embed", {"inputs": "a"}).status == 429
        assert status("/v1/embeddings", {"input": "a", "encoding_format": "base64"}) == 200
        assert status("/v1/embeddings", {"input": "a"}) == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"x: " + b"a" * 17_000 + b"\r\n", 431),
        (b"".join(b"x-%d: a\r\n" % number for number in range(100)), 431),
        (b"content-length: 15\r\ntransfer-encoding: chunked\r\n", 400),
        (b"content-length: 15\r\ncontent-length: 16\r\n", 400),
        (b"content-length: -1\r\n", 400),
        (b"content-length: 1e3\r\n", 400),
        (b"bad header\r\n", 400),
        (b"x: a\r\n folded\r\n" + b"y: \x00\r\n", 400),
        (b"host: b\r\n", 400),
    ],
)
def test_headers_that_are_refused(hasty, headers, status):
    said = hasty.raw(HEAD + headers + b"\r\n" + b'{"inputs": "a"}')
    assert said.startswith(b"HTTP/1.1 %d " % status), said[:200]
    assert b"connection: close" in said.lower()


@pytest.mark.parametrize(
    "line", [b"\x16\x03\x01\x02", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 9000, b"A" * 20_000]
)
def test_what_is_no_http_is_refused(hasty, line):
    said = hasty.raw(line + b"\r\n\r\n")
    assert not said or said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 ", b"HTTP/1.1 505 "))
    assert hasty.get("/live").status == 200


BROKEN = st.lists(
    st.one_of(
        st.sampled_from(
            [
                HEAD,
                GOOD,
                b"\r\n",
                b"content-length: 15\r\n\r\n",
                b'{"inputs": "a"}',
                b"transfer-encoding: chunked\r\n\r\n",
                b"5\r\n",
            ]
        ),
        st.binary(max_size=60),
    ),
    min_size=1,
    max_size=6,
).map(b"".join)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=BROKEN)
def test_broken_bytes_meet_no_error_of_ours(hasty, data):
    with hasty.connect() as client:
        said = b""
        client.settimeout(0.05)
        try:
            client.sendall(data)
            while part := client.recv(65536):
                said += part
        except (ConnectionError, TimeoutError):
            pass  # it was closed while we wrote, or waits for more
    assert b"HTTP/1.1 5" not in said.replace(b"HTTP/1.1 505", b"").replace(b"HTTP/1.1 501", b"")


def test_a_body_in_a_million_chunks_is_refused_and_takes_no_memory(hasty):
    before = hasty.memory()
    chunks = b"1\r\n \r\n" * 1_000_000
    with hasty.connect() as client:
        started = time.monotonic()
        client.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        try:
            client.sendall(chunks)
            said = read_all(client)
        except ConnectionError:
            said = b""  # it was closed while we wrote
        assert time.monotonic() - started < 10
    assert not said or said.startswith(b"HTTP/1.1 400 ")
    assert hasty.memory() - before < 30e6
    assert hasty.post("/embed", {"inputs": "a"}).status == 200


def test_a_body_in_chunks_of_a_usual_size_is_read(hasty):
    body = json.dumps({"inputs": ["some words"] * 1000, "dimensions": 32}).encode()
    parts = [body[place : place + 700] for place in range(0, len(body), 700)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    assert hasty.raw(HEAD + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + chunks).startswith(b"HTTP/1.1 200 ")


def test_a_content_length_that_lies_harms_only_its_own_connection(hasty):
    longer = hasty.raw(HEAD + b'content-length: 5000\r\n\r\n{"inputs": "a"}')
    assert longer.startswith(b"HTTP/1.1 408 ")
    shorter = hasty.raw(HEAD + b'content-length: 4\r\n\r\n{"inputs": "a"}')
    assert shorter.startswith(b"HTTP/1.1 400 ")
    assert b"HTTP/1.1 200 " not in shorter


def test_requests_that_come_one_behind_the_other_are_answered_in_order(hasty):
    said = hasty.raw(GOOD + GOOD + b"GET /live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert said.count(b"HTTP/1.1 200 ") == 3


def test_an_early_refusal_reaches_a_client_that_is_still_sending(hasty):
    """Without lingering the connection would be reset, and the answer lost with it."""
    for _ in range(10):
        with hasty.connect() as client:
            client.sendall(HEAD + b"content-length: 3000000\r\n\r\n")
            client.sendall(b" " * 3_000_000)
            assert read_all(client).startswith(b"HTTP/1.1 413 ")


def test_after_all_of_this_the_server_is_well(hasty):
    assert hasty.post("/embed", {"inputs": "a"}).status == 200
    assert "Traceback" not in hasty.log.read_text("utf-8")
