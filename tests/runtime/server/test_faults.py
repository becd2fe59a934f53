"""Bad requests, each with the status that its dialect has for it; the server goes on, and no text is ever logged."""

import json
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.support.server import Server, launched, request, serving, wait_for

SECRET = "a text that nobody else may read"
BROKEN = [
    (b"", "invalid_json"),
    (b"{", "invalid_json"),
    (b'{"inputs": "a"} x', "invalid_json"),
    (b'\xef\xbb\xbf{"inputs": "a"}', "invalid_json"),
    (b'{"inputs": "a", "dimensions": NaN}', "invalid_json"),
    (b'{"inputs": "a", "x": -Infinity}', "invalid_json"),
    (b'{"inputs": "\xff"}', "invalid_utf8"),
    (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too_deep"),
    (b'{"inputs": "a", "x": ' + b"1" * 5000 + b"}", "invalid_number"),
    (b'{"inputs": "a", "inputs": "b"}', "invalid_json"),
]
WRONG = [
    5,
    None,
    {},
    [["a"]],
    [[["a"]]],
    True,
    [True],
    [1.5],
    [-1],
    [["a", 1]],
    ["a", None],
    ["a", {}],
    [1, "a"],
    "\ud800",
    ["a", "\udfff"],
]
EMPTY = ["", [], [[]], ["a", ""], [[], [1]]]
DIMENSIONS = [0, -1, 31, 257, 10**9, 64.5, "64", True, [64]]


def kind(content: dict, path: str) -> str:
    return content["error"]["code"] if path.startswith("/v") else content["code"]


@pytest.mark.parametrize(("body", "code"), BROKEN, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings", "/rerank"])
def test_what_is_no_json_is_refused_without_repeating_it(served: Server, path, body, code):
    answer = served.post(path, body)
    assert (answer.status, kind(answer.content, path)) == (400, code)
    assert len(json.dumps(answer.content)) < 1000


@pytest.mark.parametrize("body", [b"[]", b'"a"', b"1", b"null", b"true"])
def test_another_json_value_than_an_object_is_refused(served, body):
    assert served.post("/embed", body).status == 422


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize(("path", "field"), [("/embed", "inputs"), ("/embed_all", "inputs"), ("/v1/embeddings", "input")])
def test_inputs_of_another_type_are_refused_and_their_place_is_named(served, path, field, value):
    answer = served.post(path, {field: value})
    assert answer.status == 422, answer.content
    body = answer.content["error"] if path.startswith("/v") else answer.content
    assert body["param"].startswith(field)


def test_the_place_of_a_wrong_item_is_exact(served):
    answer = served.post("/v1/embeddings", {"input": ["a", "b", "c", 4]})
    assert answer.content["error"]["param"] == "input[3]"
    nested = {"inputs": {"source_sentence": "a", "sentences": ["b", 1]}}
    assert served.post("/similarity", nested).content["param"] == "inputs.sentences[1]"


@pytest.mark.parametrize("value", EMPTY, ids=repr)
@pytest.mark.parametrize(("path", "field"), [("/embed", "inputs"), ("/embed_all", "inputs"), ("/v1/embeddings", "input")])
def test_empty_inputs_are_refused_as_text_embeddings_inference_does(served, path, field, value):
    answer = served.post(path, {field: value})
    assert (answer.status, answer.content["error_type"]) == (400, "Empty")
    assert answer.message == f"`{field}` cannot be empty"


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/rerank", {"query": "a", "texts": []}, "`texts` cannot be empty"),
        ("/v1/rerank", {"query": "a", "documents": []}, "`documents` cannot be empty"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, "`inputs.sentences` cannot be empty"),
        ("/tokenize", {"inputs": ""}, "`inputs` cannot be empty"),
        ("/decode", {"ids": []}, "`ids` cannot be empty"),
    ],
)
def test_empty_lists_of_the_other_routes(served, path, body, message):
    answer = served.post(path, body)
    assert (answer.status, answer.message) == (400, message)


