import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.extract.models import transformer
from cmarr_jax.extract.models.transformer import Layer, attend
from tests.extract.samples import variables

F32 = jnp.dtype("float32")
LAYER = functools.partial(Layer, 2, 16, 1e-5, F32, pre_norm=True, activation="relu")


def keys(rows, heads, seed=0):
    return jax.random.split(jax.random.key(seed), (rows, heads))


@pytest.fixture(params=["all at once", "a head at a time"])
def path(request, monkeypatch):
    monkeypatch.setattr(transformer, "_LONG", 1 if "time" in request.param else 10**9)


def softmax(rng, frames, mask):
    """Queries and keys, and NumPy's weights of them, `[B, H, T, T]`."""
    query, key = rng.normal(size=(2, len(mask), frames, 3, frames)).astype(np.float32)
    scores = np.einsum("bqhd,bkhd->bhqk", query, key, dtype=np.float64) / frames**0.5
    weights = np.exp(np.where(mask[:, None, None], scores, -np.inf))
    return query, key, weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.usefixtures("path")
def test_dropout_zeroes_weights_after_the_softmax_and_scales_the_others(rng):
    """Against values that are the unit vectors, attention gives its own weights."""
    frames, mask = 64, np.arange(64)[None] < np.array([64, 50])[:, None]
    query, key, wanted = softmax(rng, frames, mask)
    value = np.broadcast_to(np.eye(frames, dtype=np.float32)[None, :, None], query.shape)
    got = jax.jit(attend, static_argnums=6)(
        query, key, value, mask, None, None, 0.25, keys(2, 3)
    ).transpose(0, 2, 1, 3)
    dropped = np.asarray(got) == 0
    np.testing.assert_allclose(got, np.where(dropped, 0, wanted / 0.75), atol=2e-6)
    assert dropped[1, ..., 50:].all()
    rates = [dropped[0].mean(axis=(1, 2)), dropped[1, ..., :50].mean(axis=(1, 2))]
    np.testing.assert_allclose(rates, 0.25, atol=0.03)
    heads = [*dropped[0], *dropped[1]]
    assert all((a != b)[:, :50].mean() > 0.3 for a, b in itertools.pairwise(heads))


def test_a_head_at_a_time_drops_the_same_and_has_the_same_gradient(rng, monkeypatch):
    mask = np.arange(9)[None] < np.array([9, 5])[:, None]
    inputs = tuple(jnp.float32(rng.normal(size=(3, 2, 9, 3, 4))))
    aim = jnp.float32(rng.normal(size=(2, 9, 3, 4)))

    def loss(inputs):
        return jnp.sum(attend(*inputs, mask, None, None, 0.5, keys(2, 3)) * aim)

    found = []
    for longest in (10**9, 1):
        monkeypatch.setattr(transformer, "_LONG", longest)
        found.append(jax.jit(jax.value_and_grad(lambda x: loss(x)))(inputs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *found)
    assert "scan" in str(jax.make_jaxpr(lambda x: loss(x))(inputs))


def branches(rates, params):
    """What a layer adds to its input if each branch gives 1, `[8, 400, 16]`."""
    x = jnp.zeros((8, 400, 16))
    layer = LAYER(**rates)
    mask = jnp.ones((8, 400), bool)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x, mask)["params"]
    filled = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)
    for module, leaf, value in params:
        filled[module][leaf] = jnp.broadcast_to(value, filled[module][leaf].shape)
    rngs = {"dropout": jax.random.key(0)}
    return np.asarray(layer.apply({"params": filled}, x, mask, rngs=rngs))


OUT = [("out", "bias", 1.0)]
CONTRACT = [("contract", "bias", 1.0)]
EXPAND = [("expand", "bias", 1.0), ("contract", "kernel", jnp.eye(16))]


@pytest.mark.parametrize("rates, params, rate", [
    ({"hidden_dropout": 0.25}, OUT, 0.25),
    ({"hidden_dropout": 0.25, "drop_attended": False}, OUT, 0),
    ({"hidden_dropout": 0.25}, CONTRACT, 0.25),
    ({"hidden_dropout": 0.25, "drop_attended": False}, CONTRACT, 0.25),
    ({"activation_dropout": 0.25}, EXPAND, 0.25),
    ({"activation_dropout": 0.25}, CONTRACT, 0),
    ({"attention_dropout": 0.25}, OUT, 0),
])  # fmt: skip
def test_a_branch_is_dropped_where_it_is_published(rates, params, rate):
    added = branches(rates, params)
    assert (added == 0).mean() == pytest.approx(rate, abs=0.01)
    np.testing.assert_allclose(added[added != 0], 1 / (1 - rate), rtol=1e-6)


def test_without_an_rng_no_rate_changes_a_bit(rng):
    x, mask = jnp.float32(rng.normal(size=(2, 5, 16))), jnp.ones((2, 5), bool)
    params = variables(LAYER(), x, mask)
    rates = {"hidden_dropout": 0.5, "attention_dropout": 0.5, "activation_dropout": 0.5}
    plain, dropping = (LAYER(**given).apply(params, x, mask) for given in ({}, rates))
    np.testing.assert_array_equal(plain, dropping)
    rngs = {"dropout": jax.random.key(0)}
    np.testing.assert_array_equal(plain, LAYER().apply(params, x, mask, rngs=rngs))
    assert not np.allclose(plain, LAYER(**rates).apply(params, x, mask, rngs=rngs), atol=0.1)


@pytest.mark.parametrize("rate", ["hidden_dropout", "attention_dropout", "activation_dropout"])
@pytest.mark.usefixtures("path")
def test_a_batch_cut_over_two_devices_drops_the_same(rng, rate):
    x = jnp.float32(rng.normal(size=(4, 5, 16)))
    mask = jnp.arange(5)[None] < jnp.array([5, 2, 4, 5])[:, None]
    params = variables(LAYER(), x, mask)

    def run(params, x, mask, axis=None):
        layer = LAYER(**{rate: 0.5}, batch_axis=axis)
        return layer.apply(params, x, mask, rngs={"dropout": jax.random.key(3)})

    cut = jax.pmap(functools.partial(run, axis="d"), axis_name="d", in_axes=(None, 0, 0))
    halves = cut(params, x.reshape(2, 2, 5, 16), mask.reshape(2, 2, 5)).reshape(x.shape)
    np.testing.assert_allclose(halves, run(params, x, mask), atol=2e-5)
    assert not np.allclose(halves, LAYER().apply(params, x, mask), atol=0.1)
