"""What a body may hold, by route; the same classes make the OpenAPI document.

Source of names and meanings: text-embeddings-inference 1.9.3 (router/src/http/types.rs), OpenAI's embeddings, and the rerank
routes of Cohere and Jina. ``model``, ``prompt_name``, ``instruction`` and ``input_type`` are understood on every route that
embeds. Types are strict: ``true`` is no number and ``"64"`` neither.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from q3_runtime.tokenization import SURROGATE

MOST = 65_536
"""No whole number of a body is larger: items, dimensions, ranks."""
MOST_ID = 1 << 31


def _text(value: str) -> str:
    if SURROGATE.search(value):
        raise PydanticCustomError("invalid_text", "a lone surrogate, expected valid Unicode")
    return value


def _inputs(value: object) -> list[str | list[int]]:
    """A text, token ids, or a list of such → the list; whether it was one alone does not matter to the answer."""
    if isinstance(value, str) or _are_ids(value):
        value = [value]
    return _list_of(value, lambda item: isinstance(item, str) or _are_ids(item), "a string or a list of token ids")


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        value = [value]
    return _list_of(value, lambda item: isinstance(item, str), "a string")


def _ids(value: object) -> list[list[int]]:
    if _are_ids(value):
        value = [value]
    return _list_of(value, _are_ids, "a list of token ids")


def _documents(value: object) -> list[str]:
    """Cohere's and Jina's: a text, or an object with one."""
    if isinstance(value, list):
        value = [item.get("text") if isinstance(item, dict) else item for item in value]
    return _list_of(value, lambda item: isinstance(item, str), 'a string or {"text": string}')


def _list_of(value: object, fits: Callable[[Any], bool], expected: str) -> list[Any]:
    """Raises ValueError, which names the first item that is something else."""
    if not isinstance(value, list):
        raise ValueError(f"{_kind(value)}, expected {expected} or a list")
    for place, item in enumerate(value):
        if not fits(item):
            raise ValueError(f"[{place}] is {_kind(item)}, expected {expected}")
        if isinstance(item, str) and SURROGATE.search(item):
            raise PydanticCustomError("invalid_text", f"[{place}] has a lone surrogate, expected valid Unicode")
    return value


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < MOST_ID for item in value)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", bool: "a boolean", type(None): "null", str: "a string"}
    return names.get(type(value), "a number")


_STRING: dict[str, Any] = {"type": "string", "minLength": 1}
_ID_LIST: dict[str, Any] = {"type": "array", "items": {"type": "integer", "format": "int32", "minimum": 0}, "minItems": 1}


def _one_or_many(*forms: dict[str, Any]) -> WithJsonSchema:
    """OpenAPI: one of the forms, or a list of them."""
    one: dict[str, Any] = {"oneOf": list(forms)} if len(forms) > 1 else dict(forms[0])
    return WithJsonSchema({"anyOf": [*forms, {"type": "array", "minItems": 1, "items": one}]})


Text = Annotated[str, AfterValidator(_text)]
Inputs = Annotated[list[str | list[int]], BeforeValidator(_inputs), _one_or_many(_STRING, _ID_LIST)]
Texts = Annotated[list[str], BeforeValidator(_texts), _one_or_many(_STRING)]
Ids = Annotated[list[list[int]], BeforeValidator(_ids), _one_or_many(_ID_LIST)]
TextList = Annotated[
    list[str],
    BeforeValidator(lambda value: _list_of(value, lambda item: isinstance(item, str), "a string")),
    WithJsonSchema({"type": "array", "minItems": 1, "items": _STRING}),
]
Documents = Annotated[
    list[str],
    BeforeValidator(_documents),
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 1,
            "items": {"anyOf": [_STRING, {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}]},
        }
    ),
]
Count = Annotated[int, Field(ge=1, le=MOST)]
Side = Literal["Left", "Right", "left", "right"]
InputType = Literal["query", "document", "search_query", "search_document"]


class Fields(BaseModel):
    """Unknown ones are kept apart, to be named in a response header."""

    model_config = ConfigDict(extra="allow", strict=True)


class Body(Fields):
    """Any body."""

    model: str | None = Field(None, description="Name of a served model; by default the first that fits the route.")


class PromptFields(Fields):
    """What to put in front of texts: at most one of the three, and by default nothing."""

    prompt_name: Text | None = Field(None, description="Name of a prompt of the model, put in front of every text.")
    instruction: Text | None = Field(None, description="Task in English, put in front in the model's own form.")
    input_type: InputType | None = Field(None, description="The prompt of that name: `query` or `document`.")


class CutFields(PromptFields):
    """And what to do with a text that is too long."""

    truncate: bool | None = Field(None, description="Cut it, or refuse the request; by default as the server was started.")
    truncation_direction: Side = Field("Right", description="The side that is cut.")


class EmbedRequest(Body, CutFields):
    """``/embed``."""

    inputs: Inputs
    normalize: bool = True
    dimensions: Count | None = None


class EmbedAllRequest(Body, CutFields):
    """``/embed_all``: a vector for each token."""

    inputs: Inputs


class SimilarityInput(Fields):
    """One text, and those that it is compared with."""

    source_sentence: Text
    sentences: TextList


class SimilarityParameters(CutFields):
    """Of ``/similarity``; the same fields are understood beside ``inputs``."""


class SimilarityRequest(Body, CutFields):
    """``/similarity``."""

    inputs: SimilarityInput
    parameters: SimilarityParameters | None = None


class TokenizeRequest(Body, PromptFields):
    """``/tokenize``."""

    inputs: Texts
    add_special_tokens: bool = True


class DecodeRequest(Body):
    """``/decode``."""

    ids: Ids
    skip_special_tokens: bool = True


class RerankRequest(Body):
    """``/rerank`` as text-embeddings-inference has it."""

    query: Text
    texts: TextList
    truncate: bool | None = None
    truncation_direction: Side = "Right"
    raw_scores: bool = False
    return_text: bool = False
    instruction: Text | None = Field(None, description="The task in English, instead of the model's own.")


class DocumentsRequest(Body):
    """``/rerank`` and ``/v1/rerank`` as Cohere and Jina have it."""

    query: Text
    documents: Documents
    top_n: Count | None = None
    return_documents: bool | None = None
    instruction: Text | None = Field(None, description="The task in English, instead of the model's own.")


class EmbeddingsRequest(Body, PromptFields):
    """``/v1/embeddings`` as OpenAI has it."""

    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None
    user: str | None = None


def unknown_fields(body: BaseModel) -> list[str]:
    """Names of what was sent and is not understood, by their paths."""
    names = list(body.model_extra or {})
    for field in type(body).model_fields:
        value = getattr(body, field)
        if isinstance(value, BaseModel):
            names += [f"{field}.{name}" for name in unknown_fields(value)]
    return names


def place_of(location: Sequence[int | str]) -> str:
    """A location of pydantic's as a path: ``("inputs", "sentences", 3)`` → ``inputs.sentences[3]``."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{part}"
    return path
