import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.nn.dense import Dense, product

pytestmark = pytest.mark.device


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 1, 3, 4)])
def test_values_and_gradients_are_flaxs(rng, shape):
    x, weight = (jnp.float32(rng.normal(size=size)) for size in (shape, (*shape[:-1], 5)))
    params = nn.Dense(5).init(jax.random.key(0), x)

    def pull(layer):
        return jax.value_and_grad(
            lambda params, x: jnp.sum(weight * layer(5).apply(params, x)), argnums=(0, 1)
        )(params, x)

    assert jax.tree.structure(Dense(5).init(jax.random.key(0), x)) == jax.tree.structure(params)
    for ours, theirs in zip(
        jax.tree.leaves(pull(Dense)), jax.tree.leaves(pull(nn.Dense)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_kernels_gradient_sums_over_one_dimension(rng):
    """Two, utterances and time, are what XLA:CPU is slow at."""
    x, kernel = jnp.zeros((2, 3, 4)), jnp.zeros((4, 5))
    jaxpr = jax.make_jaxpr(jax.grad(lambda k: jnp.sum(product(x, k) ** 2)))(kernel)
    contracted = [
        e.params["dimension_numbers"][0][0] for e in jaxpr.eqns if "dot" in str(e.primitive)
    ]
    assert contracted and all(len(axes) == 1 for axes in contracted)
