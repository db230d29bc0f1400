"""wav2vec 2.0 (Baevski et al., 2020, arXiv:2006.11477): waveform to frame vectors.

HuBERT, WavLM and data2vec are the same network with another part or two, see the modules of
their names. A batch of padded clips gives what each clip gives alone: every convolution over
frames sees zeros past a clip's end, and the statistics of the one GroupNorm, which runs over time,
are taken over the frames that hold no padding. Other implementations let padding into them
(huggingface/transformers#21534).
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract.models.config import rate
from cmarr_jax.extract.models.tensors import Tensors
from cmarr_jax.extract.models.transformer import run_layers
from cmarr_jax.nn.gelu import gelu

_EPSILON = 1e-5  # PyTorch's, of the norms whose own the configuration does not hold
_POSITION = "encoder.pos_conv_embed"
_MODULES = {
    "projection_norm": "feature_projection.layer_norm",
    "projection": "feature_projection.projection",
    "position_scale": f"{_POSITION}.batch_norm.scale",
    "position_shift": f"{_POSITION}.batch_norm.shift",
    "norm": "encoder.layer_norm",
}
_LAYER = {
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "out": "attention.out_proj",
    "attention_norm": "layer_norm",
    "expand": "feed_forward.intermediate_dense",
    "contract": "feed_forward.output_dense",
    "feed_forward_norm": "final_layer_norm",
}
_IGNORED = (
    r"(masked_spec_embed|layer_weights|feature_extractor\.(weight|bias)|(quantizer|project_hid|"
    r"project_q|final_proj|lm_head|projector|classifier|tdnn|objective)\..*)"
)


class Wav2Vec2(nn.Module):
    """Strided convolutions, a convolutional position embedding, a transformer.

    Attributes:
      conv_features: width of each convolution.
      conv_kernels: size of each, in its input's frames.
      conv_strides: stride of each.
      conv_bias: whether they have biases.
      features: D.
      num_layers: transformer layers.
      num_heads: attention heads; divides D.
      hidden_features: hidden width of the feed-forward layers.
      position_kernel: frames that a convolution of the position embedding sees.
      position_groups: groups of these convolutions.
      epsilon: of the LayerNorms.
      dtype: of convolutions and matrix products.
      conv_norm: "group", after the first convolution, or "layer", after each.
      projection_norm: whether frames are normed before they are projected to D.
      position_norm: None; "batch", by stored statistics before the position embedding; "layer",
        after each of its convolutions.
      position_convs: convolutions of the position embedding.
      pre_norm: norms what goes into a residual branch, and the last sum, instead of each sum.
      attention_bias: a module that, given a layer's number, is that layer's `transformer.Bias`.
      hidden_dropout, attention_dropout, activation_dropout, batch_axis: of each
        `transformer.Layer`.
      recompute: gradients run each layer anew, so that only its input is kept.
    """

    conv_features: tuple[int, ...]
    conv_kernels: tuple[int, ...]
    conv_strides: tuple[int, ...]
    conv_bias: bool
    features: int
    num_layers: int
    num_heads: int
    hidden_features: int
    position_kernel: int
    position_groups: int
    epsilon: float
    dtype: jnp.dtype
    conv_norm: str = "group"
    projection_norm: bool = True
    position_norm: str | None = None
    position_convs: int = 1
    pre_norm: bool = False
    attention_bias: nn.Module | None = None
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    batch_axis: str | None = None
    recompute: bool = False

    normalised = True  # clips, unless the model's files say otherwise
    window = 1  # padded clips have a multiple of it

    def num_frames(self, samples: Any) -> Any:
        """Frames that `samples` samples give, an int or an integer array; 0 if too few."""
        return _after(samples, self.conv_kernels, self.conv_strides)

    @property
    def receptive_field(self) -> int:
        """The fewest samples that give a frame."""
        length = 1
        for kernel, stride in zip(self.conv_kernels[::-1], self.conv_strides[::-1], strict=True):
            length = (length - 1) * stride + kernel
        return length

    @nn.compact
    def __call__(
        self, inputs: jax.Array, lengths: jax.Array, start: int | None = None
    ) -> list[jax.Array]:
        """Encodes clips that are normalised alone and then padded with zeros.

        Drops with an rng "dropout" alone, and in the layers alone.

        Args:
          inputs: samples, `[B, N]` float32, 16 kHz; with `start` the hidden state of that number,
            `[B, T, D]` float32.
          lengths: `[B]` int32, samples before the padding; each gives at least one frame. With
            `start` a mask, `[B, T]`, False = padding.
          start: 0 to `num_layers - 1`; what lies below that state is neither run nor has
            parameters.

        Returns:
          What goes into the first layer and each layer's output, `num_layers + 1` times
          `[B, num_frames(N), D]` float32; rows past `num_frames(lengths)` mean nothing. With
          `start` the states from `inputs` on.
        """
        norm = nn.LayerNorm(self.epsilon, name="norm")
        if start is None:
            x, mask = self._front(inputs, lengths)
            x = x if self.pre_norm else norm(x)
        else:
            x, mask = inputs, lengths
        states = run_layers(
            self,
            x,
            mask,
            start,
            self.epsilon,
            lambda encoder, k: (
                encoder.attention_bias and functools.partial(encoder.attention_bias, k)
            ),
            pre_norm=self.pre_norm,
            activation_dropout=self.activation_dropout,
        )
        return [*states[:-1], norm(states[-1])] if self.pre_norm else states

    def _front(self, samples: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What goes into the first layer or the norm before it, `[B, T, D]`, and its mask."""
        x = self._convolve(samples, lengths)
        mask = jnp.arange(x.shape[1])[None] < self.num_frames(lengths)[:, None]
        if self.projection_norm:
            x = nn.LayerNorm(self.epsilon, dtype=jnp.float32, name="projection_norm")(x)
        x = nn.Dense(self.features, dtype=self.dtype, name="projection")(x)
        return x.astype(jnp.float32) + self._position(x, mask[..., None]), mask

    def _convolve(self, samples: jax.Array, lengths: jax.Array) -> jax.Array:
        """`[B, N]` -> `[B, num_frames(N), C]` in `dtype`."""
        x = samples[..., None]
        layers = zip(self.conv_features, self.conv_kernels, self.conv_strides, strict=True)
        for k, (features, kernel, stride) in enumerate(layers):
            x = nn.Conv(
                features,
                (kernel,),
                (stride,),
                "VALID",
                use_bias=self.conv_bias,
                dtype=self.dtype,
                name=f"conv_{k}",
            )(x)
            if self.conv_norm == "layer":
                norm = nn.LayerNorm(_EPSILON, dtype=jnp.float32, name=f"conv_norm_{k}")
                x = norm(x).astype(self.dtype)
            elif k == 0:
                valid = _after(lengths, self.conv_kernels[:1], self.conv_strides[:1])
                x = MaskedGroupNorm(name="conv_norm_0")(x, valid).astype(self.dtype)
            x = gelu(x)
        return x

    def _position(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """`x` `[B, T, D]`, `mask` `[B, T, 1]` -> `[B, T, D]`."""
        if self.position_norm == "batch":
            scale = self.param("position_scale", nn.initializers.ones, (self.features,))
            shift = self.param("position_shift", nn.initializers.zeros, (self.features,))
            x = x.astype(jnp.float32) * scale[None, None] + shift[None, None]
        # As wide to the left as PyTorch pads; what an even kernel adds on the right is dropped.
        left = self.position_kernel // 2
        for k in range(self.position_convs):
            x = nn.Conv(
                self.features,
                (self.position_kernel,),
                padding=((left, self.position_kernel - 1 - left),),
                feature_group_count=self.position_groups,
                dtype=self.dtype,
                name=f"position_{k}",
            )(jnp.where(mask, x, 0))
            if self.position_norm == "layer":
                norm = nn.LayerNorm(_EPSILON, use_bias=False, use_scale=False, dtype=jnp.float32)
                x = norm(x).astype(self.dtype)
            x = gelu(x)
        return x


class MaskedGroupNorm(nn.Module):
    """GroupNorm with one channel a group, over the first `lengths` frames of each row."""

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        """`x` `[B, T, C]`, `lengths` `[B]` -> `[B, T, C]` float32."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,)).reshape(1, 1, -1)
        bias = self.param("bias", nn.initializers.zeros, (channels,)).reshape(1, 1, -1)
        x = x.astype(jnp.float32)
        mask = (jnp.arange(x.shape[1])[None] < lengths[:, None])[..., None]
        count = lengths.astype(jnp.float32)[:, None, None]

        def mean(y):
            return jnp.sum(jnp.where(mask, y, 0), axis=1, keepdims=True) / count

        x = x - mean(x)
        return x * jax.lax.rsqrt(mean(x * x) + _EPSILON) * scale + bias


def from_config(file: str, config: Mapping[str, Any], dtype: jnp.dtype) -> Wav2Vec2:
    """The module that a Hugging Face `config.json` describes.

    Args:
      file: the config's path, for messages.
      config: its content, defaults filled in.
      dtype: of convolutions and matrix products.

    Raises:
      UserError: it describes no wav2vec2, or one with parts that this module lacks.
    """
    return make(file, config, dtype, "wav2vec2")


def make(
    file: str, config: Mapping[str, Any], dtype: jnp.dtype, kind: str, **others: Any
) -> Wav2Vec2:
    """The module that a `config.json` of model_type `kind` describes.

    Args:
      file, config, dtype: as `from_config` has them.
      kind: wav2vec2 or a family that shares its fields.
      others: attributes that `kind` has from other fields, or always.

    Raises:
      UserError: as `from_config`.
    """
    wanted: dict[str, tuple] = {
        "model_type": (kind,),
        "feat_extract_norm": ("group", "layer"),
        "feat_extract_activation": ("gelu",),
        "hidden_act": ("gelu",),
        "add_adapter": (False,),
        "adapter_attn_dim": (None,),
    }
    for field, values in wanted.items():
        if (found := config.get(field, values[0])) not in values:
            said = " or ".join(map(repr, values))
            raise UserError(
                f"{file}: {field} is {found!r}, wanted {said}; this library has no {kind} of "
                "another kind"
            )
    attributes = {
        "conv_features": tuple(config["conv_dim"]),
        "conv_kernels": tuple(config["conv_kernel"]),
        "conv_strides": tuple(config["conv_stride"]),
        "conv_bias": config["conv_bias"],
        "conv_norm": config.get("feat_extract_norm", "layer"),
        "features": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "hidden_features": config["intermediate_size"],
        "position_kernel": config["num_conv_pos_embeddings"],
        "position_groups": config["num_conv_pos_embedding_groups"],
        "epsilon": config["layer_norm_eps"],
        "pre_norm": config.get("do_stable_layer_norm", False),
        **{
            field: rate(file, config, field)
            for field in ("hidden_dropout", "attention_dropout", "activation_dropout")
        },
    }
    return Wav2Vec2(**attributes | others, dtype=dtype)


def tensors(module: Wav2Vec2) -> Tensors:
    """The names of a published checkpoint's tensors."""
    modules = dict(_MODULES)
    for k in range(len(module.conv_features)):
        modules[f"conv_{k}"] = f"feature_extractor.conv_layers.{k}.conv"
        modules[f"conv_norm_{k}"] = f"feature_extractor.conv_layers.{k}.layer_norm"
    for k in range(module.position_convs):
        alone = module.position_convs == 1
        modules[f"position_{k}"] = f"{_POSITION}.conv" if alone else f"{_POSITION}.layers.{k}.conv"
    for k in range(module.num_layers):
        modules |= {
            f"layer_{k}/{ours}": f"encoder.layers.{k}.{name}" for ours, name in _LAYER.items()
        }
    length = module.receptive_field
    inputs = jnp.zeros((1, length)), jnp.full(1, length, jnp.int32)
    return Tensors(("wav2vec2.",), modules, _IGNORED, inputs, _fold)


def _fold(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weight = g v / |v|, the norm over both channel axes; PyTorch has two names for the pair.

    Stored statistics of a BatchNorm become one scale and one shift a channel.
    """
    conv = f"{_POSITION}.conv"
    for g, v in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        if {f"{conv}.{g}", f"{conv}.{v}"} <= tensors.keys():
            magnitude = tensors.pop(f"{conv}.{g}").astype(np.float64)
            direction = tensors.pop(f"{conv}.{v}").astype(np.float64)
            norm = np.sqrt(np.sum(direction**2, axis=(0, 1), keepdims=True))
            tensors[f"{conv}.weight"] = magnitude * (direction / norm)
    names = [
        f"{_POSITION}.batch_norm.{x}" for x in ("weight", "bias", "running_mean", "running_var")
    ]
    if tensors.keys() >= {*names}:
        weight, bias, mean, variance = (tensors.pop(name).astype(np.float64) for name in names)
        tensors.pop(f"{_POSITION}.batch_norm.num_batches_tracked", None)
        scale = weight / np.sqrt(variance + _EPSILON)
        tensors[_MODULES["position_scale"]] = scale
        tensors[_MODULES["position_shift"]] = bias - mean * scale
    return tensors


def _after(length: Any, kernels: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    for kernel, stride in zip(kernels, strides, strict=True):
        length = (length - kernel) // stride + 1
    return length * (length > 0)
