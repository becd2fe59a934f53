"""Texts of every kind → vectors: as PyTorch gives them, or refused with what to do about it."""

import base64
import json
import random
import re
import shutil
import threading
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import transformers
from tests.support.signing import sign

from q3_runtime import Embedder
from q3_runtime.errors import (
    InputError,
    IntegrityError,
    NonFiniteError,
    ProviderError,
    TextError,
    TextTypeError,
    TooLongError,
    UsageError,
)
from q3_runtime.golden import Golden
from q3_runtime.manifest import Manifest
from q3_runtime.memory import give_back_freed
from q3_runtime.self_check import row_to_run
from q3_runtime.tensorfile import read_header
from q3_runtime.tokenization import Tokenizer
from q3_runtime.windows import WINDOW

SECONDS = 20
"""No single text may keep a slow machine busy for longer."""
ODD = {
    "empty": "",
    "space": " ",
    "spaces": "   \t  ",
    "lines": "\n\r\n\n",
    "no-break and wide spaces": "\u00a0\u2003\u3000x\u2028\u2029",
    "NUL": "a\0b\0",
    "controls": "".join(map(chr, range(32))) + "\x7f\x85",
    "byte order mark": "\ufeffa\ufeff",
    "right to left": "שלום \u202eabc\u202c مرحبا",
    "zero width": "a\u200bb\u200cc\u200dd\u2060e",
    "combining marks": "e" + "\u0301\u0323" * 500,
    "decomposed": "e\u0301 o\u0308 \u1112\u1161\u11ab ω\u0313\u0300\u0345",
    "family": "👨‍👩‍👧‍👦🏳️‍🌈",
    "beyond the basic plane": "𝔘𝔫𝔦 \U0010ffff",
    "not characters": "\ufffe\uffff\ufffd",
    "private": "\ue000\uf8ff",
    "digits": "1234567890 ١٢٣",
    "plain added tokens": "<think>no</think>",
    "half a special token": "<|endoftext| <|im_end",
}
SPECIAL = {
    "pad": "a<|endoftext|>b",
    "only the pad": "<|endoftext|>",
    "pads at the end": "text<|endoftext|><|endoftext|>",
    "pads in front": "<|endoftext|><|endoftext|>text",
    "chat": "<|im_start|>user\nhello<|im_end|>\n",
    "with spaces": " <|im_end|> x <|endoftext|> ",
}


@pytest.fixture(scope="module")
def model(folder: Path) -> Embedder:
    return Embedder(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def ids(model: Embedder, text: str, **options: Any) -> list[int]:
    return model.tokenizer.encode([text], **options)[0].ids.tolist()


def assert_same(found: np.ndarray, expected: np.ndarray, largest: float = 1e-5) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=largest)


def patch_weights(folder: Path, name: str, value: float, row: int | None = None) -> None:
    """Overwrite a weight, or one row of it, with one value, and sign the file again."""
    graph = onnx.load(folder / "onnx/model.onnx", load_external_data=False).graph
    weight = next(tensor for tensor in graph.initializer if tensor.name == name)
    place = {entry.key: entry.value for entry in weight.external_data}
    values = np.memmap(
        folder / "onnx" / place["location"], dtype="<f4", mode="r+", offset=int(place["offset"]), shape=tuple(weight.dims)
    )
    values[slice(None) if row is None else row] = value
    values.flush()
    sign(folder)


# Odd texts


def test_the_empty_string_is_the_pad_token_alone(model, reference):
    assert ids(model, "") == reference.ids("") == [model.tokenizer.final_ids[-1]]
    vector = model.encode("")
    assert np.isfinite(vector).all()
    assert_same(vector, reference.vector(""))


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_have_the_ids_and_vectors_of_transformers(model, reference, text):
    assert ids(model, text) == reference.ids(text)
    assert_same(model.encode(text), reference.vector(text))


def test_odd_texts_side_by_side_have_the_vectors_they_have_alone(model):
    texts = [*ODD.values(), *SPECIAL.values()]
    assert_same(model.encode(texts), np.stack([model.encode(text) for text in texts]))
    assert_same(model.encode(texts[::-1], batch_tokens=1)[::-1], model.encode(texts))


