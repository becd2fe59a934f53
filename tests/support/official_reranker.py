"""The recipe of Qwen3-Reranker's model card, in transformers: ids, and logits of the whole vocabulary."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
TASK = "Given a web search query, retrieve relevant passages that answer the query"


class OfficialReranker:
    """A checkpoint as the model card uses it, in float32, a pair at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        self._model: torch.nn.Module | None = None

    def ids(self, query: str, document: str, task: str = TASK) -> list[int]:
        body = f"<Instruct>: {task}\n<Query>: {query}\n<Document>: {document}"
        return [token for text in (PREFIX, body, SUFFIX) for token in self.tokenizer.encode(text, add_special_tokens=False)]

    @torch.inference_mode()
    def log_odds(self, ids: Sequence[int]) -> float:
        """From the logits of all tokens, as log_softmax over yes and no gives them."""
        if self._model is None:
            self._model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()
        yes, no = (self.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
        logits = self._model(torch.tensor([list(ids)])).logits[0, -1]
        assert logits.shape[0] == self._model.config.vocab_size
        chances = torch.nn.functional.log_softmax(torch.stack([logits[no], logits[yes]]), dim=0)
        return float(chances[1] - chances[0])
