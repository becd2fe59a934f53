"""A model as ``/info`` tells it."""

from importlib.metadata import version
from typing import Any

from q3_runtime.server.models import Models
from q3_runtime.server.served_model import ServedModel


def describe(models: Models, model: ServedModel) -> dict[str, Any]:
    """Text-embeddings-inference's fields, then what our manifest knows."""
    manifest, labels = model.model.manifest, {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    entry = manifest.quants[model.model.quant]
    return {
        "model_id": manifest.source["id"],
        "model_sha": manifest.source.get("revision"),
        "model_dtype": model.model.quant,
        "served_model_name": model.name,
        "model_type": {"embedding": {"pooling": "last_token"}} if model.kind == "embedding" else {"reranker": labels},
        "max_concurrent_requests": models.max_concurrent_requests,
        "max_input_length": manifest.max_tokens,
        "max_batch_tokens": models.limits.batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": models.max_client_batch_size,
        "auto_truncate": model.auto_truncate,
        "tokenization_workers": 1,
        "version": version("q3-onnx"),
        "sha": None,
        "docker_label": None,
        "quant": model.model.quant,
        "provider": model.model.provider,
        "dims": manifest.dims,
        "mrl_dims": manifest.mrl_dims,
        "prompts": manifest.prompts,
        "default_prompt": None,
        "fidelity": entry.fidelity,
        "source_sha256": manifest.source["sha256"],
        "waiting_tokens": model.waiting_tokens,
    }
