import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cmarr_jax.extract.models.wav2vec2 import MaskedGroupNorm, Wav2Vec2
from tests.extract.samples import variables

BASE = {
    "conv_kernels": (10, 3, 3, 3, 3, 2, 2),
    "conv_strides": (5, 2, 2, 2, 2, 2, 2),
    "conv_bias": False,
    "hidden_features": 24,
    "num_layers": 1,
    "num_heads": 2,
    "position_kernel": 16,
    "position_groups": 2,
    "epsilon": 1e-5,
}
TINY = Wav2Vec2(conv_features=(4,) * 7, features=8, dtype=jnp.dtype("float32"), **BASE)


@pytest.mark.parametrize(
    "samples, frames",
    [(399, 0), (400, 1), (719, 1), (720, 2), (16_000, 49), (50_000, 156), (72_000, 224), (3, 0)],
)
def test_frames_by_formula(samples, frames):
    assert TINY.num_frames(samples) == frames
    assert TINY.num_frames(np.array([samples])).tolist() == [frames]


@pytest.mark.parametrize("samples", [400, 719, 720, 1_039, 1_040, 5_003])
def test_the_formula_is_what_the_convolutions_give(samples):
    inputs = jnp.zeros((1, samples)), jnp.full(1, samples)
    states, _ = jax.eval_shape(TINY.init_with_output, jax.random.key(0), *inputs)
    assert {x.shape for x in states} == {(1, TINY.num_frames(samples), 8)}


def test_receptive_field_of_the_base_model():
    assert TINY.receptive_field == 400


def test_what_the_padding_holds_is_inert(rng):
    samples = jnp.float32(rng.normal(size=(2, 3_000)))
    lengths = jnp.array([3_000, 1_700])
    params = variables(TINY, samples, lengths)
    zeros = samples.at[1, 1_700:].set(0)
    junk = samples.at[1, 1_700:].set(99.0)
    frames = TINY.num_frames(1_700)
    apply = jax.jit(TINY.apply)
    a, b = (apply(params, x, lengths)[-1][1, :frames] for x in (zeros, junk))
    np.testing.assert_array_equal(a, b)


def test_masked_group_norm_is_flax_group_norm_on_the_valid_part(rng):
    x = jnp.float32(3 + 2 * rng.normal(size=(2, 9, 4)))
    lengths = jnp.array([9, 5])
    params = {"scale": jnp.float32(rng.normal(size=4)), "bias": jnp.float32(rng.normal(size=4))}
    ours = jax.jit(MaskedGroupNorm().apply)({"params": params}, x, lengths)
    reference = nn.GroupNorm(num_groups=4, epsilon=1e-5)
    for row, length in enumerate(lengths.tolist()):
        alone = reference.apply({"params": params}, x[row : row + 1, :length])
        np.testing.assert_allclose(ours[row, :length], alone[0], atol=2e-6)


def test_bfloat16_stays_near_float32_and_returns_float32(rng):
    samples, lengths = jnp.float32(rng.normal(size=(2, 3_000))), jnp.array([3_000, 3_000])
    params = variables(TINY, samples, lengths)
    half = Wav2Vec2(conv_features=(4,) * 7, features=8, dtype=jnp.dtype("bfloat16"), **BASE)
    exact, rounded = (jax.jit(m.apply)(params, samples, lengths)[-1] for m in (TINY, half))
    assert rounded.dtype == jnp.float32
    error = np.linalg.norm(exact - rounded) / np.linalg.norm(exact)
    assert 1e-4 < error < 5e-2
