import os

import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract.encoder import open_encoder
from cmarr_jax.extract.models import wav2vec2
from cmarr_jax.extract.text import FAMILIES as TEXT

pytest.importorskip("safetensors")
GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
INPUTS = {
    "bert": (np.arange(6, dtype=np.int32)[None], np.ones((1, 6), bool)),
    "wav2vec2": (np.random.default_rng(0).normal(size=(1, 800)), np.array([800], np.int32)),
}
FAMILIES = TEXT | {"wav2vec2": wav2vec2}


def forward(kind, said):
    encoder = open_encoder(f"{GOLDEN}/{kind}", FAMILIES, layers=said, dtype="float32")
    features = encoder.forward(*INPUTS[kind])
    assert features.dtype == np.float32 and features.shape[-1] == encoder.dim
    return features


@pytest.mark.parametrize("kind", INPUTS)
def test_layers_are_kept_alone_side_by_side_or_as_their_mean(kind):
    states = [forward(kind, str(k)) for k in range(3)]
    assert len({x.tobytes() for x in states}) == 3
    np.testing.assert_array_equal(forward(kind, "last"), states[2])
    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(forward(kind, "all"), np.concatenate(states, -1), **close)
    np.testing.assert_allclose(forward(kind, "2,0"), np.concatenate(states[::-2], -1), **close)
    np.testing.assert_allclose(forward(kind, "-2:"), (states[1] + states[2]) / 2, **close)


def test_another_kind_of_model_is_refused_with_those_that_are_known():
    with pytest.raises(UserError, match=r"bert/config.json: model_type is 'bert'; wanted wav2vec2"):
        open_encoder(f"{GOLDEN}/bert", {"wav2vec2": wav2vec2}, layers="last", dtype="float32")


def test_the_first_state_of_a_text_encoder_is_its_embeddings():
    """So that layers above it can be trained on what a pack keeps: no layer has touched it."""
    encoder = open_encoder(f"{GOLDEN}/bert", FAMILIES, layers="0", dtype="float32")
    ids, mask = INPUTS["bert"]
    swapped = ids[:, [1, 0, 2, 3, 4, 5]]
    a, b = encoder.forward(ids, mask), encoder.forward(swapped, mask)
    np.testing.assert_array_equal(a[:, 2:], b[:, 2:])
    assert jnp.any(a[:, :2] != b[:, :2])
