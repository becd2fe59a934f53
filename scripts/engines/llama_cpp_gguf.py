"""llama.cpp with Q8_0 weights, through llama-cpp-python; built without AMX, in which its version 0.3.36 crashes."""

import ctypes
import json
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

BATCH_TOKENS, MOST_ROWS = 2048, 64
"""Of one batch, which is one micro-batch: a vector of the last token wants its text in one."""


def make(checkpoint: Path, variant: str, folder: Path, calibration: list[list[int]]) -> None:  # noqa: ARG001
    """A GGUF file with the names and keys of llama.cpp's own converter, which is not on PyPI, and no vocabulary."""
    import gguf
    import torch
    from safetensors import safe_open

    config = json.loads((checkpoint / "config.json").read_text())
    layers = config["num_hidden_layers"]
    writer = gguf.GGUFWriter(folder / "model.gguf", "qwen3")
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_pooling_type(gguf.PoolingType.LAST)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, layers)
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118  # no mapping
                full = key if key.startswith(("model.", "lm_head.")) else f"model.{key}"
                values = tensors.get_tensor(key).to(torch.float32).numpy()
                kind = gguf.GGMLQuantizationType.Q8_0 if values.ndim == 2 else gguf.GGMLQuantizationType.F32
                writer.add_tensor(names.get_name(full, (".weight",)), gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load(checkpoint: Path, variant: str, folder: Path, threads: int) -> Callable:  # noqa: ARG001
    import llama_cpp as ll

    width = json.loads((checkpoint / "config.json").read_text())["hidden_size"]
    ll.llama_log_set(SILENT, None)
    ll.llama_backend_init()
    model = ll.llama_model_load_from_file(str(folder / "model.gguf").encode(), ll.llama_model_default_params())
    options = ll.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = BATCH_TOKENS
    options.n_seq_max, options.kv_unified = MOST_ROWS, True
    options.n_threads = options.n_threads_batch = threads
    options.embeddings, options.pooling_type = True, ll.LLAMA_POOLING_TYPE_LAST
    context = model and ll.llama_init_from_model(model, options)
    if not context:
        raise SystemExit(f"{folder / 'model.gguf'}: llama.cpp cannot load it")
    batch = ll.llama_batch_init(BATCH_TOKENS, 0, 1)

    def run(rows):
        ll.llama_memory_clear(ll.llama_get_memory(context), False)
        batch.n_tokens = sum(map(len, rows))
        place = 0
        for number, row in enumerate(rows):
            for position, token in enumerate(row):
                batch.token[place], batch.pos[place] = token, position
                batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, number, True
                place += 1
        if code := ll.llama_decode(context, batch):
            raise SystemExit(f"llama_decode: {code}")
        found = [np.ctypeslib.as_array(ll.llama_get_embeddings_seq(context, number), (width,)) for number in range(len(rows))]
        vectors = np.array(found, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def free():
        ll.llama_batch_free(batch)
        ll.llama_free(context)
        ll.llama_model_free(model)

    weakref.finalize(run, free)
    return run


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows in their order, as many as fit: llama.cpp pads nothing."""
    batch: list[int] = []
    for place, length in enumerate(lengths):
        if batch and (sum(lengths[row] for row in batch) + length > BATCH_TOKENS or len(batch) == MOST_ROWS):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def SILENT(level: int, text: bytes, data: object) -> None:  # noqa: N802  # a constant that C calls
    """Its log is long."""