def test_the_published_tokenizer_gives_odd_texts_the_ids_of_transformers(real_tokenizer):
    theirs = transformers.AutoTokenizer.from_pretrained(real_tokenizer)
    ours = Tokenizer(real_tokenizer / "tokenizer.json", 32768)
    texts = [*ODD.values(), *SPECIAL.values()]
    assert [item.ids.tolist() for item in ours.encode(texts)] == [theirs(text)["input_ids"] for text in texts]
    ours = Tokenizer(real_tokenizer / "tokenizer.json", 32768, split_special_tokens=True)
    literal = [theirs(text, split_special_tokens=True)["input_ids"] for text in texts]
    assert [item.ids.tolist() for item in ours.encode(texts)] == literal


# What has no UTF-8 form


@pytest.mark.parametrize(("bad", "code"), [("\ud800", "U+D800"), ("\udfff", "U+DFFF"), ("\ude00\ud83d", "U+DE00")])
def test_a_lone_surrogate_is_refused_with_its_place(model, bad, code):
    with pytest.raises(TextError) as caught:
        model.encode(["fine", "ab" + bad + "c"], prompt_name="query")
    assert caught.value.exit_code == 3
    assert isinstance(caught.value, ValueError)
    assert f"text 1 has a lone surrogate {code} at character 2" in str(caught.value)
    str(caught.value).encode("utf-8")


def test_a_lone_surrogate_can_be_replaced(model):
    assert_same(model.encode(["a\ud800b", "c"], errors="replace"), model.encode(["a\ufffdb", "c"]), 0)


def test_a_lone_surrogate_far_behind_is_counted_from_the_first_text(model):
    with pytest.raises(TextError, match=f"text {WINDOW + 1} has"):
        model.encode(["a"] * (WINDOW + 1) + ["\udc00"])


def test_a_lone_surrogate_in_a_prompt_is_not_blamed_on_a_text(model):
    with pytest.raises(InputError, match="prompt has a lone surrogate U\\+D800 at character 1"):
        model.encode(["a"], prompt="x\ud800")
    with pytest.raises(InputError, match="prompt has a lone surrogate"):
        model.encode(["a"], instruction="\ud800")
    assert_same(model.encode("a", prompt="x\ud800", errors="replace"), model.encode("a", prompt="x\ufffd"), 0)


@pytest.mark.parametrize("errors", ["ignore", "", None, True])
def test_another_way_with_surrogates_is_refused(model, errors):
    with pytest.raises(UsageError, match="expected 'strict' or 'replace'"):
        model.encode(["a"], errors=errors)


# What is not a text


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (b"a", "bytes"),
        (None, "NoneType"),
        (5, "int"),
        (1.5, "float"),
        (["a"], "list"),
        (("a", "b"), "tuple"),
        ({"a": 1}, "dict"),
    ],
)
def test_what_is_not_a_str_is_refused_with_its_index_and_type(model, bad, kind):
    with pytest.raises(TextTypeError) as caught:
        model.encode(["a", "b", bad])
    assert caught.value.exit_code == 3
    assert isinstance(caught.value, TypeError)
    assert f"text 2 is {kind}, expected str" in str(caught.value)


@pytest.mark.parametrize(
    ("bad", "kind"),
    [(b"abc", "bytes"), (bytearray(b"a"), "bytearray"), (None, "NoneType"), (5, "int"), (True, "bool"), ({"a": 1}, "dict"),
     ({"a", "b"}, "set"), (iter(["a"]), "list_iterator"), (object(), "object")],
)  # fmt: skip
def test_what_is_neither_a_text_nor_a_list_is_refused_in_the_same_words(model, bad, kind):
    with pytest.raises(TextTypeError, match=f"text 0 is {kind}, expected str; pass a list of strings"):
        model.encode(bad)


def test_lists_tuples_and_arrays_of_texts_are_all_fine(model):
    texts = ["a", "longer than the first", ""]
    expected = model.encode(texts)
    assert_same(model.encode(tuple(texts)), expected, 0)
    assert_same(model.encode(np.array(texts)), expected, 0)
    assert_same(model.encode(np.array(texts, dtype=object)), expected, 0)


@pytest.mark.parametrize("index", [None, [3.0, 1.0, 0.0], [2, 1, 0], ["columns", "a", "a"]])
def test_a_column_of_a_table_has_its_rows_in_order_whatever_its_index(model, index):
    pandas = pytest.importorskip("pandas")
    texts = ["a", "longer than the first", ""]
    assert_same(model.encode(pandas.Series(texts, index=index)), model.encode(texts), 0)


