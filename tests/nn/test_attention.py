import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.nn.attention import AttentionBlock, attend
from cmarr_jax.nn.dropout import Dropout

pytestmark = pytest.mark.device


def test_attend_equals_flax(rng):
    q, k, v = jnp.float32(rng.normal(size=(3, 2, 5, 4, 8)))
    mask = np.arange(5)[None] < np.array([[5], [2]])
    want = nn.dot_product_attention(q, k, v, mask=jnp.array(mask[:, None, None]))
    np.testing.assert_allclose(attend(q, k, v, jnp.array(mask)), want, atol=1e-5)


def test_block_ignores_padded_keys_and_tells_context_from_self(rng):
    x, context = rng.normal(size=(2, 2, 5, 16))
    mask = np.arange(5)[None] < np.array([[5], [3]])
    block = AttentionBlock(4, functools.partial(Dropout, 0.0))
    params = block.init(jax.random.key(0), jnp.float32(x), jnp.array(mask), jnp.float32(context))

    def apply(context):
        return block.apply(params, jnp.float32(x), jnp.array(mask), jnp.float32(context))

    poisoned = np.where(mask[..., None], context, 1e3)
    np.testing.assert_array_equal(apply(context), apply(poisoned))
    assert np.abs(apply(context) - apply(2 * rng.normal(size=context.shape))).max() > 1e-3


def test_no_valid_key_gives_no_nan(rng):
    q = jnp.float32(rng.normal(size=(1, 3, 2, 4)))
    out = attend(q, q, q, jnp.zeros((1, 3), bool))
    np.testing.assert_allclose(out, jnp.broadcast_to(q.mean(1, keepdims=True), q.shape), atol=1e-6)
