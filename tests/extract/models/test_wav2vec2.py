import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cmarr_jax.extract.models.wav2vec2 import MaskedGroupNorm, Wav2Vec2
from cmarr_jax.extract.models.wavlm import GatedPositions
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


LARGE = {"conv_norm": "layer", "pre_norm": True}
POSITIONS = GatedPositions(num_heads=2, num_buckets=8, max_distance=6)
KINDS = {
    kind: Wav2Vec2(conv_features=(4,) * 7, features=8, dtype=jnp.dtype("float32"), **BASE | fields)
    for kind, fields in {
        "base": {},
        "large": LARGE | {"conv_bias": True},
        "hubert": {"position_norm": "batch", "projection_norm": False},
        "data2vec": {"conv_norm": "layer", "position_norm": "layer", "position_convs": 3},
        "wavlm": {"attention_bias": POSITIONS},
        "wavlm-large": LARGE | {"attention_bias": POSITIONS},
    }.items()
}


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


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_inert_whatever_it_holds(rng, kind):
    module = KINDS[kind]
    samples = jnp.float32(rng.normal(size=(2, 3_000)))
    lengths = jnp.array([3_000, 1_700])
    params = variables(module, samples, lengths)
    zeros = samples.at[1, 1_700:].set(0)
    junk = samples.at[1, 1_700:].set(99.0)
    frames = module.num_frames(1_700)
    apply = jax.jit(module.apply)
    a, b = (apply(params, x, lengths) for x in (zeros, junk))
    alone = apply(params, samples[1:, :1_700], lengths[1:])
    for state, other, wanted in zip(a, b, alone, strict=True):
        np.testing.assert_array_equal(state[1, :frames], other[1, :frames])
        error = np.linalg.norm(state[1, :frames] - wanted[0])
        assert error <= 1e-5 * np.linalg.norm(wanted)


@pytest.mark.parametrize("kind", ["hubert", "data2vec", "wavlm-large"])
def test_gradients_are_finite_and_jit_changes_nothing(rng, kind):
    """So that a system may train the layers above a frozen front."""
    module = KINDS[kind]
    inputs = jnp.float32(rng.normal(size=(1, 1_400))), jnp.array([1_100])
    params = variables(module, *inputs)
    frames = module.num_frames(1_100)

    def loss(params):
        return sum(jnp.sum(x[:, :frames] ** 2) for x in module.apply(params, *inputs))

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, loss(params), rtol=1e-5)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all() and np.any(gradient), path


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
