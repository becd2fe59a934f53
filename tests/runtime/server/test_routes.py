"""The routes answer with the vectors and scores of the library, in the words of three dialects."""

import base64
import json
import os
from pathlib import Path

import numpy as np
import pytest
from tests.support.server import Server, serving

from q3_runtime import Embedder, Reranker
from q3_runtime.server.reply_headers import listed

TEXTS = ["How do whales sleep?", "a", "Half of a whale's brain sleeps at a time.", "Wale schlafen 🐳 mit\u0000 halbem Hirn."]
INSTRUCTION = "Given a question, find passages that answer it"


@pytest.fixture(scope="module")
def int8(mini_folder: Path) -> Embedder:
    return Embedder(mini_folder, quant="int8")


@pytest.fixture(scope="module")
def judge(reranker_folder: Path) -> Reranker:
    return Reranker(reranker_folder, quant="fp32")


def decoded(item: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4")


def test_embed_gives_the_vectors_of_the_library(served: Server, int8):
    answer = served.post("/embed", {"inputs": TEXTS})
    assert answer.status == 200
    assert np.abs(np.array(answer.content) - int8.encode(TEXTS)).max() < 1e-5
    assert served.post("/embed", {"inputs": TEXTS[0]}).content == served.post("/embed", {"inputs": [TEXTS[0]]}).content


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({"prompt_name": "query"}, {"prompt_name": "query"}),
        ({"prompt_name": "document"}, {}),
        ({"instruction": INSTRUCTION}, {"instruction": INSTRUCTION}),
        ({"input_type": "query"}, {"prompt_name": "query"}),
        ({"input_type": "search_document"}, {}),
        ({"dimensions": 64}, {"dim": 64}),
    ],
)
@pytest.mark.parametrize(("path", "field"), [("/embed", "inputs"), ("/v1/embeddings", "input")])
def test_prompts_and_dimensions_mean_what_they_mean_in_the_library(served, int8, path, field, asked, options):
    answer = served.post(path, {field: TEXTS, **asked})
    assert answer.status == 200, answer.content
    found = [item["embedding"] for item in answer.content["data"]] if path == "/v1/embeddings" else answer.content
    assert np.abs(np.array(found) - int8.encode(TEXTS, **options)).max() < 1e-5
    assert json.loads(f'"{answer.headers["x-q3-prompt"]}"').startswith("Instruct: " if "query" in str(asked) else "")


def test_the_headers_say_what_was_done(served):
    headers = served.post("/embed", {"inputs": ["a b", "c"], "prompt_name": "query", "model": "mini-fp32", "zebra": 1}).headers
    assert (headers["x-q3-model"], headers["x-q3-quant"]) == ("mini-fp32", "fp32")
    assert headers["x-q3-prompt"].endswith("\\nQuery:")
    assert (headers["x-compute-characters"], headers["x-q3-ignored-fields"]) == ("4", "zebra")
    assert int(headers["x-compute-tokens"]) > 4
    for name in ("x-compute-type", "x-compute-time", "x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time"):
        assert name in headers


def test_without_normalization_vectors_have_the_length_of_the_hidden_state(served, int8):
    (raw,), (unit,) = (served.post("/embed", {"inputs": TEXTS[0], "normalize": flag}).content for flag in (False, True))
    assert np.linalg.norm(raw) > 1.5
    assert np.allclose(np.array(raw) / np.linalg.norm(raw), unit, atol=1e-4)
    assert served.post("/embed", {"inputs": TEXTS[0], "normalize": False, "dimensions": 32}).content == [raw[:32]]


def test_embed_all_gives_a_vector_for_every_token_and_the_last_is_the_texts_own(served, int8):
    answer = served.post("/embed_all", {"inputs": TEXTS[:3]})
    lengths = [len(item.ids) for item in int8.tokenizer.encode(TEXTS[:3])]
    assert [np.array(text).shape for text in answer.content] == [(length, 256) for length in lengths]
    last = np.array([text[-1] for text in answer.content])
    last /= np.linalg.norm(last, axis=1, keepdims=True)
    assert np.abs(last - int8.encode(TEXTS[:3])).max() < 2e-4


def test_similarity_is_the_cosine_of_the_library(served, int8):
    answer = served.post("/similarity", {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}})
    expected = int8.similarity(int8.encode(TEXTS[:1]), int8.encode(TEXTS[1:]))[0]
    assert np.abs(np.array(answer.content) - expected).max() < 1e-5
    body = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}, "prompt_name": "document"}
    prompted = served.post("/similarity", body | {"parameters": {"prompt_name": "query"}})
    vectors = int8.encode(TEXTS, prompt_name="query")
    assert np.abs(np.array(prompted.content) - int8.similarity(vectors[:1], vectors[1:])[0]).max() < 1e-5


