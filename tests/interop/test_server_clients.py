"""q3 serve, asked by the clients that people have: each gets the vectors and scores of the library."""

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import SHARED
from tests.support.environments import Environment, environment
from tests.support.node import program
from tests.support.server import Server, serving

from q3_runtime import Embedder, Reranker

KEY = "open sesame"
QUERY = "How do whales sleep?"
TEXTS = [
    "Half of a whale's brain sleeps at a time.",
    "Wale schlafen mit halbem Hirn.",
    "鲸鱼只睡半边大脑。",
    "The oven must be hot.",
]
TASK = "Instruct: Given a web search query, retrieve relevant passages that answer the query"
CARD_CURL = rf"""
curl http://localhost:8080/embed \
    -X POST \
    -d '{{"inputs": ["{TASK}\nQuery: What is the capital of China?", "{TASK}\nQuery: Explain gravity"]}}' \
    -H "Content-Type: application/json"
"""
"""The model card of Qwen3-Embedding-0.6B, as printed there."""
NOT_OURS = {"/embed_sparse", "/predict"}
"""Of text-embeddings-inference: SPLADE's vectors, and classifiers."""
REQUESTS = ["EmbedRequest", "EmbedAllRequest", "RerankRequest", "TokenizeRequest", "DecodeRequest", "SimilarityRequest"]
SAME_REQUESTS = {name: name for name in [*REQUESTS, "SimilarityInput", "SimilarityParameters"]} | {
    "OpenAICompatRequest": "EmbeddingsRequest"
}
BODIES = {
    "/embed": {"inputs": TEXTS, "truncate": True, "truncation_direction": "Right", "prompt_name": None, "normalize": True},
    "/embed_all": {"inputs": TEXTS[:1]},
    "/rerank": {"query": QUERY, "texts": TEXTS, "raw_scores": False, "return_text": True},
    "/similarity": {"inputs": {"source_sentence": QUERY, "sentences": TEXTS}},
    "/tokenize": {"inputs": TEXTS, "add_special_tokens": True},
    "/decode": {"ids": [[1, 2, 3]], "skip_special_tokens": True},
    "/v1/embeddings": {"input": TEXTS, "model": "mini", "user": "somebody"},
}
EMPTY = {"inputs": [], "input": [], "texts": [], "ids": [], "query": ""}
STATUSES = (200, 400, 404, 413, 415, 422, 424, 429)