@pytest.mark.parametrize("text", [" ", "\n\t", "\u0000", "\u0000a", "🐳", "שלום", "\u202eabc", "\ufeff", "a" * 50_000])
def test_odd_texts_are_embedded(served, text):
    assert served.post("/embed", {"inputs": text}).status == 200
    assert served.post("/tokenize", {"inputs": text}).status == 200


@pytest.mark.parametrize("value", DIMENSIONS, ids=repr)
@pytest.mark.parametrize(("path", "field"), [("/embed", "inputs"), ("/v1/embeddings", "input")])
def test_dimensions_that_make_no_sense_are_refused(served, path, field, value):
    assert served.post(path, {field: "a", "dimensions": value}).status == 422


@pytest.mark.parametrize("value", [0, -1, 10**9, 10**30, 1.5, "1", True])
def test_ranks_that_make_no_sense_are_refused(served, value):
    assert served.post("/v1/rerank", {"query": "a", "documents": ["b"], "top_n": value}).status == 422


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/v1/embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ("/embed", {"inputs": "a", "prompt_name": "nobody"}, "document, query"),
        ("/embed", {"inputs": "a", "prompt_name": "query", "instruction": "x"}, "prompt_name and instruction"),
        ("/embed", {"inputs": "a", "input_type": "image"}, "input_type"),
        ("/embed", {"inputs": "a", "truncation_direction": "Up"}, "truncation_direction"),
        ("/embed", {"inputs": "a", "normalize": "yes"}, "normalize"),
        ("/embed", {"inputs": "a", "instruction": "\ud800"}, "instruction"),
        ("/embed", {"inputs": [1, 10**8]}, "vocabulary"),
        ("/decode", {"ids": [10**8]}, "ids"),
        ("/rerank", {"query": "a"}, "neither given"),
        ("/rerank", {"query": "a", "texts": ["a"], "documents": ["a"]}, "both given"),
        ("/rerank", {"query": "a", "texts": "a"}, "texts"),
        ("/rerank", {"query": 1, "texts": ["a"]}, "query"),
        ("/rerank", {"query": "\ud800", "texts": ["a"]}, "query"),
        ("/v1/rerank", {"query": "a", "documents": [{"title": "a"}]}, "documents"),
    ],
)
def test_other_values_that_are_not_understood(served, path, body, named):
    answer = served.post(path, body)
    assert (answer.status, named in answer.message) == (422, True), answer.content


def test_too_many_texts_are_refused_in_text_embeddings_inferences_words(served):
    answer = served.post("/embed", {"inputs": ["a"] * 2049})
    assert (answer.status, answer.message) == (422, "batch size 2049 > maximum allowed batch size 2048")
    assert served.post("/rerank", {"query": "a", "texts": ["a"] * 2049}).status == 422
    assert len(served.post("/embed", {"inputs": ["a"] * 2048, "dimensions": 32}).content) == 2048
    assert served.post("/embed_all", {"inputs": ["word " * 2000] * 20}).status == 413


def test_a_body_that_is_too_large_is_refused_before_it_is_read(served):
    with served.connect() as client:
        client.sendall(b"POST /embed HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 2000001\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")
    before = served.memory()
    assert served.post("/embed", b'{"inputs": "' + b"a" * 8_000_000 + b'"}').status == 413
    chunks = b"".join(b"10000\r\n" + b" " * 65536 + b"\r\n" for _ in range(100))
    head = b"POST /embed HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    assert served.raw(head + chunks).startswith(b"HTTP/1.1 413 ")
    assert served.memory() - before < 30e6


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/embed", {"content-type": "text/plain"}, 415),
        ("POST", "/embed", {}, 415),
        ("POST", "/embed", {"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ("GET", "/embed", {}, 405),
        ("PUT", "/v1/embeddings", {}, 405),
        ("POST", "/info", {}, 405),
        ("GET", "/nothing", {}, 404),
        ("GET", "/../../etc/passwd", {}, 404),
        ("GET", "/%2e%2e/etc/passwd", {}, 404),
        ("POST", "/v1/chat/completions", {"content-type": "application/json"}, 404),
        ("POST", "/embed", {"content-type": "application/json", "host": "a b/c"}, 400),
    ],
)
def test_wrong_types_methods_and_paths_are_answered_in_json(served, method, path, headers, status):
    answer = served.ask(method, path, b'{"inputs": "a"}' if method == "POST" else None, headers)
    assert (answer.status, bool(answer.message)) == (status, True)
    assert ("allow" in answer.headers) == (status == 405)


