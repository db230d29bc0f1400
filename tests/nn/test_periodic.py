import functools

import jax
import numpy as np
import pytest

from cmarr_jax.nn.dropout import Dropout
from cmarr_jax.nn.periodic import Head

pytestmark = pytest.mark.device


def test_it_begins_as_a_gaussian_kernel_and_says_nothing(rng):
    head = Head(20_000, 4, functools.partial(Dropout, 0.0), True)
    x = rng.normal(size=(5, 8)).astype(np.float32)
    params = head.init(jax.random.key(0), x)
    assert (head.apply(params, x) == 0).all()
    frequencies, phases = (np.asarray(params["params"][n]) for n in ("frequencies", "phases"))
    hidden = np.sqrt(2) * np.cos(x @ frequencies + phases)
    distances = np.sum((x[:, None] - x[None]) ** 2, axis=-1)
    np.testing.assert_allclose(hidden @ hidden.T / 20_000, np.exp(-distances / 8), atol=0.03)
    params["params"]["classifier"]["kernel"] = rng.normal(size=(20_000, 4)).astype(np.float32)
    want = hidden @ params["params"]["classifier"]["kernel"]
    np.testing.assert_allclose(head.apply(params, x), want, rtol=1e-3, atol=1e-2)


def test_otherwise_it_is_an_ordinary_layer(rng):
    head = Head(6, 3, functools.partial(Dropout, 0.0), False)
    x = rng.normal(size=(5, 8)).astype(np.float32)
    params = head.init(jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    hidden, out = (params["params"][name] for name in ("hidden", "classifier"))
    want = np.maximum(x @ hidden["kernel"] + hidden["bias"], 0) @ out["kernel"] + out["bias"]
    np.testing.assert_allclose(head.apply(params, x), want, rtol=1e-4, atol=1e-4)
