import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.nn.dropout import Dropout
from cmarr_jax.nn.utterance_encoders import LSTMEncoder, TextCNN

pytestmark = pytest.mark.device

LENGTHS = (1, 3, 7)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def ragged(rng, dim=5):
    mask = np.arange(7)[None] < np.array(LENGTHS)[:, None]
    return jnp.float32(rng.normal(size=(3, 7, dim))), jnp.array(mask)


@pytest.mark.parametrize("pool", ["max", "last"])
def test_lstm_equals_a_loop_over_valid_steps(rng, pool):
    """PyTorch's gate order and equations, each utterance alone and without its padding."""
    x, mask = ragged(rng)
    encoder = LSTMEncoder(4, pool)
    params = encoder.init(jax.random.key(0), x, mask)
    w = {k: np.asarray(v) for k, v in params["params"].items()}
    assert all(np.abs(v).max() <= 0.5 for v in w.values())  # uniform in 1 / sqrt(4)
    ours = encoder.apply(params, x, mask)
    for i, length in enumerate(LENGTHS):
        hidden, cell, steps = np.zeros(4), np.zeros(4), []
        for t in range(length):
            gates = np.asarray(x[i, t]) @ w["kernel"] + hidden @ w["recurrent_kernel"] + w["bias"]
            a, f, g, o = np.split(gates, 4)
            cell = sigmoid(f) * cell + sigmoid(a) * np.tanh(g)
            hidden = sigmoid(o) * np.tanh(cell)
            steps.append(hidden)
        want = steps[-1] if pool == "last" else np.max(steps, axis=0)
        np.testing.assert_allclose(ours[i], want, atol=1e-5)


def test_text_cnn_equals_a_loop_over_windows(rng):
    x, mask = ragged(rng)
    encoder = TextCNN(6, functools.partial(Dropout, 0.5))
    params = encoder.init(jax.random.key(0), x, mask)
    w = jax.tree.map(np.asarray, params["params"])
    ours = encoder.apply(params, x, mask)
    for i, length in enumerate(LENGTHS):
        pooled = []
        for size in (3, 4, 5):
            tokens = np.zeros((max(length, size), 5))
            tokens[:length] = x[i, :length]
            maps = [
                np.maximum(
                    tokens[t : t + size].ravel() @ w[f"kernel_{size}"] + w[f"bias_{size}"], 0
                )
                for t in range(len(tokens) - size + 1)
            ]
            pooled.append(np.max(maps, axis=0))
        dense = w["Dense_0"]
        want = np.maximum(np.concatenate(pooled) @ dense["kernel"] + dense["bias"], 0)
        np.testing.assert_allclose(ours[i], want, atol=1e-5)
