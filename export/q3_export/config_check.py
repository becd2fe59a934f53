"""config.json: is this a Qwen3 model that can be exported, and are the weights of its shape?"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from q3_runtime.errors import ModelError
from q3_runtime.git_lfs import PULL, is_pointer

ARCHITECTURES = ("Qwen3ForCausalLM", "Qwen3Model")
ADAPTER = "adapter_config.json"
SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings",
)  # fmt: skip


def read_json(path: Path, fault: str | None = None) -> dict[str, Any]:
    """A JSON object from a file of the checkpoint."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except PermissionError:
        raise
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror}), expected a Qwen3 checkpoint; download it again", fault=fault
        ) from error
    except (ValueError, RecursionError) as error:
        problem = PULL if is_pointer(path) else f"not JSON ({error}); download it again"
        raise ModelError(f"{path}: {problem}", fault=fault) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: a {type(content).__name__}, expected a JSON object; download it again", fault=fault)
    return content


def check_safe(folder: Path, names: Iterable[str] | None = None) -> None:
    """Refuse checkpoints that come with code. Nothing is imported from a model folder, ever. Adapters are refused too.

    Args:
        folder: the checkpoint.
        names: all its files, where not all of them are in the folder.
    """
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in read_json(folder / name):
            raise ModelError(
                f"{folder / name}: auto_map asks for remote code, expected plain Qwen3; use the original checkpoint",
                fault="E_UNSAFE",
            )
    names = [path.name for path in folder.iterdir()] if names is None else list(names)
    if ADAPTER in names:  # transformers adds it to the weights that lie beside it
        raise ModelError(
            f"{folder}: has {ADAPTER}, expected whole weights; merge the adapter into them (PEFT: merge_and_unload, "
            "save_pretrained), or take that file away where they have it already",
            fault="E_ARCH",
        )
    code = sorted(name for name in names if name.endswith(".py") and "/" not in name)
    if code:
        raise ModelError(
            f"{folder}: comes with code ({', '.join(code[:3])}), expected plain Qwen3; use the original checkpoint",
            fault="E_UNSAFE",
        )


def check_config(path: Path) -> dict[str, Any]:
    """config.json of a Qwen3 model whose every part is supported.

    Raises:
        ModelError: another architecture, a size that is missing or absurd, or an option that changes the computation.
    """
    config = read_json(path)
    names = config.get("architectures") or []
    if config.get("model_type") != "qwen3" or names not in [[name] for name in ARCHITECTURES]:
        raise ModelError(
            f"{path}: {config.get('model_type')!r} {names}, expected model_type 'qwen3' and one of {', '.join(ARCHITECTURES)}; "
            "only Qwen3-Embedding, Qwen3-Reranker and their fine-tunes are exported",
            fault="E_ARCH",
        )
    for name in SIZES:
        if type(config.get(name)) is not int or not 1 <= config[name] < 2**31:
            raise ModelError(
                f"{path}: {name} is {config.get(name)!r}, expected a positive whole number below 2**31; download it again",
                fault="E_SHAPE",
            )
    # transformers takes rope_scaling where both are there
    ropes = [config[name] for name in ("rope_scaling", "rope_parameters") if config.get(name)]
    ropes = [rope if isinstance(rope, dict) else {"rope_type": rope} for rope in ropes]
    types = [rope.get("rope_type", rope.get("type", "default")) for rope in ropes]
    types += [f"one for {name}" for rope in ropes for name in rope if isinstance(rope[name], dict)]
    thetas = [rope["rope_theta"] for rope in ropes if "rope_theta" in rope] or [config.get("rope_theta", 1e4)]
    numbers = [("rms_norm_eps", config.get("rms_norm_eps", 1e-6)), *(("rope_theta", theta) for theta in thetas)]
    for name, number in numbers:
        if type(number) not in (int, float) or not 0 < number < math.inf:
            raise ModelError(f"{path}: {name} is {number!r}, expected a positive number; download it again", fault="E_SHAPE")
    layers = config.get("layer_types") or ["full_attention"]
    other_layers = [kind for kind in layers if kind != "full_attention"] if isinstance(layers, list) else [layers]
    wanted = {
        "hidden_act": (config.get("hidden_act", "silu"), "silu"),
        "attention_bias": (config.get("attention_bias", False), False),
        "rope type": (next((kind for kind in types if kind != "default"), "default"), "default"),
        "is_causal": (config.get("is_causal", True), True),
        "use_sliding_window": (config.get("use_sliding_window", False), False),
        "layer_types": ((other_layers or ["full_attention"])[0], "full_attention"),
        "quantization_config": (config.get("quantization_config"), None),
        "num_attention_heads modulo num_key_value_heads": (config["num_attention_heads"] % config["num_key_value_heads"], 0),
        "head_dim modulo 16": (config["head_dim"] % 16, 0),
    }
    for name, (found, expected) in wanted.items():
        if found != expected:
            raise ModelError(
                f"{path}: {name} is {found!r}, expected {expected!r}; use an original Qwen3 checkpoint", fault="E_ARCH"
            )
    return config


def expected_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor that the model needs, as a checkpoint without the ``model.`` prefix names them."""
    hidden, inner, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    layer = {
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        "self_attn.q_norm": (head_dim,), "self_attn.k_norm": (head_dim,),
        "self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    shapes = {"embed_tokens.weight": (config["vocab_size"], hidden), "norm.weight": (hidden,)}
    for number in range(config["num_hidden_layers"]):
        shapes |= {f"layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def check_shapes(config: dict[str, Any], found: dict[str, tuple[int, ...]]) -> None:
    """Every tensor is there, none too many (``lm_head`` may be), each of the shape that config.json implies."""
    if config["num_hidden_layers"] > len(found):
        raise ModelError(
            f"config.json has {config['num_hidden_layers']} layers, the weights have {len(found)} tensors; "
            "config.json and the weights are not of the same model",
            fault="E_INDEX",
        )
    expected = expected_shapes(config)
    for name, shape in expected.items():
        if name not in found:
            raise ModelError(
                f"tensor {name} is not in the weights, expected shape {list(shape)}; download them again", fault="E_INDEX"
            )
    expected["lm_head.weight"] = expected["embed_tokens.weight"]
    for name, shape in found.items():
        if name not in expected:
            raise ModelError(
                f"tensor {name} is not one of a Qwen3 model of {config['num_hidden_layers']} layers; check config.json",
                fault="E_INDEX",
            )
        if shape != expected[name]:
            raise ModelError(
                f"tensor {name} has shape {list(shape)}, config.json implies {list(expected[name])}; "
                "config.json and the weights are not of the same model",
                fault="E_SHAPE",
            )
