"""Whisper's encoder (Radford et al., 2022, arXiv:2212.04356): waveform to frame vectors.

It sees windows of one length alone, 30 s in every published model: a clip is padded with silence
to whole windows, each encoded by itself, and the frames of the silence are cut off again. The
decoder is left out.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract.models.config import rate
from cmarr_jax.extract.models.tensors import Tensors
from cmarr_jax.extract.models.transformer import ACTIVATIONS, run_layers
from cmarr_jax.nn.gelu import gelu

_RATE = 16_000  # Hz
_FOURIER = 400  # samples of a spectrum
_HOP = 160  # samples from one spectrum to the next; the encoder keeps every second
_EPSILON = 1e-5  # PyTorch's, of the LayerNorms; the configuration does not hold it
_MODULES = {
    "conv_0": "encoder.conv1",
    "conv_1": "encoder.conv2",
    "positions": "encoder.embed_positions",
    "norm": "encoder.layer_norm",
}
_LAYER = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "attention_norm": "self_attn_layer_norm",
    "expand": "fc1",
    "contract": "fc2",
    "feed_forward_norm": "final_layer_norm",
}
_IGNORED = r"(layer_weights|(decoder|proj_out|projector|classifier)\..*)"


class Whisper(nn.Module):
    """Log-mel spectra, two convolutions, a transformer.

    Attributes:
      num_mels: bands of the spectra.
      num_positions: frames of a window.
      features: D.
      num_layers: transformer layers.
      num_heads: attention heads; divides D.
      hidden_features: hidden width of the feed-forward layers.
      activation: of these, a name in `transformer.ACTIVATIONS`.
      dtype: of convolutions and matrix products.
      hidden_dropout, attention_dropout, activation_dropout, batch_axis: of each
        `transformer.Layer`.
      recompute: gradients run each layer anew, so that only its input is kept.
    """

    num_mels: int
    num_positions: int
    features: int
    num_layers: int
    num_heads: int
    hidden_features: int
    activation: str
    dtype: jnp.dtype
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    batch_axis: str | None = None
    recompute: bool = False

    normalised = False  # the spectra are
    receptive_field = _FOURIER  # the fewest samples that fill a spectrum

    @property
    def window(self) -> int:
        """Samples of a window: padded clips have a multiple of it."""
        return 2 * _HOP * self.num_positions

    def num_frames(self, samples: Any) -> Any:
        """Frames whose middle lies in `samples` samples, an int or an integer array."""
        return -(-samples // (2 * _HOP))

    @nn.compact
    def __call__(
        self, inputs: jax.Array, lengths: jax.Array, start: int | None = None
    ) -> list[jax.Array]:
        """Encodes; drops with an rng "dropout" alone, and in the layers alone.

        A pack keeps a clip's own frames, without those of the silence that filled its last window.
        With `start` a frame therefore sees the clip's frames of its window alone, as the mask has
        them; that equals what the whole model gives where a window is full, and elsewhere not.

        Args:
          inputs: samples, `[B, W window]` float32, 16 kHz, full scale = 1; with `start` the hidden
            state of that number, `[B, T, D]` float32, of any T.
          lengths: `[B]` int32, samples before the padding; with `start` a mask, `[B, T]`, False =
            padding.
          start: 0 to `num_layers - 1`; what lies below that state is neither run nor has
            parameters.

        Returns:
          What goes into the first layer and each layer's output, `num_layers + 1` times
          `[B, num_frames(W window), D]` float32; the last after the final norm. Rows past
          `num_frames(lengths)` are what silence gives. With `start` the states from `inputs` on,
          `[B, T, D]`.
        """
        if start is None:
            x = self._front(inputs, lengths)
            mask = jnp.ones(x.shape[:2], bool)  # silence is seen, as in training
            frames = len(x) // len(inputs) * self.num_positions
        else:
            frames = inputs.shape[1]
            window = min(frames, self.num_positions)
            missing = -frames % window
            x = jnp.pad(inputs, ((0, 0), (0, missing), (0, 0)))
            x = x.reshape(-1, window, self.features)
            mask = jnp.pad(lengths, ((0, 0), (0, missing))).reshape(-1, window)
        states = run_layers(
            self,
            x,
            mask,
            start,
            _EPSILON,
            pre_norm=True,
            activation=self.activation,
            key_bias=False,
            activation_dropout=self.activation_dropout,
        )
        states[-1] = nn.LayerNorm(_EPSILON, name="norm")(states[-1])
        return [x.reshape(len(inputs), -1, self.features)[:, :frames] for x in states]

    def _front(self, samples: jax.Array, lengths: jax.Array) -> jax.Array:
        """What goes into the first layer, `[B W, num_positions, D]` float32."""
        length = samples.shape[1]
        samples = jnp.where(jnp.arange(length)[None] < lengths[:, None], samples, 0)
        x = log_mel(samples.reshape(-1, self.window), self.num_mels)
        for k in range(2):
            x = nn.Conv(self.features, (3,), k + 1, ((1, 1),), dtype=self.dtype, name=f"conv_{k}")(
                x
            )
            x = gelu(x)
        positions = nn.Embed(self.num_positions, self.features, name="positions")
        return x.astype(jnp.float32) + positions(jnp.arange(self.num_positions))[None]


def log_mel(samples: jax.Array, num_mels: int) -> jax.Array:
    """Whisper's log-mel spectra, at most 8 decades below the window's loudest, scaled.

    Args:
      samples: `[B, N]` float32, one window a row; N is a multiple of the hop, 160.
      num_mels: M.

    Returns:
      `[B, N / 160, M]` float32.
    """
    half = _FOURIER // 2
    padded = jnp.pad(samples, ((0, 0), (half, half)), mode="reflect")
    starts = _HOP * jnp.arange(samples.shape[1] // _HOP)
    frames = padded[:, starts[:, None] + jnp.arange(_FOURIER)[None]]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FOURIER) / _FOURIER)
    spectra = jnp.fft.rfft(frames * hann.astype(np.float32)[None, None])
    power = spectra.real**2 + spectra.imag**2
    mel = jnp.matmul(power, mel_filters(num_mels), precision=jax.lax.Precision.HIGHEST)
    decades = jnp.log10(jnp.maximum(mel, 1e-10))
    decades = jnp.maximum(decades, jnp.max(decades, axis=(1, 2), keepdims=True) - 8)
    return (decades + 4) / 4


def mel_filters(num_mels: int) -> np.ndarray:
    """Slaney's triangles of equal area from 0 to 8 kHz, `[201, num_mels]` float32.

    Malcolm Slaney, Auditory Toolbox, 1998: the scale is linear up to 1 kHz and logarithmic above.
    """
    linear, step, knee = 3 / 200, np.log(6.4) / 27, 1_000.0  # mel a Hz, log Hz a mel, Hz
    top = knee * linear + np.log(_RATE / 2 / knee) / step
    mels = np.linspace(0, top, num_mels + 2)
    above = knee * np.exp(step * (mels - knee * linear))
    edges = np.where(mels < knee * linear, mels / linear, above)
    hertz = np.linspace(0, _RATE / 2, _FOURIER // 2 + 1)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle))
    return (np.maximum(triangles, 0) * 2 / (high - low)).astype(np.float32)


def from_config(file: str, config: Mapping[str, Any], dtype: jnp.dtype) -> Whisper:
    """The module that a Hugging Face `config.json` describes.

    Args:
      file: the config's path, for messages.
      config: its content, defaults filled in.
      dtype: of convolutions and matrix products.

    Raises:
      UserError: it describes no Whisper, or one with parts that this module lacks.
    """
    wanted = {"model_type": ("whisper",), "activation_function": tuple(ACTIVATIONS)}
    for field, values in wanted.items():
        if (found := config[field]) not in values:
            raise UserError(f"{file}: {field} is {found!r}, wanted {', '.join(values)}")
    return Whisper(
        num_mels=config["num_mel_bins"],
        num_positions=config["max_source_positions"],
        features=config["d_model"],
        num_layers=config["encoder_layers"],
        num_heads=config["encoder_attention_heads"],
        hidden_features=config["encoder_ffn_dim"],
        activation=config["activation_function"],
        dtype=dtype,
        hidden_dropout=rate(file, config, "dropout"),
        attention_dropout=rate(file, config, "attention_dropout"),
        activation_dropout=rate(file, config, "activation_dropout"),
    )


def tensors(module: Whisper) -> Tensors:
    """The names of a published checkpoint's tensors."""
    modules = dict(_MODULES)
    for k in range(module.num_layers):
        modules |= {
            f"layer_{k}/{ours}": f"encoder.layers.{k}.{name}" for ours, name in _LAYER.items()
        }
    inputs = jnp.zeros((1, module.window)), jnp.full(1, module.window, jnp.int32)
    return Tensors(("model.",), modules, _IGNORED, inputs)
