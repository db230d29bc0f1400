"""Statistics of the hash PRNG, and its keys under jax.random and vmap."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from cmarr_jax.training import prng


def make(seed=0):
    return prng.key(jax.random.key_data(jax.random.key(seed)))


def test_uniforms_are_uniform_and_uncorrelated():
    draws = np.asarray(jax.random.uniform(make(), (200_000,)))
    assert stats.kstest(draws, "uniform").pvalue > 0.001
    for lag in (1, 2, 64, 1000):
        assert abs(np.corrcoef(draws[lag:], draws[:-lag])[0, 1]) < 0.01


def test_every_bit_is_fair_and_every_byte_too():
    words = np.asarray(jax.random.bits(make(), (100_000,), "uint32"))
    share = np.unpackbits(words.view(np.uint8)).reshape(-1, 32).mean(axis=0)
    assert np.abs(share - 0.5).max() < 0.01
    counts = np.bincount(words.view(np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > 0.001


def test_neighbouring_keys_and_steps_are_independent():
    streams = [make(0), make(1)] + [jax.random.fold_in(make(0), i) for i in range(6)]
    streams += list(jax.random.split(make(0), 4))
    draws = np.stack([jax.random.normal(k, (50_000,)) for k in streams])
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 0.02


def test_vmapped_keys_draw_what_each_draws_alone():
    keys = jax.random.split(make(), 3)
    together = jax.vmap(lambda k: jax.random.normal(k, (5,)))(keys)
    for k, row in zip(keys, together, strict=True):
        np.testing.assert_array_equal(row, jax.random.normal(k, (5,)))
    assert len(np.unique(jnp.round(together, 6))) == 15