class Rows:
    """Texts with a length that are sliced by label, or not at all; ``given`` of them come out."""

    def __init__(self, texts: list[str], given: int) -> None:
        self.texts, self.given = texts, given

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> str:
        if isinstance(row, slice):
            return Rows(self.texts[:1], 1)
        if row >= self.given:
            raise IndexError(row)
        return self.texts[row]


def test_texts_that_cannot_be_sliced_by_row_are_read_one_after_the_other(model):
    texts = ["a", "longer than the first", ""]
    assert_same(model.encode(Rows(texts, 3)), model.encode(texts), 0)
    assert_same(model.encode(deque(texts)), model.encode(texts), 0)


@pytest.mark.parametrize("given", [0, 2, WINDOW])
def test_fewer_texts_than_len_says_are_refused(model, given):
    texts = ["a"] * (WINDOW + 1 if given == WINDOW else 3)
    with pytest.raises(InputError, match=rf"len\(\) says that there are {len(texts)} texts, going through them gave {given},"):
        model.encode(Rows(texts, given))


class Frame:
    """As pandas' DataFrame: a length of rows, slices of rows, and going through it gives the names of its columns."""

    def __len__(self) -> int:
        return 2

    @property
    def columns(self) -> list[str]:
        return ["text", "number"]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __getitem__(self, _: slice) -> "Frame":
        return self


class Table:
    """As datasets.Dataset: a slice is a dict of columns."""

    def __len__(self) -> int:
        return 2

    @property
    def column_names(self) -> list[str]:
        return ["text", "number"]

    def __getitem__(self, _: slice) -> dict[str, list[object]]:
        return {"text": ["a", "b"], "number": [1, 2]}


@pytest.mark.parametrize("table", [Frame(), Table()])
def test_a_table_is_refused_and_asked_for_one_column(model, table):
    for encode in (model.encode, model.encode_query, model.encode_document):
        with pytest.raises(InputError, match=r"is a table, expected texts; pass one column of it, e\.g\. df\['text'\]"):
            encode(table)


def test_tables_of_other_libraries_are_refused_and_their_columns_taken(model):
    expected = model.encode(["a", "b"])
    data = {"text": ["a", "b"], "number": [1, 2]}
    tables = [pytest.importorskip("pandas").DataFrame(data), pytest.importorskip("datasets").Dataset.from_dict(data)]
    for table in tables:
        assert_same(model.encode(table["text"]), expected, 0)
        with pytest.raises(InputError, match="is a table"):
            model.encode(table)
    with pytest.raises(InputError, match="DataFrame is a table"):
        model.encode(tables[0][["text"]])


# Long texts


def test_truncation_cuts_keeps_the_final_token_and_says_so_once(model, reference):
    long = "gravity bends light " * 3000
    with pytest.warns(UserWarning, match="were cut") as caught:
        vectors = model.encode(["short", long, "short too", long + "x"])
    assert [str(warning.message) for warning in caught] == [
        "2 of 4 texts had more than 2048 tokens and were cut, the first is text 1; pass truncate=False to refuse them"
    ]
    assert Path(caught[0].filename) == Path(__file__)
    cut = ids(model, long)
    assert len(cut) == 2048
    assert cut[-1] == model.tokenizer.final_ids[-1]
    assert cut == reference.ids(long, truncation=True, max_length=2048)
    assert_same(vectors[1], reference.vector(long, truncation=True, max_length=2048))
    assert_same(vectors[0], model.encode("short"))


def test_a_text_of_exactly_the_limit_is_whole_and_one_token_more_is_cut(model, reference):
    fits = " a" * (2048 - len(reference.ids("")))
    assert len(reference.ids(fits)) == 2048
    (whole,) = model.tokenizer.encode([fits], truncate=False)
    (cut,) = model.tokenizer.encode([fits + " a"])
    assert (len(whole.ids), whole.truncated) == (2048, False)
    assert (len(cut.ids), cut.truncated) == (2048, True)
    with pytest.raises(TooLongError, match="text 0 has 2049 tokens, the limit is 2048"):
        model.tokenizer.encode([fits + " a"], truncate=False)


def test_truncation_counts_the_prompt(model, reference):
    long, prompt = "gravity " * 3000, model.prompts["query"]
    expected = reference.ids(prompt + long, truncation=True, max_length=2048)
    assert ids(model, long, prefix=prompt) == expected