def test_token_ids_are_embedded_like_the_text_that_they_stand_for(served, int8):
    ids = [item.ids.tolist() for item in int8.tokenizer.encode(TEXTS)]
    expected = int8.encode(TEXTS)
    for inputs in (ids, [each[:-1] for each in ids], [ids[0], *TEXTS[1:]]):
        assert np.abs(np.array(served.post("/embed", {"inputs": inputs}).content) - expected).max() < 1e-5
    assert np.abs(np.array(served.post("/embed", {"inputs": ids[0]}).content[0]) - expected[0]).max() < 1e-5
    prompted = served.post("/v1/embeddings", {"input": ids[:2], "input_type": "query"}).content["data"]
    expected = int8.encode(TEXTS[:2], prompt_name="query")
    assert np.abs(np.array([item["embedding"] for item in prompted]) - expected).max() < 1e-5


def test_tokenize_names_the_bytes_of_each_token_and_decode_undoes_it(served, int8):
    (tokens,) = served.post("/tokenize", {"inputs": TEXTS[3]}).content
    assert [token["id"] for token in tokens] == int8.tokenizer.encode([TEXTS[3]])[0].ids.tolist()
    raw = TEXTS[3].encode()
    assert b"".join(raw[token["start"] : token["stop"]] for token in tokens[:-1]).startswith(b"Wale schlafen ")
    assert (tokens[-1]["special"], tokens[-1]["start"]) == (True, None)
    ids = [token["id"] for token in tokens]
    assert served.post("/decode", {"ids": ids}).content == [TEXTS[3]]
    assert served.post("/decode", {"ids": [ids, ids[:2]], "skip_special_tokens": False}).content[0].endswith("<|endoftext|>")
    plain = served.post("/tokenize", {"inputs": [TEXTS[0]], "add_special_tokens": False}).content[0]
    assert not any(token["special"] for token in plain)
    prompted = served.post("/tokenize", {"inputs": "a", "prompt_name": "query"}).content[0]
    assert "".join(token["text"] for token in prompted).startswith("Instruct: ")


def test_rerank_of_texts_is_text_embeddings_inferences(served, judge):
    answer = served.post("/rerank", {"query": TEXTS[0], "texts": TEXTS, "return_text": True})
    ranking = judge.rank(TEXTS[0], TEXTS)
    assert [item["index"] for item in answer.content] == [index for index, _ in ranking]
    assert np.allclose([item["score"] for item in answer.content], [score for _, score in ranking], atol=1e-5)
    assert [item["text"] for item in answer.content] == [TEXTS[item["index"]] for item in answer.content]
    raw = served.post("/rerank", {"query": TEXTS[0], "texts": TEXTS, "raw_scores": True}).content
    assert np.allclose(
        [item["score"] for item in raw], [score for _, score in judge.rank(TEXTS[0], TEXTS, raw=True)], atol=1e-4
    )
    assert set(raw[0]) == {"index", "score"}


def test_probabilities_that_are_all_one_are_ranked_by_their_log_odds(sure_reranker_folder, tmp_path):
    texts = [f"Mars is planet {number} of {number % 7}." for number in range(12)] + TEXTS
    with Reranker(sure_reranker_folder, quant="fp32") as sure:
        rows = [row for row, _ in sure.rank(TEXTS[0], texts, raw=True)]
    with serving("--model", f"{sure_reranker_folder}:fp32", log=tmp_path / "log") as server:
        ranked = server.post("/rerank", {"query": TEXTS[0], "texts": texts}).content
        best = server.post("/v1/rerank", {"query": TEXTS[0], "documents": texts, "top_n": 3}).content["results"]
    assert len({item["score"] for item in ranked}) < len(texts) - 2
    assert [item["index"] for item in ranked] == rows
    assert [item["index"] for item in best] == rows[:3]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_of_documents_is_coheres_and_jinas(served, judge, path):
    documents = [TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]]
    body = {"model": "judge", "query": TEXTS[0], "documents": documents, "top_n": 2, "return_documents": True}
    answer = served.post(path, body | {"instruction": INSTRUCTION})
    ranking = judge.rank(TEXTS[0], TEXTS[:3], instruction=INSTRUCTION, top_n=2)
    results = answer.content["results"]
    assert [(item["index"], item["document"]["text"]) for item in results] == [(index, TEXTS[index]) for index, _ in ranking]
    assert np.allclose([item["relevance_score"] for item in results], [score for _, score in ranking], atol=1e-5)
    assert answer.content["usage"]["total_tokens"] > 0
    assert answer.content["model"] == "judge"
    assert json.loads(f'"{answer.headers["x-q3-prompt"]}"') == INSTRUCTION


