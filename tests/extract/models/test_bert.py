import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.extract.models.bert import Bert
from tests.extract.samples import variables

SHAPE = {
    "vocab_size": 50,
    "max_length": 12,
    "num_segments": 2,
    "features": 16,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_features": 24,
    "epsilon": 1e-12,
}
TINY = Bert(dtype=jnp.dtype("float32"), **SHAPE)


def inputs(rng):
    ids = jnp.int32(rng.integers(0, 50, size=(3, 9)))
    mask = jnp.arange(9)[None] < jnp.array([9, 4, 1])[:, None]
    return ids, mask


def test_padding_is_inert(rng):
    ids, mask = inputs(rng)
    params = variables(TINY, ids, mask)
    apply = jax.jit(TINY.apply)
    a = apply(params, ids, mask)[-1]
    b = apply(params, jnp.where(mask, ids, 7), mask)[-1]
    np.testing.assert_array_equal(a[mask], b[mask])
    alone = apply(params, ids[1:2, :4], mask[1:2, :4])[-1]
    np.testing.assert_allclose(a[1, :4], alone[0], atol=1e-6)


def test_a_row_of_padding_alone_is_finite(rng):
    ids, mask = inputs(rng)
    params = variables(TINY, ids, mask)
    assert np.isfinite(jax.jit(TINY.apply)(params, ids, jnp.zeros_like(mask))[-1]).all()


def test_bfloat16_stays_near_float32_and_returns_float32(rng):
    ids, mask = inputs(rng)
    params = variables(TINY, ids, mask)
    exact, rounded = (
        jax.jit(Bert(dtype=jnp.dtype(d), **SHAPE).apply)(params, ids, mask)[-1]
        for d in ("float32", "bfloat16")
    )
    assert rounded.dtype == jnp.float32
    error = np.linalg.norm((exact - rounded)[mask]) / np.linalg.norm(exact[mask])
    assert 1e-4 < error < 5e-2