def test_without_truncation_a_long_text_is_refused_with_index_tokens_and_limit(model, reference):
    long = "gravity bends light " * 1000
    tokens = len(reference.ids(long))
    with pytest.raises(TooLongError) as caught:
        model.encode(["short", long], truncate=False)
    assert caught.value.exit_code == 3
    assert (caught.value.index, caught.value.tokens, caught.value.limit) == (1, tokens, 2048)
    assert f"text 1 has {tokens} tokens, the limit is 2048" in str(caught.value)


def blob(megabytes: int) -> str:
    return base64.b64encode(random.Random(0).randbytes(750_000 * megabytes)).decode()


HUGE: dict[str, Callable[[], str]] = {
    "one word of 10 MB": lambda: "a" * 10_000_000,
    "one word of 10 MB without repeats": lambda: re.sub(r"[\d+/=]", "", blob(13))[:10_000_000],
    "a million spaces": lambda: " " * 1_000_000,
    "a million line ends": lambda: "\n" * 1_000_000,
    "a base64 blob of 4 MB": lambda: blob(4),
    "a million combining marks": lambda: "e" + "\u0301" * 1_000_000,
    "a million digits": lambda: "7" * 1_000_000,
}


@pytest.mark.parametrize("make", HUGE.values(), ids=HUGE)
def test_a_huge_text_is_cut_or_refused_in_bounded_time(model, make):
    text = make()
    started = time.monotonic()
    with pytest.warns(UserWarning, match="1 of 1 texts had more than 2048 tokens"):
        vector = model.encode(text)
    assert time.monotonic() - started < SECONDS
    assert np.isfinite(vector).all()
    started = time.monotonic()
    with pytest.raises(TooLongError, match="text 0 has at least"):
        model.encode(text, truncate=False)
    assert time.monotonic() - started < SECONDS
    assert ids(model, text)[-1] == model.tokenizer.final_ids[-1]


@pytest.mark.parametrize("name", ["one word of 10 MB", "a base64 blob of 4 MB", "a million spaces"])
def test_a_huge_text_takes_bounded_time_with_the_published_tokenizer_too(real_tokenizer, name):
    tokenizer = Tokenizer(real_tokenizer / "tokenizer.json", 32768)
    text = HUGE[name]()
    started = time.monotonic()
    (item,) = tokenizer.encode([text])
    assert time.monotonic() - started < SECONDS
    assert len(item.ids) <= 32768
    assert item.ids[-1] == 151643


# Special tokens in texts


@pytest.mark.parametrize("text", SPECIAL.values(), ids=SPECIAL)
def test_special_tokens_in_a_text_are_parsed_as_transformers_does(model, reference, text):
    assert ids(model, text) == reference.ids(text)
    assert len(ids(model, text)) < len(reference.ids(text, split_special_tokens=True))
    assert_same(model.encode(text), reference.vector(text))


@pytest.mark.parametrize("text", [*SPECIAL.values(), *ODD.values()], ids=[*SPECIAL, *ODD])
def test_special_tokens_can_be_read_as_ordinary_characters(folder, reference, text):
    model = Embedder(folder, split_special_tokens=True)
    assert ids(model, text) == reference.ids(text, split_special_tokens=True)
    assert_same(model.encode(text), reference.vector(text, split_special_tokens=True))


def test_attention_never_depends_on_ids(model, reference):
    texts = ["a much longer text that makes the others be padded " * 3, *SPECIAL.values()]
    assert_same(model.encode(texts), np.stack([reference.vector(text) for text in texts]))
    encoded = [item.ids for item in model.tokenizer.encode(texts)]
    assert_same(model.run(encoded, padding_side="left"), model.run(encoded, padding_side="right"))


# Dimensions


@pytest.mark.parametrize("dim", [31, 65, 0, -1, True, np.True_, 64.0, np.float32(64), "64", 10**9, float("nan"), [64]])
def test_a_dimension_that_cannot_be_is_refused(model, dim):
    with pytest.raises(InputError) as caught:
        model.encode(["a"], dim=dim)
    assert caught.value.exit_code == 3
    assert isinstance(caught.value, ValueError)
    assert str(caught.value) == f"dim is {dim!r}, expected a whole number from 32 to 64"