def test_openai_vectors_come_as_numbers_or_as_base64_of_the_same_floats(served, int8):
    floats = served.post("/v1/embeddings", {"input": TEXTS, "model": "mini"}).content
    coded = served.post("/embeddings", {"input": TEXTS, "model": "mini", "encoding_format": "base64"}).content
    assert floats["object"] == "list"
    assert [item["index"] for item in floats["data"]] == [0, 1, 2, 3]
    for one, other in zip(floats["data"], coded["data"], strict=True):
        assert np.array_equal(np.float32(one["embedding"]), decoded(other))
    tokens = sum(len(item.ids) for item in int8.tokenizer.encode(TEXTS))
    assert floats["usage"] == coded["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_a_batch_of_mixed_lengths_gives_every_text_its_own_vector(served, int8):
    texts = [f"{number} " * (1 + number * 7 % 90) for number in range(150)]
    answer = served.post("/embed", {"inputs": texts})
    expected = int8.encode(texts)
    assert (np.array(answer.content) * expected).sum(axis=1).min() >= 0.9999


def test_models_are_found_by_name_by_folder_and_by_source(served, mini_folder):
    listed = served.get("/v1/models").content["data"]
    assert [item["id"] for item in listed] == ["mini", "mini-fp32", "judge"]
    for name, quant in {"mini": "int8", "mini-fp32": "fp32", mini_folder.name: "int8"}.items():
        assert served.post("/embed", {"inputs": "a", "model": name}).headers["x-q3-quant"] == quant
    missing = served.post("/v1/embeddings", {"input": "a", "model": "../../etc/passwd"})
    assert (missing.status, missing.content["error"]["code"]) == (404, "unknown_model")
    assert "mini, mini-fp32, judge" in missing.message
    for path, body in {
        "/embed": {"inputs": "a", "model": "judge"},
        "/rerank": {"query": "a", "texts": ["b"], "model": "mini"},
    }.items():
        assert served.post(path, body).status == 424


def test_a_name_of_a_models_own_wins_over_the_folders_and_sources_of_others(mini_folder, tmp_path):
    with serving("--model", f"fast={mini_folder}:int8", f"{mini_folder}:fp32", log=tmp_path / "log") as server:
        assert [item["id"] for item in server.get("/v1/models").content["data"]] == ["fast", "mini"]
        quants = {
            name: server.post("/embed", {"inputs": "a", "model": name}).headers["x-q3-quant"] for name in ("fast", "mini")
        }
    assert quants == {"fast": "int8", "mini": "fp32"}


def test_what_is_wrong_is_named_by_its_path_in_the_request(served):
    long = "word " * 9000
    cases = [
        ("/embed", {"inputs": ["a", long], "truncate": False}, "inputs[1]"),
        ("/rerank", {"query": "a", "texts": ["a", long], "truncate": False}, "texts[1]"),
        (
            "/similarity",
            {"inputs": {"source_sentence": "a", "sentences": ["a", long]}, "truncate": False},
            "inputs.sentences[1]",
        ),
        ("/embed", {"inputs": ["a", [10**8]]}, "inputs[1]"),
    ]
    for path, body, place in cases:
        answer = served.post(path, body)
        assert (answer.status, answer.content["param"]) == (422, place)
    for path, body, place in [
        ("/embed", {"inputs": ["a", ""]}, "inputs[1]"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b", ""]}}, "inputs.sentences[1]"),
        ("/similarity", {"inputs": {"source_sentence": "", "sentences": ["b"]}}, "inputs.source_sentence"),
    ]:
        answer = served.post(path, body)
        assert (answer.content["code"], answer.content["param"]) == ("empty_input", place)
    wrong = served.post("/v1/embeddings", {"input": ["a", [10**8]]})
    assert wrong.content["error"]["param"] == "input[1]"
    assert served.post("/embed", {"inputs": "\ud800"}).content["code"] == "invalid_text"
    assert (
        served.post(
            "/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": {"model": "x"}}
        ).headers["x-q3-ignored-fields"]
        == "parameters.model"
    )


def test_info_names_source_quant_prompts_and_measured_fidelity(served, int8, judge):
    content = served.get("/info").content
    assert [model["served_model_name"] for model in content["models"]] == ["mini", "mini-fp32", "judge"]
    assert content["model_type"] == {"embedding": {"pooling": "last_token"}}
    assert content["fidelity"] == int8.manifest.quants["int8"].fidelity
    assert content["prompts"] == int8.prompts
    assert (content["default_prompt"], content["max_input_length"], content["auto_truncate"]) == (None, 2048, True)
    assert "reranker" in content["models"][2]["model_type"]


def test_what_is_too_long_is_cut_and_named_or_refused(served, int8):
    texts = ["short", "word " * 9000]
    answer = served.post("/v1/embeddings", {"input": texts})
    assert answer.headers["x-q3-truncated"] == "1"
    with pytest.warns(UserWarning, match="were cut"):
        expected = int8.encode(texts)
    assert np.abs(np.array(answer.content["data"][1]["embedding"]) - expected[1]).max() < 1e-5
    refused = served.post("/embed", {"inputs": texts, "truncate": False})
    assert (refused.status, refused.content["error_type"]) == (422, "Validation")
    assert refused.message.startswith("`inputs` must have less than 2048 tokens. Given: ")
    assert refused.content["param"] == "inputs[1]"


def test_of_very_many_texts_that_were_cut_whole_numbers_are_named():
    assert listed(range(10)) == "0,1,2,3,4,5,6,7,8,9"
    *numbers, more = listed(range(300)).split(",")
    assert (numbers, more) == ([str(number) for number in range(len(numbers))], "...")
    assert len(numbers) > 250


def test_the_side_that_is_cut_can_be_chosen(served, int8):
    text = "first " * 3000 + "last " * 2000
    (right,), (left,), (end,) = (
        served.post("/embed", {"inputs": inputs, "truncation_direction": side}).content
        for inputs, side in [(text, "Right"), (text, "left"), ("last " * 1000, "Right")]
    )
    assert np.dot(left, right) < 0.99
    assert np.dot(left, end) > np.dot(right, end)
    assert served.post("/rerank", {"query": "a", "texts": ["b"], "truncation_direction": "Left"}).status == 422


def test_health_readiness_and_liveness(served):
    assert [served.get(path).status for path in ("/health", "/ready", "/live", "/ping", "/metrics", "/")] == [200] * 6


def test_invocations_is_the_root_by_another_name(served):
    for body in ({"inputs": TEXTS[0]}, {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS}}):
        assert served.post("/invocations", body).content == served.post("/", body).content
    assert served.post("/invocations", {"query": TEXTS[0], "texts": TEXTS}).content[0].keys() == {"index", "score"}


