import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.nn import reversible
from cmarr_jax.nn.flows import RealNVP

pytestmark = pytest.mark.device


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("permute", ["swap", "none"])
def test_values_and_gradients_are_those_of_plain_differentiation(rng, permute, inverse):
    flow = RealNVP(8, 4, 16, permute=permute)
    x = jnp.float32(rng.normal(size=(5, 7, 8)))
    params = flow.init(jax.random.key(0), x, method="forward_and_log_det")
    params = jax.tree.map(lambda p: jnp.float32(p + 0.15 * rng.normal(size=p.shape)), params)

    def plain(params, x):
        if inverse:
            z = flow.apply(params, x, method="inverse")
            return z, -flow.apply(params, z, method="forward_and_log_det")[1]
        return flow.apply(params, x, method="forward_and_log_det")

    def recomputed(params, x):
        return reversible.chain(flow._coupling, inverse, x, params["params"])

    def loss(run):
        def summed(params, x):
            z, log_det = run(params, x)
            return jnp.sum(jnp.sin(z)) + jnp.sum(jnp.cos(log_det)), (z, log_det)

        return jax.jit(jax.value_and_grad(summed, argnums=(0, 1), has_aux=True))

    (_, values), gradients = loss(recomputed)(params, x)
    (_, wanted), wanted_gradients = loss(plain)(params, x)
    for ours, theirs in zip(
        jax.tree.leaves((values, gradients)),
        jax.tree.leaves((wanted, wanted_gradients)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(gradients))


def test_the_backward_pass_keeps_the_result_and_no_activations(rng):
    """What autodiff would keep for each layer is what `jax.vjp`'s pullback holds."""
    flow = RealNVP(8, 4, 16)
    x = jnp.float32(rng.normal(size=(64, 8)))
    params = flow.init(jax.random.key(0), x, method="forward_and_log_det")["params"]

    def held(run):
        pull = jax.eval_shape(lambda x: jax.vjp(run, x)[1], x)
        return sum(leaf.size for leaf in jax.tree.leaves(pull))

    def plain(x):
        return flow.apply({"params": params}, x, method="forward_and_log_det")

    recomputed = held(lambda x: reversible.chain(flow._coupling, False, x, params))
    assert recomputed <= x.size + sum(p.size for p in params.values())
    assert held(plain) > 4 * 64 * (16 + 16)  # the nets' hidden layers at least
