"""The text put in front of a query: official wording, byte for byte.

Source: config_sentence_transformers.json of Qwen3-Embedding and its model card. There is no space after ``Query:``.
"""

from collections.abc import Mapping

from q3_runtime.errors import InputError, UsageError

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


def instruct(instruction: str) -> str:
    r"""The prompt for a task of one's own. Plain concatenation, so braces in the instruction stay as they are.

    Example: ``instruct("Find code")`` → ``"Instruct: Find code\nQuery:"``.
    """
    return "Instruct: " + instruction + "\nQuery:"


OFFICIAL_PROMPTS = {"query": instruct(DEFAULT_INSTRUCTION), "document": ""}


def resolve(
    prompts: Mapping[str, str], prompt_name: str | None = None, prompt: str | None = None, instruction: str | None = None
) -> str:
    """The prefix to use, from at most one of a name, the prompt itself, or an instruction; none of them: no prefix.

    Raises:
        UsageError: more than one given.
        InputError: the model has no prompt of that name, or one of them is not a str.
    """
    given = {"prompt_name": prompt_name, "prompt": prompt, "instruction": instruction}
    named = {key: value for key, value in given.items() if value is not None}
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} given together, expected one of them; leave the others out")
    for key, value in named.items():
        if not isinstance(value, str):
            raise InputError(f"{key} is {type(value).__name__}, expected str")
    if instruction is not None:
        return instruct(instruction)
    if prompt is not None:
        return prompt
    if prompt_name is None:
        return ""
    if prompt_name not in prompts:
        raise InputError(
            f"no prompt is called {prompt_name!r}, this model has {', '.join(sorted(prompts))}; take one of them, or "
            "an instruction of your own"
        )
    return prompts[prompt_name]