@pytest.fixture(scope="module")
def locked(mini_folder: Path, reranker_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants a key."""
    log = tmp_path_factory.mktemp("locked") / "log"
    models = [f"mini={mini_folder}:int8", f"judge={reranker_folder}:fp32"]
    with serving("--model", *models, log=log, environment={"Q3_API_KEY": KEY}) as server:
        yield server


@pytest.fixture(scope="module")
def clients() -> Environment:
    return environment("interop-clients")


@pytest.fixture(scope="module")
def found(clients: Environment, locked: Server) -> dict:
    return clients.run("ask_server.py", given={"url": locked.url, "key": KEY, "model": "mini", "texts": TEXTS, "query": QUERY})


@pytest.fixture(scope="module")
def int8(mini_folder: Path) -> Embedder:
    return Embedder(mini_folder, quant="int8")


@pytest.mark.parametrize(
    "client", ["openai", "huggingface_hub ", "huggingface_hub /embed", "langchain documents", "llama-index documents"]
)
def test_documents_get_the_librarys_vectors(found, int8, client):
    assert np.abs(np.array(found[client]) - int8.encode_document(TEXTS)).max() < 1e-5


@pytest.mark.parametrize("client", ["openai query", "huggingface_hub query"])
def test_queries_with_the_prompt_get_the_librarys_vectors(found, int8, client):
    assert np.abs(np.array(found[client]) - int8.encode_query([QUERY])).max() < 1e-5


@pytest.mark.parametrize("client", ["langchain query", "llama-index query"])
def test_clients_that_know_no_prompt_get_none(found, int8, client):
    assert np.abs(np.array(found[client]) - int8.encode([QUERY])).max() < 1e-5


def test_openai_gets_dimensions_usage_names_and_its_own_kinds_of_errors(found, int8):
    assert np.abs(np.array(found["openai 64 floats"]) - int8.encode(TEXTS, dim=64)).max() < 1e-5
    assert found["openai usage"] == sum(len(item.ids) for item in int8.tokenizer.encode(TEXTS))
    assert found["openai models"] == ["mini", "judge"]
    assert found["openai unknown model"] == [404, "unknown_model", "model"]
    assert found["openai wrong dimensions"] == [422, "invalid_value", "dimensions"]
    assert found["openai wrong key"] == [401, "unauthorized"]


def test_the_hubs_client_gets_similarities(found, int8):
    expected = int8.similarity(int8.encode([QUERY]), int8.encode(TEXTS))[0]
    assert np.allclose(found["huggingface_hub similarity"], expected, atol=1e-5)


def test_coheres_client_gets_a_ranking(found, reranker_folder):
    expected = Reranker(reranker_folder, quant="fp32").rank(QUERY, TEXTS, top_n=2)
    assert np.allclose(found["cohere"], expected, atol=1e-5)


def test_the_model_cards_curl_line_works_as_it_is_printed(mini_folder, tmp_path, int8):
    """But for the port, where 8080 is taken."""
    program("curl")
    arguments = shlex.split(CARD_CURL.replace("\\\n", ""))
    with serving("--model", f"{mini_folder}:int8", log=tmp_path / "log") as server:
        arguments[1] = arguments[1].replace(":8080", f":{server.port}")
        done = subprocess.run([*arguments, "--silent"], capture_output=True, check=True)
    texts = json.loads(arguments[arguments.index("-d") + 1])["inputs"]
    assert np.abs(np.array(json.loads(done.stdout)) - int8.encode(texts)).max() < 1e-5


@pytest.fixture(scope="module")
def theirs() -> dict:
    """The OpenAPI file of text-embeddings-inference."""
    path = SHARED / "reference/tei_openapi.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there; set Q3_SHARED")
    return json.loads(path.read_text("utf-8"))


def test_every_path_and_field_of_a_request_of_teis_is_ours_too(theirs, locked):
    ours = locked.get("/api-doc/openapi.json").content
    assert set(theirs["paths"]) - set(ours["paths"]) == NOT_OURS
    for name, ours_name in SAME_REQUESTS.items():
        one, other = theirs["components"]["schemas"][name], ours["components"]["schemas"][ours_name]
        assert set(one["properties"]) <= set(other["properties"]), name
        assert set(other.get("required", [])) <= set(one.get("required", [])), name


def test_every_answer_fits_teis_schema(theirs, locked, clients):
    key = {"authorization": f"Bearer {KEY}"}
    answers = {path: locked.post(path, body, **key) for path, body in BODIES.items()}
    assert {path: answer.status for path, answer in answers.items()} == dict.fromkeys(BODIES, 200)
    cases = [(path, "post", "200", answer.content) for path, answer in answers.items()]
    cases.append(("/info", "get", "200", locked.get("/info", **key).content))
    for path in BODIES:
        wrong = locked.post(path, EMPTY, **key)
        cases.append((path, "post", str(wrong.status), wrong.content))
    assert clients.run("check_schemas.py", given={"document": theirs, "cases": cases}) == []


def test_thousand_made_up_requests_meet_no_error_of_ours(clients, locked, tmp_path):
    assert fuzzed(clients, locked, tmp_path, 1000) >= 1000


@pytest.mark.full("serve")
def test_ten_thousand_made_up_requests_meet_no_error_of_ours(clients, locked, tmp_path):
    assert fuzzed(clients, locked, tmp_path, 10_000) >= 10_000


def fuzzed(clients: Environment, server: Server, folder: Path, cases: int) -> int:
    """Requests that schemathesis made from our OpenAPI document, right ones and wrong ones, without an error of ours."""
    routes = [path for path, methods in server.get("/api-doc/openapi.json").content["paths"].items() if "post" in methods]
    command = [
        str(clients.folder / "bin/schemathesis"), "run", f"{server.url}/api-doc/openapi.json", "--header",
        f"Authorization: Bearer {KEY}", "--checks", "not_a_server_error,status_code_conformance,response_schema_conformance",
        "--phases", "examples,coverage,fuzzing", "--max-examples", str(cases // len(routes) + 1), "--mode", "all",
        "--suppress-health-check", "all", "--continue-on-failure", "--seed", "1",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert server.get("/ready").status == 200
    return int(sum(server.figure("q3_requests_total", route=path, status=str(code)) for path in routes for code in STATUSES))