def test_errors_have_the_form_of_their_dialect(served):
    native = served.post("/embed", {"inputs": 5})
    assert set(native.content) >= {"error", "error_type", "code", "request_id"}
    assert native.content["request_id"] == native.headers["x-request-id"]
    for path in ("/v1/embeddings", "/v1/rerank"):
        content = served.post(path, {"input": 5}).content
        assert set(content["error"]) >= {"message", "type", "param", "code", "retryable", "request_id"}
        assert (content["code"], content["error_type"], content["message"]) == (422, "Validation", content["error"]["message"])
    documents = served.post("/rerank", {"query": "a", "documents": [5]}).content
    assert documents["error"]["param"] == "documents[0]"


def test_nothing_of_this_reaches_the_log_and_a_bug_is_logged_without_texts(mini_folder, tmp_path):
    """The bug is put into the process: every run of the model raises, with the text in its message."""
    also = f"""
from q3_runtime.embedder import Embedder
def run(self, ids): raise RuntimeError({SECRET!r})
"""
    also += "from q3_runtime.server import served_model\nserved_model.ServedModel._run = run\n"
    with serving("--model", f"{mini_folder}:int8", log=tmp_path / "log", also=also) as server:
        answer = server.post("/embed", {"inputs": SECRET})
        assert (answer.status, answer.content["code"]) == (500, "internal_error")
        server.post("/embed", {"inputs": [SECRET, 5]})
        server.post("/embed", {"inputs": SECRET, "prompt_name": SECRET})
        server.post(f"/{SECRET.replace(' ', '')}", {"inputs": SECRET})
        log = server.log.read_text("utf-8")
        assert answer.content["request_id"] in log
        assert "RuntimeError" in log
        assert SECRET not in log
        assert SECRET.replace(" ", "") not in log
        assert SECRET not in server.get("/metrics").content


def test_a_vector_that_is_not_finite_is_an_error_and_never_null(mini_folder, tmp_path):
    also = """
import numpy as np
from q3_runtime.embedder import Embedder
right = Embedder.run
def run(self, ids, **options):
    found = right(self, ids, **options)
    found[[len(row) > 20 for row in ids]] = np.nan
    return found
Embedder.run = run
"""
    with serving("--model", f"{mini_folder}:int8", log=tmp_path / "log", also=also) as server:
        with ThreadPoolExecutor(8) as pool:
            asked = [{"inputs": ["good"] * 3}, {"inputs": ["good", "bad " * 40]}] * 4
            answers = list(pool.map(lambda body: server.post("/embed", body), asked))
        assert [answer.status for answer in answers] == [200, 424] * 4
        assert answers[1].content["code"] == "non_finite_output"
        assert answers[1].content["retryable"] is False


def test_a_text_that_does_not_fit_in_memory_fails_alone(mini_folder, tmp_path):
    also = """
from q3_runtime import runner
right = runner.Runner._estimate
runner.Runner._estimate = lambda self, ids: 1 << 60 if max(map(len, ids)) > 1500 else right(self, ids)
"""
    with serving("--model", f"{mini_folder}:int8", log=tmp_path / "log", also=also) as server:
        answer = server.post("/embed", {"inputs": ["a", "word " * 9000]})
        assert (answer.status, answer.content["code"], answer.content["retryable"]) == (503, "out_of_memory", True)
        assert server.post("/embed", {"inputs": "a"}).status == 200


