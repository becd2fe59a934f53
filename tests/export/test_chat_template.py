"""The template that a reranker's folder gives to sentence-transformers."""

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from q3_export.chat_template import chat_template
from q3_runtime.templates import OFFICIAL, Template

ODD = Template(prefix='a{{b}} {% x %} "q" \\n é 😀\n', body="{document}|{query}", suffix="\n\n", instruction="i")


@pytest.mark.parametrize("template", [OFFICIAL, ODD], ids=["official", "odd"])
def test_filled_from_messages_it_gives_our_words(template: Template) -> None:
    messages = [
        {"role": "system", "content": "a task"},
        {"role": "query", "content": "{document} <Query>\n"},
        {"role": "document", "content": "{{ x }}"},
    ]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as transformers has it
    filled = environment.from_string(chat_template(template.as_prompts())).render(messages=messages)
    assert filled == template.prefix + template.fill("{document} <Query>\n", "{{ x }}", "a task") + template.suffix
