import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.extract.models import transformer, whisper
from cmarr_jax.extract.models.whisper import Whisper, log_mel, mel_filters
from tests.extract.samples import clip, parameters, variables

SHAPE = {
    "num_mels": 8,
    "num_positions": 20,
    "features": 16,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_features": 24,
    "activation": "gelu",
}
TINY = Whisper(dtype=jnp.dtype("float32"), **SHAPE)
PUBLISHED = Whisper(dtype=jnp.dtype("float32"), **SHAPE | {"num_positions": 1_500})


@pytest.mark.parametrize("num_mels", [80, 128])
def test_the_filters_are_those_of_transformers(num_mels):
    audio_utils = pytest.importorskip("transformers.audio_utils")
    wanted = audio_utils.mel_filter_bank(
        201, num_mels, 0.0, 8_000.0, 16_000, norm="slaney", mel_scale="slaney"
    )
    np.testing.assert_allclose(mel_filters(num_mels), wanted, rtol=1e-6, atol=1e-8)


def speech_like(seconds):
    """Loud and quiet parts, silence, and a slope of 60 dB over the spectrum."""
    n = round(seconds * 16_000)
    noise = np.cumsum(clip(3, n) - clip(3, n).mean())
    noise /= np.abs(noise).max()
    return (noise * (1 + np.sin(np.arange(n) / 3_000)) ** 4 / 32).astype(np.float32)


@pytest.mark.parametrize("num_mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.1, 4.5, 30.0])
def test_log_mel_of_a_window_is_that_of_transformers(num_mels, seconds):
    transformers = pytest.importorskip("transformers")
    samples = speech_like(seconds)
    extractor = transformers.WhisperFeatureExtractor(feature_size=num_mels)
    wanted = extractor(samples, sampling_rate=16_000, return_tensors="np")["input_features"]
    window = np.zeros((1, PUBLISHED.window), np.float32)
    window[0, : len(samples)] = samples
    ours = jax.jit(log_mel, static_argnums=1)(window, num_mels)[0].T
    assert ours.shape == wanted[0].shape == (num_mels, 3_000)
    assert np.abs(ours - wanted[0]).max() <= 1e-4
    assert (wanted.max() - wanted.min()) == pytest.approx(2, abs=1e-4)  # 8 decades, clamped


def test_a_window_is_thirty_seconds_and_a_frame_twenty_milliseconds():
    assert PUBLISHED.window == 480_000
    assert PUBLISHED.num_frames(480_000) == 1_500
    assert [PUBLISHED.num_frames(n) for n in (400, 640, 641, 16_000)] == [2, 2, 3, 50]
    assert PUBLISHED.num_frames(np.array([641])).tolist() == [3]


@pytest.mark.parametrize("width, layers, heads, mels, size", [
    (384, 4, 6, 80, 8_208_384),  # tiny
    (512, 6, 8, 80, 20_590_592),
    (768, 12, 12, 80, 88_154_112),  # small
    (1280, 32, 20, 128, 636_968_960),  # large-v3
])  # fmt: skip
def test_a_published_encoder_has_as_many_parameters_as_in_transformers(
    width, layers, heads, mels, size
):
    config = {
        "model_type": "whisper",
        "activation_function": "gelu",
        "d_model": width,
        "encoder_layers": layers,
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * width,
        "num_mel_bins": mels,
        "max_source_positions": 1_500,
    }
    module = whisper.from_config("", config, jnp.dtype("float32"))
    assert parameters(module, *whisper.tensors(module).inputs) == size


@pytest.mark.parametrize("frames", [499, 500])
def test_attention_is_numpys_below_and_above_the_length_where_heads_take_turns(rng, frames):
    query, key, value = rng.normal(size=(3, 2, frames, 3, 4)).astype(np.float32)
    mask = np.arange(frames)[None] < np.array([frames, 71])[:, None]
    got = jax.jit(transformer.attend)(query, key, value, mask)
    for row, head in ((0, 0), (1, 2)):
        q, k, v = (x[row, :, head].astype(np.float64) for x in (query, key, value))
        scores = np.where(mask[row][None], q @ k.T / 2, -np.inf)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        wanted = weights @ v / weights.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(got[row, :, head], wanted, atol=2e-6)


def test_a_clip_longer_than_a_window_is_its_windows_one_after_another(rng):
    samples = jnp.float32(rng.normal(size=(2, 3 * TINY.window)))
    lengths = jnp.array([3 * TINY.window, TINY.window + 500])
    params = variables(TINY, samples, lengths)
    apply = jax.jit(TINY.apply)
    states = apply(params, samples, lengths)
    assert len(states) == 3 and {x.shape for x in states} == {(2, 60, 16)}
    silent = samples.at[1, TINY.window + 500 :].set(0)
    for row in range(2):
        for k in range(3):
            part = silent[row : row + 1, k * TINY.window : (k + 1) * TINY.window]
            alone = apply(params, part, jnp.array([TINY.window]))
            for x, wanted in zip(states, alone, strict=True):
                got = x[row, 20 * k : 20 * (k + 1)]
                assert np.linalg.norm(got - wanted[0]) <= 1e-5 * np.linalg.norm(wanted[0])


def test_what_the_padding_holds_is_inert(rng):
    samples, lengths = jnp.float32(rng.normal(size=(1, TINY.window))), jnp.array([1_234])
    params = variables(TINY, samples, lengths)
    a, b = (TINY.apply(params, x, lengths) for x in (samples, samples.at[0, 1_234:].set(99.0)))
    np.testing.assert_array_equal(a, b)