def test_null_is_what_is_not_given(served):
    body = {"model": "judge", "query": TEXTS[0], "documents": TEXTS, "top_n": None, "return_documents": None}
    assert "document" not in served.post("/v1/rerank", body).content["results"][0]


def test_methods_of_all_routes_of_a_path_are_allowed(served):
    assert served.ask("PUT", "/").headers["allow"] == "GET, HEAD, POST"
    assert served.ask("PUT", "/embed").headers["allow"] == "POST"


def test_every_error_is_counted_and_a_client_that_is_too_slow_has_not_left(mini_folder, tmp_path):
    with serving("--model", f"{mini_folder}:int8", log=tmp_path / "log", seconds={"BODY_SECONDS": 0.3}) as server:
        server.ask("GET", "/nothing")
        server.ask("PUT", "/embed")
        for path in (b"/v1/embeddings", b"/embeddings", b"/embed"):
            said = server.raw(
                b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{" % path
            )
            assert said.startswith(b"HTTP/1.1 408 ")
            error = json.loads(said.split(b"\r\n\r\n")[1])["error"]
            assert isinstance(error, str if path == b"/embed" else dict)
        metrics = server.get("/metrics").content
        for code, count in {"not_found": 1, "method_not_allowed": 1, "request_timeout": 3}.items():
            assert f'q3_refused_total{{code="{code}"}} {count}.0' in metrics
        assert "q3_cancelled_total{" not in metrics


def test_what_the_queue_never_holds_is_refused_unread(mini_folder, tmp_path):
    with serving("--model", f"mini={mini_folder}:int8", "--max-queue-tokens", "100", log=tmp_path / "log") as server:
        answer = server.post("/embed", {"inputs": ["word " * 20_000] * 3})
        assert (answer.status, answer.content["code"]) == (413, "too_many_tokens")
        assert 'q3_tokenization_seconds_count{model="mini"}' not in server.get("/metrics").content
        assert server.post("/embed", {"inputs": "word"}).status == 200


def test_a_model_is_called_by_its_folder_however_that_was_given_and_a_key_without_its_line_end(mini_folder, tmp_path):
    place = os.path.relpath(mini_folder)
    with serving("--model", f"{place}/.:int8", log=tmp_path / "log", environment={"Q3_API_KEY": "abc \n"}) as server:
        key = {"authorization": "Bearer abc"}
        for name, status in ((mini_folder.name, 200), ("", 404)):
            assert server.post("/embed", {"inputs": "a", "model": name}, **key).status == status