@pytest.mark.parametrize("dim", [32, 33, 63, 64])
def test_a_dimension_takes_the_first_values_and_normalizes_again(model, dim):
    full = model.encode(["a", "another text"])
    cut = model.encode(["a", "another text"], dim=dim)
    assert cut.shape == (2, dim)
    assert_same(np.linalg.norm(cut, axis=1), np.ones(2), 1e-6)
    assert_same(cut, full[:, :dim] / np.linalg.norm(full[:, :dim], axis=1, keepdims=True), 1e-7)


def test_whole_numbers_of_numpy_are_whole_numbers(folder, model):
    texts = ["a", "another text"]
    assert_same(model.encode(texts, dim=np.int64(32), batch_tokens=np.uint16(7)), model.encode(texts, dim=32), 1e-6)
    with Embedder(folder, threads=np.int64(1)) as other:
        assert_same(other.encode(texts), model.encode(texts))
    for threads in (0, True, 1.0, np.float64(1)):
        with pytest.raises(UsageError, match=r"threads is .*, expected a whole number from 1"):
            Embedder(folder, threads=threads)


# Prompts


def test_an_unknown_prompt_is_refused_with_the_known(model):
    with pytest.raises(InputError, match="no prompt is called 'questions', this model has document, query;") as caught:
        model.encode(["a"], prompt_name="questions")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("words", ["{text} {0} {} %s {{x}}", "a\nQuery: b", "", "\\n $HOME"])
def test_an_instruction_stays_as_it_is(model, reference, words):
    found = model.encode("What?", instruction=words)
    assert_same(found, reference.vector("Instruct: " + words + "\nQuery:" + "What?"))
    assert_same(model.encode("{0} {text}", prompt=words), reference.vector(words + "{0} {text}"))


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "a", "prompt_name": "query"},
        {"prompt": "", "instruction": ""},
        {"prompt_name": "query", "instruction": "b"},
        {"prompt": "a", "prompt_name": "query", "instruction": "b"},
    ],
)
def test_two_prompts_at_once_are_refused(model, given):
    for encode in (model.encode, model.encode_query, model.encode_document):
        with pytest.raises(UsageError, match="given together, expected one of them") as caught:
            encode(["a"], **given)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("given", [{"prompt": b"a"}, {"prompt": 5}, {"instruction": ["a"]}, {"prompt_name": 0}])
def test_a_prompt_that_is_not_a_str_is_refused(model, given):
    with pytest.raises(InputError, match="expected str"):
        model.encode(["a"], **given)


def test_queries_and_documents_get_the_prompts_of_the_model(model, reference):
    official = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    assert model.prompts == {"query": official, "document": ""}
    assert_same(model.encode_query("What?"), reference.vector(official + "What?"))
    assert_same(model.encode("What?", prompt_name="query"), reference.vector(official + "What?"))
    assert_same(model.encode_document("What?"), reference.vector("What?"))
    assert_same(model.encode_query("What?", instruction="Find it"), reference.vector("Instruct: Find it\nQuery:What?"))
    assert_same(model.encode_query("What?", prompt="", dim=32), model.encode("What?", dim=32), 0)
    assert_same(model.encode_document("What?", prompt_name="query"), model.encode_query("What?"), 0)
    assert_same(model.encode_query("What?", prompt=None, instruction=None), model.encode_query("What?"), 0)


def test_similarity_is_the_cosine_of_every_pair(model):
    queries, documents = model.encode_query(["a", "b"]), model.encode_document(["a", "c", "d"])
    scores = model.similarity(queries, documents)
    assert scores.shape == (2, 3)
    assert scores.dtype == np.float32
    assert_same(scores, queries @ documents.T, 1e-6)
    assert_same(model.similarity(5 * queries, documents / 3), scores, 1e-6)
    assert_same(model.similarity(queries[0], documents[1]), scores[:1, 1:2], 1e-6)
    assert model.similarity(queries, documents[:0]).shape == (2, 0)
    assert_same(model.similarity(np.zeros((1, 64)), documents), np.zeros((1, 3)), 0)


def test_similarity_of_different_dimensions_is_refused(model):
    with pytest.raises(InputError, match="vectors of 64 and 32 dimensions, expected the same"):
        model.similarity(model.encode("a"), model.encode("a", dim=32))


# Numbers of texts


