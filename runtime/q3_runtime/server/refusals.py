"""Why a request is not answered: one table of reasons, and how each dialect words one.

Source of statuses, types and texts: text-embeddings-inference 1.9.3, router/src/http/server.rs and router/src/lib.rs, which
speaks its own form on its own routes and another on ``/v1/embeddings``; OpenAI's form is ``{"error": {…}}``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from q3_runtime.errors import (
    InputError,
    NonFiniteError,
    Q3Error,
    TextError,
    TooLargeError,
    TooLongError,
    UsageError,
)


class Reason(NamedTuple):
    """HTTP status, text-embeddings-inference's ``error_type``, OpenAI's ``type``; may the client just try again?"""

    status: int
    tei: str
    openai: str
    retryable: bool = False


INVALID = "invalid_request_error"
REASONS = {
    "invalid_json": Reason(400, "Validation", INVALID),
    "invalid_utf8": Reason(400, "Validation", INVALID),
    "invalid_number": Reason(400, "Validation", INVALID),
    "too_deep": Reason(400, "Validation", INVALID),
    "too_many_values": Reason(400, "Validation", INVALID),
    "empty_input": Reason(400, "Empty", INVALID),
    "invalid_host": Reason(400, "Validation", INVALID),
    "bad_request": Reason(400, "Validation", INVALID),
    "unauthorized": Reason(401, "Validation", "authentication_error"),
    "not_found": Reason(404, "Validation", INVALID),
    "unknown_model": Reason(404, "Validation", INVALID),
    "method_not_allowed": Reason(405, "Validation", INVALID),
    "request_timeout": Reason(408, "Validation", INVALID, retryable=True),
    "body_too_large": Reason(413, "Validation", INVALID),
    "too_many_tokens": Reason(413, "Validation", INVALID),
    "unsupported_media_type": Reason(415, "Validation", INVALID),
    "unsupported_encoding": Reason(415, "Validation", INVALID),
    "invalid_value": Reason(422, "Validation", INVALID),
    "invalid_text": Reason(422, "Tokenizer", INVALID),
    "batch_too_large": Reason(422, "Validation", INVALID),
    "text_too_long": Reason(422, "Validation", INVALID),
    "headers_too_large": Reason(431, "Validation", INVALID),
    "wrong_model": Reason(424, "Backend", INVALID),
    "non_finite_output": Reason(424, "Backend", "server_error"),
    "overloaded": Reason(429, "Overloaded", "rate_limit_error", retryable=True),
    "internal_error": Reason(500, "Backend", "server_error"),
    "not_implemented": Reason(501, "Validation", INVALID),
    "http_version_not_supported": Reason(505, "Validation", INVALID),
    "not_ready": Reason(503, "Unhealthy", "server_error", retryable=True),
    "queue_timeout": Reason(503, "Overloaded", "server_error", retryable=True),
    "out_of_memory": Reason(503, "Backend", "server_error", retryable=True),
}


class RefusedError(Exception):
    """A request is answered by an error.

    Args:
        code: a row of REASONS.
        message: one line; never a text of the client's.
        param: the path of what is wrong in the body, ``input[3]``.
        headers: to send beside it.
    """

    def __init__(self, code: str, message: str, *, param: str | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param, self.headers = code, message, param, headers or {}

    @property
    def reason(self) -> Reason:
        """Its row."""
        return REASONS[self.code]

    def body(self, dialect: str, request_id: str) -> dict[str, Any]:
        """What to send, by the route's dialect: ``tei``, or ``openai``, which is understood by clients of Cohere's too."""
        status, kind, openai, retryable = self.reason
        more = {"code": self.code, "param": self.param, "retryable": retryable, "request_id": request_id}
        if dialect == "tei":
            return {"error": self.message, "error_type": kind, **more}
        nested = {"message": self.message, "type": openai, **more}
        return {"error": nested, "message": self.message, "code": status, "type": kind, "error_type": kind}


def overloaded(**headers: str) -> RefusedError:
    """Try again in a second, unless ``retry-after`` says another time."""
    return RefusedError("overloaded", "Model is overloaded", headers={"retry-after": "1"} | headers)


def refusal_of(error: Q3Error, place: Callable[[int], str]) -> RefusedError:
    """What the runtime raises for one request, as its refusal; ``place`` names a text of the request by its path."""
    if isinstance(error, TooLongError):
        given = f"`inputs` must have less than {error.limit} tokens. Given: {error.given}"
        return RefusedError("text_too_long", given, param=place(error.index))
    if isinstance(error, TextError):
        return RefusedError("invalid_text", str(error))
    where = None if error.row is None else place(error.row)
    if isinstance(error, NonFiniteError):
        said = f"Inference failed: the {error.what} of `{where}` is not finite or is zero; use another quant of this model"
        return RefusedError("non_finite_output", said, param=where)
    if isinstance(error, TooLargeError):
        return RefusedError("out_of_memory", f"Inference failed: `{where}` {error.lack}; shorten or split it", param=where)
    if isinstance(error, InputError | UsageError):
        return RefusedError("invalid_value", str(error))
    return RefusedError("wrong_model", str(error))