def test_a_full_queue_answers_429_and_nothing_is_half_done(mini_folder, tmp_path):
    limits = ("--max-queue-tokens", 3000, "--queue-timeout", 30)
    with serving("--model", f"{mini_folder}:int8", *limits, log=tmp_path / "log") as server:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: server.post("/embed", {"inputs": ["word " * 60] * 20}), range(60)))
        assert {answer.status for answer in answers} == {200, 429}
        for answer in answers:
            if answer.status == 429:
                assert answer.content["error_type"] == "Overloaded"
                assert 1 <= int(answer.headers["retry-after"]) <= 60
            else:
                assert len(answer.content) == 20
        assert server.post("/embed", {"inputs": ["word " * 60] * 60}).status == 413
        assert server.post("/embed", {"inputs": "a"}).status == 200
        assert server.figure("q3_waiting_tokens", model="mini") == 0


def test_more_requests_than_are_allowed_at_once_get_429(mini_folder, tmp_path):
    with serving("--model", f"{mini_folder}:int8", "--max-concurrent-requests", 2, log=tmp_path / "log") as server:
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: server.post("/embed", {"inputs": ["word " * 300] * 10}), range(24)))
        assert {answer.status for answer in answers} == {200, 429}


def test_a_client_that_leaves_is_not_computed_for(mini_folder, tmp_path):
    with serving("--model", f"{mini_folder}:int8", log=tmp_path / "log") as server:
        client = server.connect()
        client.sendall(request("/embed", {"inputs": ["word " * 900] * 300}))
        time.sleep(0.7)
        client.close()
        assert server.post("/embed", {"inputs": "a"}).status == 200
        deadline = time.monotonic() + 20
        while not server.figure("q3_cancelled_total", route="/embed") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.figure("q3_cancelled_total", route="/embed") == 1
        assert server.figure("q3_waiting_tokens", model="mini") == 0
        assert server.figure("q3_batch_rows_sum", model="mini") < 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"inputs": ["a"] * 2000, "instruction": "b" * 1_900_000}),
        ("/tokenize", {"inputs": ["a"] * 2000, "instruction": "b" * 1_900_000}),
        ("/tokenize", {"inputs": "a b " * 400_000}),
        ("/rerank", {"query": "b" * 1_900_000, "texts": ["a"] * 2000}),
        ("/v1/rerank", {"query": "b", "documents": ["a"] * 2000, "instruction": "b" * 1_900_000}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_what_is_repeated_for_every_text_counts_every_time(served, path, body):
    before, started = served.memory(), time.monotonic()
    answer = served.post(path, body)
    assert (answer.status, kind(answer.content, path)) == (413, "too_many_tokens")
    assert time.monotonic() - started < 5
    assert served.memory() - before < 300e6


def test_a_body_of_a_million_little_arrays_is_refused_before_it_is_read(served):
    for little in (b"[1],", b"{},"):
        answer = served.post("/embed", b'{"inputs": [' + little * 300_000 + b"1]}")
        assert (answer.status, answer.content["code"]) == (400, "too_many_values")
    assert served.post("/embed", {"inputs": "[{" * 200_000}).status == 200


@pytest.mark.parametrize("inside", [b'\\"', b'""', b"\\"], ids=["escaped quotes", "quotes", "backslashes"])
def test_a_body_of_quotes_without_an_end_is_refused_at_once(served, inside):
    """Everybody waits while a body is read."""
    body = b'{"inputs": "' + b"[" * 140_000 + inside * 300_000
    started = time.monotonic()
    assert served.post("/embed", body).status == 400
    assert time.monotonic() - started < 5


def test_nobody_is_sent_to_where_the_host_header_says(served):
    answer = served.ask("POST", "/embed/", b"{}", {"host": "elsewhere.example", "content-type": "application/json"})
    assert (answer.status, "location" in answer.headers) == (404, False)


def test_labels_of_metrics_are_the_servers_own(served):
    before = len(re.findall("\n", served.get("/metrics").content))
    for number in range(30):
        served.post(f"/flood-{number}", {"inputs": "a", "model": f"flood-{number}"})
        served.post("/embed", {"inputs": "a", "model": f"flood-{number}", f"field-{number}": 1})
        served.ask("PATCH", "/embed")
    text = served.get("/metrics").content
    assert "flood" not in text
    assert len(re.findall("\n", text)) - before < 40


@pytest.fixture(scope="module")
def locked(mini_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("locked")
    (folder / "key").write_text("open sesame\n")
    arguments = ("--model", f"{mini_folder}:int8", "--host", "0.0.0.0", "--api-key-file", folder / "key")
    with serving(*arguments, log=folder / "log") as server:
        yield server


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
@pytest.mark.parametrize("given", ["", "open sesame", "Basic open sesame", "Bearer ", "Bearer open", "Bearer ö"])
def test_a_wrong_key_is_refused(locked, path, given):
    named = {"authorization": given} if given else {}
    answer = locked.post(path, {"inputs": "a", "input": "a"}, **named)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert locked.get("/info", **named).status == 401


def test_the_right_key_opens_and_probes_need_none(locked):
    assert locked.post("/embed", {"inputs": "a"}, authorization="bearer open sesame").status == 200
    assert [locked.get(path).status for path in ("/health", "/ready", "/live", "/metrics", "/")] == [200] * 5
    assert "sesame" not in locked.log.read_text("utf-8")


def refused(*arguments: object, tmp_path: Path, **options: object) -> tuple[int, str]:
    process = launched(*arguments, log=tmp_path / "log", **options)
    return process.wait(60), (tmp_path / "log").read_text("utf-8").strip()


class TestStarting:
    def test_an_address_that_others_reach_needs_a_key(self, mini_folder, tmp_path):
        for host in ("0.0.0.0", "::", "192.0.2.1"):
            code, said = refused("--model", mini_folder, "--host", host, tmp_path=tmp_path)
            assert (code, "Q3_API_KEY" in said, len(said.splitlines())) == (2, True, 1)

    def test_a_key_can_come_from_the_environment_and_an_empty_one_is_none(self, mini_folder, tmp_path):
        with serving("--model", f"{mini_folder}:int8", log=tmp_path / "log", environment={"Q3_API_KEY": "k"}) as server:
            assert server.post("/embed", {"inputs": "a"}).status == 401
            assert server.post("/embed", {"inputs": "a"}, authorization="Bearer k").status == 200
        code, _ = refused("--model", mini_folder, tmp_path=tmp_path, environment={"Q3_API_KEY": ""})
        assert code == 3

    def test_a_port_that_is_taken_is_said_in_a_line(self, served, mini_folder, tmp_path):
        code, said = refused("--model", mini_folder, "--port", served.port, tmp_path=tmp_path)
        assert (code, len(said.splitlines())) == (5, 1)
        assert f"cannot listen on 127.0.0.1 port {served.port}: Address already in use" in said
        assert "--port" in said

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (["--model", "{mini}:int9"], 2, "int9"),
            (["--model", "/nowhere"], 3, "no such folder"),
            (["--model", "{mini}:int8", "{mini}:fp32"], 2, "two models are called 'mini'"),
            (["--model", "{mini}", "--port", "70000"], 2, "--port"),
            (["--model", "{mini}", "--max-batch-tokens", "0"], 2, "--max-batch-tokens"),
            (["--model", "{mini}", "--provider", "cuda"], 7, "cuda"),
        ],
    )
    def test_what_cannot_be_served_ends_the_process_with_its_code(self, mini_folder, tmp_path, arguments, code, said):
        named = [argument.format(mini=mini_folder) for argument in arguments]
        port = [] if "--port" in arguments else ["--port", 0]
        found, log = refused(*named, *port, tmp_path=tmp_path)
        assert (found, said in log) == (code, True), log
        assert "Traceback" not in log

    def test_a_key_that_is_no_text_and_a_host_that_is_no_name_are_said_in_a_line(self, mini_folder, tmp_path):
        (tmp_path / "key").write_bytes(b"caf\xe9\n")
        for arguments, code, said in (
            (["--api-key-file", tmp_path / "key"], 3, "key: not a key, expected a line of printable ASCII"),
            (["--host", ".example.com"], 5, "cannot listen on .example.com port 0: "),
            (["--host", "a" * 64 + ".example.com"], 5, "port 0: "),
        ):
            environment = {"Q3_API_KEY": "key"} if "--host" in arguments else {}
            found, log = refused("--model", mini_folder, "--port", 0, *arguments, tmp_path=tmp_path, environment=environment)
            assert (found, len(log.splitlines()), said in log) == (code, 1, True), log

    def test_before_the_models_are_there_only_liveness_answers(self, mini_folder, tmp_path):
        also = "import time\nright = serving._opened\nserving._opened = lambda *a: time.sleep(1.5) or right(*a)"
        process = launched("--model", f"{mini_folder}:int8", "--port", 18471, log=tmp_path / "log", also=also)
        try:
            server = Server(process, 18471, tmp_path / "log")
            deadline = time.monotonic() + 30
            while True:
                try:
                    assert server.get("/live").status == 200
                    break
                except ConnectionRefusedError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            assert [server.get(path).status for path in ("/ready", "/health")] == [503, 503]
            early = server.post("/embed", {"inputs": "a"})
            assert (early.status, early.content["error_type"]) == (503, "Unhealthy")
            while server.get("/ready").status == 503:
                time.sleep(0.05)
            assert server.post("/embed", {"inputs": "a"}).status == 200
        finally:
            process.kill()
            process.wait()

    def test_a_damaged_folder_is_not_served(self, mini_folder, tmp_path):
        import shutil

        copy = Path(shutil.copytree(mini_folder, tmp_path / "copy"))
        data = copy / "onnx/model_int8.onnx_data"
        content = bytearray(data.read_bytes())
        content[1000] ^= 1
        data.write_bytes(content)
        code, log = refused("--model", f"{copy}:int8", "--port", 0, tmp_path=tmp_path)
        assert (code, "model_int8.onnx_data" in log) == (6, True)

    def test_without_the_extra_it_says_what_to_install(self, mini_folder):
        code = (
            "import sys\nsys.modules['uvicorn'] = None\nfrom q3_runtime.cli import main\n"
            f"sys.exit(main(['serve', '--model', {str(mini_folder)!r}]))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, "pip install 'q3-onnx[serve]'" in done.stderr) == (2, True)


def test_a_signal_while_a_model_is_loaded_ends_it(mini_folder, tmp_path):
    also = "import time\nserving._opened = lambda *a: time.sleep(60)"
    process = launched("--model", f"{mini_folder}:int8", "--port", 0, log=tmp_path / "log", also=also)
    wait_for(tmp_path / "log", "loading", process)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_a_run_that_nobody_waits_for_does_not_hold_up_the_end(mini_folder, tmp_path):
    also = """
import time
from q3_runtime.embedder import Embedder
right = Embedder.run
Embedder.run = lambda self, ids, **o: time.sleep(60) if len(ids[0]) > 500 else right(self, ids, **o)
"""
    with serving("--model", f"{mini_folder}:int8", log=tmp_path / "log", also=also) as server:
        with server.connect() as client:
            client.sendall(request("/embed", {"inputs": "word " * 600}))
            while not server.figure("q3_waiting_tokens", model="mini"):
                time.sleep(0.02)
        assert server.stop() == 0


def test_a_second_signal_ends_it_at_once(mini_folder, tmp_path):
    with serving("--model", f"{mini_folder}:int8", log=tmp_path / "log") as server, server.connect() as client:
        client.sendall(b"POST /embed HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert server.process.poll() is None
        started = time.monotonic()
        assert server.stop(signal.SIGINT) == 130
        assert time.monotonic() - started < 1


def test_deadlines_are_of_a_clock_that_nobody_sets():
    for path in (ROOT / "runtime/q3_runtime/server").glob("*.py"):
        assert not re.search(r"time\.time\(|datetime|localtime|gmtime|import time", path.read_text("utf-8")), path
