import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.nn.dropout import Dropout

pytestmark = pytest.mark.device


def drop(x, rate, key=0, axis=None):
    return Dropout(rate, axis).apply({}, x, rngs={"dropout": jax.random.key(key)})


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_rate_and_mean(rate):
    dropped = drop(jnp.ones((400, 251)), rate)
    assert abs(float((dropped == 0).mean()) - rate) < 0.01
    assert abs(float(dropped.mean()) - 1) < 0.01


def test_is_the_identity_without_an_rng_or_a_rate():
    x = jnp.ones((4, 4))
    assert (Dropout(0.5).apply({}, x) == x).all()
    assert (drop(x, 0.0) == x).all()


def test_cut_over_two_devices_it_draws_the_same_mask():
    x = jnp.ones((8, 3, 5))
    cut = jax.pmap(lambda part: drop(part, 0.3, axis="devices"), axis_name="devices")
    np.testing.assert_array_equal(cut(x.reshape(2, 4, 3, 5)).reshape(x.shape), drop(x, 0.3))


def test_a_traced_rate_takes_the_attributes_place():
    x = jnp.float32(np.random.default_rng(0).normal(size=(40, 50)))
    rng = {"dropout": jax.random.key(0)}
    traced = jax.jit(lambda x, rate: Dropout(0.9).apply({}, x, rate, rngs=rng))
    for rate in (0.0, 0.1, 0.3):
        np.testing.assert_array_equal(traced(x, rate), drop(x, rate))
