"""wav2vec 2.0 base (Baevski et al., 2020, arXiv:2006.11477): waveform to frame vectors.

A batch of padded clips gives what each clip gives alone: the statistics of the one GroupNorm,
which runs over time, are taken over the frames that hold no padding. Other implementations let
padding into them (huggingface/transformers#21534).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract.models.tensors import Tensors
from cmarr_jax.extract.models.transformer import Layer
from cmarr_jax.nn.gelu import gelu

_GROUP_NORM_EPSILON = 1e-5  # PyTorch's; the configuration does not hold it
_POSITION = "encoder.pos_conv_embed.conv"
_MODULES = {
    "conv_norm": "feature_extractor.conv_layers.0.layer_norm",
    "projection_norm": "feature_projection.layer_norm",
    "projection": "feature_projection.projection",
    "position": _POSITION,
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
    r"(masked_spec_embed|layer_weights|"
    r"(quantizer|project_hid|project_q|lm_head|projector|classifier)\..*)"
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
      position_kernel: frames that the position embedding sees.
      position_groups: groups of its convolution.
      epsilon: of the LayerNorms.
      dtype: of convolutions and matrix products.
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
    def __call__(self, samples: jax.Array, lengths: jax.Array) -> list[jax.Array]:
        """Encodes clips that are normalised alone and then padded with zeros.

        Args:
          samples: `[B, N]` float32, 16 kHz.
          lengths: `[B]` int32, samples before the padding; each gives at least one frame.

        Returns:
          What goes into the first layer and each layer's output, `num_layers + 1` times
          `[B, num_frames(N), D]` float32; rows past `num_frames(lengths)` mean nothing.
        """
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
            if k == 0:
                valid = _after(lengths, self.conv_kernels[:1], self.conv_strides[:1])
                x = MaskedGroupNorm(name="conv_norm")(x, valid).astype(self.dtype)
            x = gelu(x)
        mask = jnp.arange(x.shape[1])[None] < self.num_frames(lengths)[:, None]
        x = nn.LayerNorm(self.epsilon, dtype=jnp.float32, name="projection_norm")(x)
        x = nn.Dense(self.features, dtype=self.dtype, name="projection")(x)
        x = jnp.where(mask[..., None], x, 0)
        # As wide to the left as PyTorch pads; what an even kernel adds on the right is dropped.
        left = self.position_kernel // 2
        position = nn.Conv(
            self.features,
            (self.position_kernel,),
            padding=((left, self.position_kernel - 1 - left),),
            feature_group_count=self.position_groups,
            dtype=self.dtype,
            name="position",
        )(x)
        x = x.astype(jnp.float32) + gelu(position)
        x = nn.LayerNorm(self.epsilon, name="norm")(x)
        states = [x]
        for k in range(self.num_layers):
            x = Layer(
                self.num_heads, self.hidden_features, self.epsilon, self.dtype, name=f"layer_{k}"
            )(x, mask)
            states.append(x)
        return states


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
        return x * jax.lax.rsqrt(mean(x * x) + _GROUP_NORM_EPSILON) * scale + bias


def from_config(file: str, config: Mapping[str, Any], dtype: jnp.dtype) -> Wav2Vec2:
    """The module that a Hugging Face `config.json` describes.

    Args:
      file: the config's path, for messages.
      config: its content, defaults filled in.
      dtype: of convolutions and matrix products.

    Raises:
      UserError: it describes no wav2vec2, or one unlike the base model.
    """
    wanted = {
        "model_type": "wav2vec2",
        "do_stable_layer_norm": False,
        "feat_extract_norm": "group",
        "feat_extract_activation": "gelu",
        "hidden_act": "gelu",
        "add_adapter": False,
    }
    for field, value in wanted.items():
        if (found := config.get(field, value)) != value:
            raise UserError(
                f"{file}: {field} is {found!r}, wanted {value!r}; this library encodes speech "
                "with models of wav2vec2-base's kind"
            )
    return Wav2Vec2(
        conv_features=tuple(config["conv_dim"]),
        conv_kernels=tuple(config["conv_kernel"]),
        conv_strides=tuple(config["conv_stride"]),
        conv_bias=config["conv_bias"],
        features=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden_features=config["intermediate_size"],
        position_kernel=config["num_conv_pos_embeddings"],
        position_groups=config["num_conv_pos_embedding_groups"],
        epsilon=config["layer_norm_eps"],
        dtype=dtype,
    )


def tensors(module: Wav2Vec2) -> Tensors:
    """The names of a published checkpoint's tensors."""
    modules = dict(_MODULES)
    for k in range(len(module.conv_features)):
        modules[f"conv_{k}"] = f"feature_extractor.conv_layers.{k}.conv"
    for k in range(module.num_layers):
        modules |= {
            f"layer_{k}/{ours}": f"encoder.layers.{k}.{name}" for ours, name in _LAYER.items()
        }
    length = module.receptive_field
    inputs = jnp.zeros((1, length)), jnp.full(1, length, jnp.int32)
    return Tensors(("wav2vec2.",), modules, _IGNORED, inputs, _fold_weight_norm)


def _fold_weight_norm(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weight = g v / |v|, the norm over both channel axes; PyTorch has two names for the pair."""
    for g, v in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        if {f"{_POSITION}.{g}", f"{_POSITION}.{v}"} <= tensors.keys():
            magnitude = tensors.pop(f"{_POSITION}.{g}").astype(np.float64)
            direction = tensors.pop(f"{_POSITION}.{v}").astype(np.float64)
            norm = np.sqrt(np.sum(direction**2, axis=(0, 1), keepdims=True))
            tensors[f"{_POSITION}.weight"] = magnitude * (direction / norm)
    return tensors


def _after(length: Any, kernels: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    for kernel, stride in zip(kernels, strides, strict=True):
        length = (length - kernel) // stride + 1
    return length * (length > 0)
