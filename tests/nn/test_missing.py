import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.nn.missing import rebuild_missing

pytestmark = pytest.mark.device


def rebuild(weights, latent, mask):
    return jnp.tanh(latent @ weights["kernel"]) * mask[..., None]


def make(rng, missing):
    weights = {"kernel": jnp.float32(rng.normal(size=(len(missing), 3, 3)))}
    latent = jnp.float32(rng.normal(size=(missing.shape[1], 4, 3)))
    mask = jnp.array(rng.random((missing.shape[1], 4)) > 0.3)
    return weights, latent, mask, jnp.array(missing)


MISSING = {
    "some": lambda rng: rng.random((2, 7)) > 0.5,
    "none": lambda rng: np.zeros((2, 7), bool),
    "all": lambda rng: np.ones((2, 7), bool),
    "one modality": lambda rng: np.arange(2)[:, None] * np.ones((2, 7)) > 0,
}


@pytest.mark.parametrize("size", [2, 7])
@pytest.mark.parametrize("which", MISSING)
def test_values_and_gradients_are_those_of_rebuilding_everything(rng, which, size):
    """Sizes that do not divide the batch make parts that overlap: nothing may count twice."""
    weights, latent, mask, missing = make(rng, MISSING[which](rng))
    weight = jnp.float32(rng.normal(size=(*missing.shape, 4, 3))) * missing[:, :, None, None]

    def by_parts(weights, latent):
        made = rebuild_missing(rebuild, size, weights, latent, mask, missing)
        return jnp.sum(made * weight), made

    def everything(weights, latent):
        made = jnp.stack(
            [rebuild({"kernel": kernel}, latent, mask) for kernel in weights["kernel"]]
        )
        return jnp.sum(made * weight), made

    def pull(f):
        return jax.value_and_grad(f, argnums=(0, 1), has_aux=True)

    (_, made), gradients = jax.jit(pull(by_parts))(weights, latent)
    (_, want), wanted = pull(everything)(weights, latent)
    np.testing.assert_allclose(made[missing], want[missing], atol=1e-6)
    assert np.isfinite(made).all()
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_runs_beside_each_other_are_runs_alone(rng):
    given = [make(rng, rng.random((2, 5)) > 0.5) for _ in range(3)]

    def gradient(weights, latent, mask, missing):
        def total(weights, latent):
            made = rebuild_missing(rebuild, 2, weights, latent, mask, missing)
            return jnp.sum(jnp.where(missing[:, :, None, None], made, 0) ** 2)

        return jax.grad(total, argnums=(0, 1))(weights, latent)

    beside = jax.jit(jax.vmap(gradient))(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *given))
    for k, one in enumerate(given):
        alone = gradient(*one)
        for a, b in zip(jax.tree.leaves(beside), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[k], b, atol=1e-6)


def test_what_is_not_missing_has_no_gradient(rng):
    weights, latent, mask, missing = make(rng, np.array([[True, False, False, True, False]] * 2))

    def total(latent):
        return jnp.sum(rebuild_missing(rebuild, 2, weights, latent, mask, missing))

    gradient = jax.grad(total)(latent)
    assert (gradient[np.array([1, 2, 4])] == 0).all() and (gradient[0] != 0).any()
