import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.nn.dropout import Dropout
from cmarr_jax.nn.umc import UMC, Gaussian, GaussianPooling, masked_mean

pytestmark = pytest.mark.device


def make(heads=4, variant="pde", rate=0.0):
    return UMC(variant, heads, 4, (-7.0, 4.0), functools.partial(Dropout, rate))


@pytest.mark.parametrize(
    "width, heads, want", [(768, 12, 12_400_896), (256, 8, 1_381_120), (128, 8, 346_496)]
)
def test_parameter_count_equals_maps(width, heads, want):
    """MAP's PDE has the same count in PyTorch: no recurrent biases are involved."""
    x, mask = jnp.zeros((1, 2, width)), jnp.ones((1, 2), bool)
    shapes = jax.eval_shape(make(heads).init, jax.random.key(0), x, mask)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == want


@pytest.mark.parametrize("variant", ["pde", "mlp"])
def test_the_mean_is_the_input_at_zero_weights(rng, variant):
    x, mask = jnp.float32(rng.normal(size=(2, 3, 16))), jnp.ones((2, 3), bool)
    params = make(variant=variant).init(jax.random.key(0), x, mask)
    gaussian = make(variant=variant).apply(jax.tree.map(jnp.zeros_like, params), x, mask)
    np.testing.assert_array_equal(gaussian.mu, x)
    np.testing.assert_array_equal(gaussian.log_sigma, jnp.zeros_like(x))


def test_equals_maps_formula_in_numpy(rng):
    """mu = x + Wo att[:half], + MLP(LN(mu)); log_sigma the same without the residual from x."""
    from scipy.special import erf, softmax

    x = rng.normal(size=(2, 5, 16))
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    params = make().init(jax.random.key(0), jnp.float32(x), jnp.array(mask))["params"]
    params = jax.tree.map(lambda p: np.asarray(p) + 0.3 * rng.normal(size=p.shape), params)
    ours = make().apply({"params": jax.tree.map(jnp.float32, params)}, jnp.float32(x), mask)

    def dense(name, y):
        return y @ params[name]["kernel"] + params[name].get("bias", 0)

    def norm(name, y):
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
        return y * params[name]["scale"] + params[name]["bias"]

    def gelu(y):
        return 0.5 * y * (1 + erf(y / np.sqrt(2)))

    def mlp(name, y):
        p = params[name]
        hidden = gelu(y @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"])
        return hidden @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"]

    hidden = norm("LayerNorm_0", gelu(dense("Dense_0", x)))
    qkv = dense("Dense_1", hidden).reshape(2, 5, 3, 4, 4)
    scores = np.einsum("bqhd,bkhd->bhqk", qkv[:, :, 0], qkv[:, :, 1]) / 2
    weights = softmax(np.where(mask[:, None, None], scores, -1e9), axis=-1)
    mixed = np.einsum("bhqk,bkhd->bqhd", weights, qkv[:, :, 2]).reshape(2, 5, 16)
    mu = x + dense("Dense_2", mixed[..., :8])
    log_sigma = dense("Dense_3", mixed[..., 8:])
    mu = mu + mlp("FeedForward_0", norm("LayerNorm_1", mu))
    log_sigma = log_sigma + mlp("FeedForward_1", norm("LayerNorm_2", log_sigma))
    np.testing.assert_allclose(ours.mu, mu, atol=2e-4)
    np.testing.assert_allclose(ours.log_sigma, np.clip(log_sigma, -7, 4), atol=2e-4)


def test_padding_is_inert(rng):
    x, mask = rng.normal(size=(2, 6, 16)), np.arange(6)[None] < np.array([[6], [4]])
    params = make().init(jax.random.key(0), jnp.float32(x), jnp.array(mask))
    other = np.where(mask[..., None], x, 1e3)
    a = make().apply(params, jnp.float32(x), jnp.array(mask))
    b = make().apply(params, jnp.float32(other), jnp.array(mask))
    np.testing.assert_array_equal(a.mu[mask], b.mu[mask])
    np.testing.assert_array_equal(a.log_sigma[mask], b.log_sigma[mask])


@pytest.mark.parametrize("kind", ["mean", "first", "attn"])
def test_pooling_sees_valid_positions_only(rng, kind):
    tokens = rng.normal(size=(2, 6, 4))
    mask = np.arange(6)[None] < np.array([[6], [3]])
    pooling = GaussianPooling(kind)

    def pool(values):
        g = Gaussian(jnp.float32(values), jnp.float32(2 * values))
        params = pooling.init(jax.random.key(0), g, jnp.array(mask))
        return pooling.apply(params, g, jnp.array(mask))

    pooled, other = pool(tokens), pool(np.where(mask[..., None], tokens, 7.0))
    np.testing.assert_allclose(pooled.mu, other.mu, rtol=1e-6)
    if kind != "first":
        want = [tokens[0].mean(0), tokens[1, :3].mean(0)]  # attn starts uniform
        np.testing.assert_allclose(pooled.mu, want, rtol=1e-5, atol=1e-6)


def test_masked_mean_of_nothing_is_zero():
    assert (masked_mean(jnp.ones((2, 3, 4)), jnp.zeros((2, 3), bool)) == 0).all()


def test_without_bounds_the_deviation_is_what_the_encoder_gives(rng):
    x, mask = jnp.float32(rng.normal(size=(2, 3, 16))), jnp.ones((2, 3), bool)
    params = make().init(jax.random.key(0), x, mask)
    params = jax.tree.map(lambda p: p + np.float32(2 * rng.normal(size=p.shape)), params)
    free = UMC("pde", 4, 4, (), functools.partial(Dropout, 0.0)).apply(params, x, mask)
    kept = make().apply(params, x, mask)
    assert free.log_sigma.max() > 4 and free.log_sigma.min() < -7
    np.testing.assert_array_equal(kept.log_sigma, np.clip(free.log_sigma, -7, 4))
    np.testing.assert_array_equal(kept.mu, free.mu)