def test_no_texts_one_text_and_a_single_str_have_their_shapes(model):
    assert model.encode([]).shape == (0, 64)
    assert model.encode([], dim=32).shape == (0, 32)
    assert model.encode_query([]).shape == (0, 64)
    assert model.encode(["a"]).shape == (1, 64)
    assert model.encode("a").shape == (64,)
    assert model.encode("a", dim=32).shape == (32,)
    assert model.encode("").shape == (64,)
    assert model.encode([]).dtype == model.encode("a").dtype == np.float32
    assert_same(model.encode("a"), model.encode(["a"])[0], 0)


@pytest.mark.parametrize("batch_tokens", [0, -1, True, 2.5, "10"])
def test_a_budget_that_cannot_be_is_refused(model, batch_tokens):
    with pytest.raises(UsageError, match="expected a whole number of at least 1"):
        model.encode(["a"], batch_tokens=batch_tokens)


def test_many_short_texts_stream_with_flat_memory(model):
    texts = [f"Text {i} speaks of {i % 7} things." for i in range(20_000)]
    model.encode(texts[:WINDOW])
    give_back_freed()
    before = anonymous_bytes()
    peaks: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peaks.append(anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    vectors = model.encode(texts)
    done.set()
    watcher.join()
    assert vectors.shape == (20_000, 64)
    assert_same(np.linalg.norm(vectors, axis=1), np.ones(20_000), 1e-5)
    assert_same(vectors[[0, WINDOW, 19_999]], model.encode([texts[0], texts[WINDOW], texts[19_999]]))
    # A window and the runs take 23 to 36 MB, two windows 35 to 49, all texts at once 82 to 86.
    assert max(peaks) - before - vectors.nbytes < 60e6


def test_one_window_of_texts_is_held_at_a_time(model):
    texts = [f"Text {i} speaks of {i % 7} things." for i in range(2 * WINDOW)]

    def traced(count: int) -> int:
        """Bytes that Python's objects take at the most beside the vectors; onnxruntime's and tokenizers' are not seen."""
        tracemalloc.start()
        try:
            vectors = model.encode(texts[:count])
            return tracemalloc.get_traced_memory()[1] - vectors.nbytes
        finally:
            tracemalloc.stop()

    traced(WINDOW)
    assert traced(2 * WINDOW) < 1.2 * traced(WINDOW)


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024


# Models that give no vectors


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_vectors_that_are_not_finite_are_refused_by_row(copy, value):
    patch_weights(copy, "layers.2.mlp.down_proj.weight", value)
    model = Embedder(copy, self_check=False)
    with pytest.raises(NonFiniteError) as caught:
        model.encode(["a", "another text", "c"])
    assert caught.value.exit_code == 3
    assert isinstance(caught.value, ArithmeticError)
    assert sorted(caught.value.rows) == [0, 1, 2]
    assert str(caught.value).startswith("3 vector(s) are not finite or are zero, first texts: ")
    with pytest.raises(NonFiniteError):
        Embedder(copy)


def test_only_the_rows_that_are_not_finite_are_named(copy, model):
    (row,) = {*ids(model, "<|im_start|>")} - {*ids(model, "")}
    patch_weights(copy, "embed_tokens.weight", float("nan"), row)
    damaged = Embedder(copy)
    texts = ["a", "b <|im_start|> c", "d", "e <|im_start|>"]
    with pytest.raises(NonFiniteError) as caught:
        damaged.encode(texts)
    assert sorted(caught.value.rows) == [1, 3]
    with pytest.raises(NonFiniteError) as caught:
        damaged.encode(["a"] * WINDOW + texts)
    assert sorted(caught.value.rows) == [WINDOW + 1, WINDOW + 3]
    assert_same(damaged.encode(["a", "d"]), model.encode(["a", "d"]), 0)


def test_a_model_that_gives_no_direction_is_refused(copy):
    outputs = [f"layers.{layer}.{part}_proj.weight" for layer in range(3) for part in ("self_attn.o", "mlp.down")]
    for name in ("embed_tokens.weight", *outputs):
        patch_weights(copy, name, 0.0)
    with pytest.raises(NonFiniteError):
        Embedder(copy, self_check=False).encode(["a"])


# The check at the start


def test_vectors_of_another_text_fail_the_self_check(copy):
    path = copy / "golden.safetensors"
    place = read_header(path)["embedding"]
    content = bytearray(path.read_bytes())
    vectors = np.frombuffer(content, dtype="<f4", offset=place.start).reshape(place.shape)
    content[place.start :] = np.roll(vectors, 1, axis=0).tobytes()
    path.write_bytes(content)
    with pytest.raises(IntegrityError):
        Embedder(copy)
    sign(copy)
    with pytest.raises(ProviderError, match=r"self-check: cosine -?[01]\.\d+ .* expected at least 0\.99999") as caught:
        Embedder(copy)
    assert caught.value.exit_code == 7
    assert Embedder(copy, self_check=False).encode("a").shape == (64,)


def test_a_vector_above_the_floor_but_further_off_than_at_export_fails_the_self_check(mini_folder, tmp_path):
    """A graph with one attribute changed once passed at .984, its other vectors as low as .959."""
    copy = Path(shutil.copytree(mini_folder, tmp_path / "copy"))
    fidelity = Manifest.read(copy).quants["int8"].fidelity
    assert fidelity["self_check"] > 0.995 > 0.985 > fidelity["floor"]["min"]
    golden = Golden.read(copy)
    row = row_to_run([len(probe.ids) for probe in golden.probes])
    right, other = golden.vectors[row], golden.vectors[row - 1]
    aside = other - (other @ right) * right
    tilted = 0.985 * right + (1 - 0.985**2) ** 0.5 * aside / np.linalg.norm(aside)
    path = copy / "golden.safetensors"
    content = bytearray(path.read_bytes())
    start = read_header(path)["embedding"].start + row * tilted.nbytes
    content[start : start + tilted.nbytes] = tilted.astype("<f4").tobytes()
    path.write_bytes(content)
    sign(copy)
    with pytest.raises(ProviderError, match=r"self-check: cosine 0\.98\d+ to PyTorch's, expected at least 0\.99"):
        Embedder(copy, quant="int8")


def test_other_token_ids_than_at_export_fail_the_self_check(copy):
    path = copy / "golden.json"
    probes = json.loads(path.read_text("utf-8"))
    for probe in probes:
        probe["ids"][0] += 1
    path.write_text(json.dumps(probes), encoding="utf-8")
    sign(copy)
    with pytest.raises(ProviderError, match=r"self-check: .* gave ids .*; type: pip install -U tokenizers") as caught:
        Embedder(copy)
    assert caught.value.exit_code == 7


def test_another_id_of_one_token_anywhere_in_the_golden_texts_fails_the_self_check(copy):
    path = copy / "golden.json"
    probes = json.loads(path.read_text("utf-8"))
    last = max(row for row, probe in enumerate(probes) if len(probe["ids"]) <= 512)
    assert last > 64
    probes[last]["ids"][-2] += 1
    path.write_text(json.dumps(probes), encoding="utf-8")
    sign(copy)
    with pytest.raises(ProviderError, match=r"self-check: .* gave ids \[\d+, \d+\] from token \d+ on, expected \["):
        Embedder(copy)


def test_weights_that_were_changed_and_signed_fail_the_self_check(copy):
    patch_weights(copy, "layers.1.mlp.up_proj.weight", 0.01)
    with pytest.raises(ProviderError, match="self-check: cosine"):
        Embedder(copy)


# Vectors of tokens


@pytest.mark.parametrize("tokens", [1, 40, 512, 513])
def test_every_token_has_a_vector_and_the_last_ones_is_the_texts(model, tokens):
    ids = np.random.default_rng(tokens).integers(0, 900, tokens)
    states = model.run_tokens(ids)
    assert states.shape == (tokens, model.dims)
    np.testing.assert_allclose(states[-1] / np.linalg.norm(states[-1]), model.run([ids])[0], atol=1e-6)


# Sharing


def test_eight_threads_that_share_a_model_get_the_same_vectors(model):
    texts = [f"text {i} " + "and more of it " * (i % 13) for i in range(64)]
    serial = model.encode(texts)
    start = threading.Barrier(8)

    def work(_: int) -> np.ndarray:
        start.wait()
        return model.encode(texts)

    with ThreadPoolExecutor(8) as pool:
        for vectors in pool.map(work, range(8)):
            np.testing.assert_array_equal(vectors, serial)


def test_the_same_call_twice_gives_the_same_bytes(model):
    texts = ["a", "another text", "c" * 300]
    np.testing.assert_array_equal(model.encode(texts), model.encode(texts))


def test_progress_is_on_standard_error_only_when_asked_for(model, capsys):
    model.encode(["a", "b"])
    assert capsys.readouterr() == ("", "")
    model.encode(["a", "b"], progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err
