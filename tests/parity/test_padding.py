"""A text's vector is PyTorch's, on either padding side, alone or in any batch."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from q3_export import reference
from q3_export.checkpoint import open_checkpoint
from q3_runtime.batching import pad

MAX_DELTA = 1e-5
IDS = st.lists(st.integers(0, 900), min_size=1, max_size=40).map(lambda ids: np.array(ids, dtype=np.int64))


@pytest.fixture(scope="module")
def session(folder: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / "onnx/model.onnx")


@pytest.fixture(scope="module")
def torch_model(checkpoint: Path) -> torch.nn.Module:
    return AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()


def last_token_pool(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """As in the published model card: the last column if rows are padded on the left, else each row's last real token."""
    if mask[:, -1].sum() == mask.shape[0]:
        return states[:, -1]
    return states[torch.arange(states.shape[0]), mask.sum(dim=1) - 1]


def vectors(session: onnxruntime.InferenceSession, rows: list[np.ndarray], side: str = "right") -> np.ndarray:
    return session.run(["sentence_embedding"], pad(rows, 0, side))[0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(IDS, min_size=1, max_size=12))
def test_left_equals_right_equals_alone_equals_any_order(session: onnxruntime.InferenceSession, rows: list[np.ndarray]) -> None:
    alone = np.concatenate([vectors(session, [row]) for row in rows])
    for batch in (vectors(session, rows), vectors(session, rows, "left"), vectors(session, rows[::-1])[::-1]):
        assert np.abs(batch - alone).max() <= MAX_DELTA


@pytest.mark.parametrize("lengths", [(512, 40, 1), (513, 512, 511, 1), (513, 700), (900, 3, 1200, 512)], ids=str)
def test_on_both_sides_of_the_length_at_which_attention_changes_too(
    session: onnxruntime.InferenceSession, checkpoint: Path, lengths: tuple[int, ...]
) -> None:
    rows = [np.random.default_rng(length).integers(0, 900, length) for length in lengths]
    expected = reference.embed(open_checkpoint(checkpoint), [row.tolist() for row in rows])
    for batch in (
        np.concatenate([vectors(session, [row]) for row in rows]),
        vectors(session, rows),
        vectors(session, rows, "left"),
    ):
        assert np.abs(batch - expected).max() <= MAX_DELTA


@pytest.mark.parametrize("length", [511, 513, 514, 769, 1025])
def test_a_texts_states_have_the_same_bits_beside_a_longer_text(session: onnxruntime.InferenceSession, length: int) -> None:
    """Also where tiled attention's last tile would be one token: 8-bit activations make 3e-4 of its last bits."""
    rows = [np.random.default_rng(tokens).integers(0, 900, tokens) for tokens in (length, length + 90)]
    alone, together = (session.run(["last_hidden_state"], pad(beside, 0))[0][0] for beside in (rows[:1], rows))
    np.testing.assert_array_equal(alone[:length], together[:length])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(IDS, min_size=1, max_size=6), side=st.sampled_from(["left", "right"]))
def test_pooling_equals_the_model_cards_on_both_sides(
    session: onnxruntime.InferenceSession, torch_model: torch.nn.Module, rows: list[np.ndarray], side: str
) -> None:
    feeds = pad(rows, 0, side)
    mask = torch.from_numpy(feeds["attention_mask"])
    with torch.inference_mode():
        # Positions are counted from each row's first real token; for left padding transformers must be told so.
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        states = torch_model(
            torch.from_numpy(feeds["input_ids"]), attention_mask=mask, position_ids=positions
        ).last_hidden_state
        expected = torch.nn.functional.normalize(last_token_pool(states, mask), dim=-1).numpy()
    assert np.abs(session.run(["sentence_embedding"], feeds)[0] - expected).max() <= MAX_DELTA


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(IDS, min_size=1, max_size=6), side=st.sampled_from(["left", "right"]))
def test_hidden_states_stay_in_the_layout_of_the_input_and_are_zero_at_padding(
    session: onnxruntime.InferenceSession, torch_model: torch.nn.Module, rows: list[np.ndarray], side: str
) -> None:
    feeds = pad(rows, 0, side)
    states = session.run(["last_hidden_state"], feeds)[0]
    real = feeds["attention_mask"].astype(bool)
    assert (states[~real] == 0).all()
    for row, ids in enumerate(rows):
        with torch.inference_mode():
            expected = torch_model(torch.from_numpy(ids)[None]).last_hidden_state[0].numpy()
        found = states[row][real[row]]
        cosine = (found * expected).sum(-1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(expected, axis=-1)
        assert cosine.min() >= 0.99999
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_pad_id_of_a_batch_does_not_matter(session: onnxruntime.InferenceSession) -> None:
    rows = [np.arange(5), np.arange(30)]
    zero, other = ({**pad(rows, pad_id)} for pad_id in (0, 700))
    found = [session.run(["sentence_embedding"], feeds)[0] for feeds in (zero, other)]
    np.testing.assert_array_equal(*found)


def test_pooled_only_gives_the_same_vectors_and_nothing_else(checkpoint: Path, session, tmp_path: Path) -> None:
    from q3_export import export_model

    out = export_model(checkpoint, quant="fp32", out=tmp_path / "pooled", pooled_only=True)
    pooled = onnxruntime.InferenceSession(out / "onnx/model.onnx")
    assert [output.name for output in pooled.get_outputs()] == ["sentence_embedding"]
    random = np.random.default_rng(0)
    for lengths in ([1], [1, 1, 1], [5], [3, 17, 1, 40], [300, 2]):
        rows = [random.integers(0, 900, length) for length in lengths]
        for side in ("left", "right"):
            assert np.abs(vectors(pooled, rows, side) - vectors(session, rows, side)).max() <= MAX_DELTA
