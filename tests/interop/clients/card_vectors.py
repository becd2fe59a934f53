"""The lines of a model card, as they stand: card_vectors.py FOLDER ONNX_FILE MARK < texts.json > vectors.json.

The block is the one with MARK in it. DIR, the graph and the ``…`` are filled in; what it calls ``vectors``, or ``vector`` where
it takes one text, is collected. Where it names no prompt, the prompt is put in front of the texts.
"""

import json
import re
import sys
from pathlib import Path

folder, onnx_file, mark = sys.argv[1:]
texts = json.load(sys.stdin)
card = Path(folder, "README.md").read_text("utf-8")
prompts = json.loads(Path(folder, "config_sentence_transformers.json").read_text("utf-8"))["prompts"]
(lines,) = [block for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if mark in block]
lines, graphs = re.subn(r"onnx/model\w*\.onnx(?=[\"_])", onnx_file, lines.replace("DIR", folder))
if not graphs or lines.count('"…"') != 1:
    sys.exit(f"not a graph and one text:\n{lines}")


def run(kind, text, given):
    names = {}
    block = lines.replace('prompt_name="query"', f'prompt_name="{kind}"').replace('"q3"', f'"q3-{kind}"')
    exec(block.replace(text, repr(given)), names)
    return names


def embed(kind):
    given = texts[kind] if "prompt_name=" in lines else [prompts[kind] + text for text in texts[kind]]
    if '["…"]' in lines:
        return [vector.tolist() for vector in run(kind, '["…"]', given)["vectors"]]
    return [run(kind, '"…"', text)["vector"][0].tolist() for text in given]


json.dump({kind: embed(kind) for kind in texts}, sys.stdout)
