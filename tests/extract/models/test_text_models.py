"""What every text encoder must keep, on tiny ones with random parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.extract.models.bert import Bert
from cmarr_jax.extract.models.deberta import Deberta
from cmarr_jax.extract.models.mpnet import MPNet
from tests.extract.samples import variables

SHAPE = {
    "vocab_size": 50,
    "num_positions": 16,
    "features": 16,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_features": 24,
    "epsilon": 1e-12,
}
V3 = {
    "num_segments": 0,
    "activation": "gelu",
    "absolute": False,
    "embedding_features": 16,
    "buckets": 4,
    "max_distance": 16,
    "norm_distances": True,
    "shared": True,
    "kernel": 0,
    "kernel_activation": "tanh",
}
V2 = {"buckets": 0, "norm_distances": False, "shared": False, "kernel": 3, "absolute": True}
MODULES = {
    "bert": functools.partial(Bert, num_segments=2, **SHAPE),
    "roberta": functools.partial(Bert, num_segments=1, padding=1, **SHAPE),
    "distilbert": functools.partial(Bert, num_segments=0, **SHAPE),
    "mpnet": functools.partial(MPNet, **SHAPE),
    "deberta": functools.partial(Deberta, **SHAPE, **V3),
    "deberta-v2-xlarge": functools.partial(
        Deberta, **SHAPE, **V3 | V2 | {"num_segments": 2, "embedding_features": 12}
    ),
}
F32 = jnp.dtype("float32")


@pytest.fixture(params=MODULES)
def kind(request):
    return request.param


@functools.cache
def ready(kind):
    """A module, its variables, ids and a mask."""
    rng = np.random.default_rng(0)
    ids = jnp.int32(rng.integers(2, 50, size=(3, 9)))
    mask = jnp.arange(9)[None] < jnp.array([9, 4, 2])[:, None]
    module = MODULES[kind](dtype=F32)
    params = variables(module, ids, mask)
    return jax.jit(module.apply), module, params, ids, mask


def test_padding_is_inert_and_a_batch_equals_each_text_alone(kind):
    apply, _, params, ids, mask = ready(kind)
    states = apply(params, ids, mask)
    other = apply(params, jnp.where(mask, ids, 7), mask)
    padded = apply(params, jnp.where(mask, ids, 1), mask)
    alone = apply(params, ids[1:2, :4], mask[1:2, :4])
    assert len(states) == 3
    for a, b, c, d in zip(states, other, padded, alone, strict=True):
        np.testing.assert_array_equal(a[mask], b[mask])
        np.testing.assert_array_equal(a[mask], c[mask])
        np.testing.assert_allclose(a[1, :4], d[0], atol=2e-6)


@pytest.mark.parametrize("kind", ["roberta", "mpnet", "deberta", "deberta-v2-xlarge"])
def test_compiled_or_not_the_numbers_are_the_same(kind):
    apply, module, params, ids, mask = ready(kind)
    for a, b in zip(apply(params, ids, mask), module.apply(params, ids, mask), strict=True):
        np.testing.assert_allclose(a[mask], b[mask], atol=5e-6)


def test_a_row_of_padding_alone_is_finite(kind):
    apply, _, params, ids, mask = ready(kind)
    assert all(np.isfinite(x).all() for x in apply(params, ids, jnp.zeros_like(mask)))


def test_every_token_and_its_place_count(kind):
    """Of the first text's last state: the value of a token, and the order of two others."""
    apply, _, params, ids, mask = ready(kind)
    last = apply(params, ids, mask)[-1][0]
    swapped = apply(params, ids.at[0, 5:7].set(ids[0, 5:7][::-1]), mask)[-1][0]
    changed = apply(params, ids.at[0, 8].set(3), mask)[-1][0]
    assert ids[0, 5] != ids[0, 6] and ids[0, 8] != 3
    assert jnp.all(jnp.abs(last - swapped).max(axis=1) > 1e-4)
    assert jnp.all(jnp.abs(last - changed).max(axis=1) > 1e-4)


def test_bfloat16_stays_near_float32_and_returns_float32(kind):
    apply, _, params, ids, mask = ready(kind)
    exact = apply(params, ids, mask)
    rounded = jax.jit(MODULES[kind](dtype=jnp.dtype("bfloat16")).apply)(params, ids, mask)
    assert {x.dtype for x in rounded} == {F32}
    error = np.linalg.norm((exact[-1] - rounded[-1])[mask]) / np.linalg.norm(exact[-1][mask])
    assert 1e-4 < error < 5e-2
