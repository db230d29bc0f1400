import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.nn.flows import PERMUTATIONS, RealNVP

pytestmark = pytest.mark.device

VARIANTS = [("tanh", "swap"), ("sigmoid", "swap"), ("sigmoid", "none"), ("tanh", "glow")]


def make(scale, permute, features=8, layers=4, seed=0):
    flow = RealNVP(features, layers, 16, scale, permute)
    params = flow.init(jax.random.key(seed), jnp.zeros((1, features)), method="forward_and_log_det")
    noise = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda p: jnp.float32(p + 0.15 * noise.normal(size=p.shape)), params
    )  # away from the identity
    return flow, params


@pytest.mark.parametrize("scale, permute", VARIANTS)
def test_round_trip(rng, scale, permute):
    flow, params = make(scale, permute)
    x = jnp.float32(rng.normal(size=(5, 7, 8)))
    z, _ = flow.apply(params, x, method="forward_and_log_det")
    assert np.abs(z - x).max() > 0.1
    back = flow.apply(params, z, method="inverse")
    assert np.abs(back - x).max() < 1e-4


@pytest.mark.parametrize("scale, permute", VARIANTS)
def test_log_det_equals_the_jacobians(rng, scale, permute):
    flow, params = make(scale, permute)

    def forward(x):
        return flow.apply(params, x[None], method="forward_and_log_det")[0][0]

    for x in jnp.float32(rng.normal(size=(4, 8))):
        _, log_det = flow.apply(params, x[None], method="forward_and_log_det")
        _, want = jnp.linalg.slogdet(jax.jacfwd(forward)(x))
        np.testing.assert_allclose(log_det[0], want, atol=1e-5)


def test_equals_a_hand_written_chain(rng):
    flow, params = make("tanh", "swap")
    w = jax.tree.map(np.asarray, params["params"])
    x = rng.normal(size=(6, 8))
    want, log_det = x, np.zeros(6)
    for k in range(4):
        a, b = want[:, :4], want[:, 4:]
        h = np.maximum(a @ w["kernel_0"][k] + w["bias_0"][k], 0)
        h = np.maximum(h @ w["kernel_1"][k] + w["bias_1"][k], 0)
        shift, raw = np.split(h @ w["kernel_2"][k] + w["bias_2"][k], 2, axis=-1)
        log_scale = 2 * np.tanh(raw / 2)
        want = np.concatenate([b * np.exp(log_scale) + shift, a], axis=-1)
        log_det += log_scale.sum(axis=-1)
    ours, ours_log_det = flow.apply(params, jnp.float32(x), method="forward_and_log_det")
    np.testing.assert_allclose(ours, want, atol=1e-5)
    np.testing.assert_allclose(ours_log_det, log_det, atol=1e-5)


@pytest.mark.parametrize("permute", PERMUTATIONS)
def test_starts_at_the_identity(rng, permute):
    flow = RealNVP(8, 4, 16, permute=permute)
    x = jnp.float32(rng.normal(size=(3, 8)))
    params = flow.init(jax.random.key(0), x, method="forward_and_log_det")
    z, log_det = flow.apply(params, x, method="forward_and_log_det")
    np.testing.assert_array_equal(z, x)
    np.testing.assert_array_equal(log_det, 0)


def test_dicmors_variant_passes_the_first_half_and_starts_at_its_scale(rng):
    """32 couplings without permutation scale the other half by sigmoid(2)^32 = 0.0172."""
    flow = RealNVP(8, 32, 64, "sigmoid", "none")
    x = jnp.float32(rng.normal(size=(3, 8)))
    params = flow.init(jax.random.key(0), x, method="forward_and_log_det")
    z, _ = flow.apply(params, x, method="forward_and_log_det")
    np.testing.assert_array_equal(z[:, :4], x[:, :4])
    np.testing.assert_allclose(z[:, 4:] / x[:, 4:], 0.0172, atol=1e-4)


def test_glows_step_is_its_two_factors_and_its_shift(rng):
    """One layer whose coupling is still the identity: z = W (swapped x + shift), W = L U."""
    flow = RealNVP(4, 1, 8, permute="glow")
    x = rng.normal(size=(3, 4)).astype(np.float32)
    params = flow.init(jax.random.key(0), x, method="forward_and_log_det")
    shift, log_scale, factors = (rng.normal(size=s) for s in ((1, 4), (1, 4), (1, 4, 4)))
    w = dict(params["params"], shift=shift, log_scale=log_scale, factors=factors)
    params = {"params": jax.tree.map(jnp.float32, w)}
    lower = np.tril(factors[0], -1) + np.eye(4)
    upper = np.triu(factors[0], 1) + np.diag(np.exp(log_scale[0]))
    z, log_det = flow.apply(params, x, method="forward_and_log_det")
    swapped = np.concatenate([x[:, 2:], x[:, :2]], axis=1)
    np.testing.assert_allclose(z, (swapped + shift) @ (lower @ upper).T, rtol=1e-4)
    np.testing.assert_allclose(log_det, np.full(3, log_scale.sum()), rtol=1e-5)


def test_gradients_are_finite_and_jit_changes_nothing(rng):
    flow, params = make("tanh", "swap")
    x = jnp.float32(rng.normal(size=(5, 8)))

    def nll(params):
        z, log_det = flow.apply(params, x, method="forward_and_log_det")
        return jnp.mean(jnp.sum(z**2, -1) - log_det)

    plain, compiled = jax.grad(nll)(params), jax.jit(jax.grad(nll))(params)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(compiled), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
