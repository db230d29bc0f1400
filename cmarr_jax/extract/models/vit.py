"""The vision transformer (Dosovitskiy et al., 2021, arXiv:2010.11929), without pooler or heads.

Its module serves CLIP's vision tower and DINOv2 too, which differ in a few parts.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract.models.tensors import Tensors
from cmarr_jax.extract.models.transformer import ACTIVATIONS, Layer

_MODULES = {
    "class_token": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "patches": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_LAYER = {
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "out": "attention.output.dense",
    "attention_norm": "layernorm_before",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "feed_forward_norm": "layernorm_after",
}
_IGNORED = r"(embeddings\.mask_token|(pooler|classifier|decoder)\..*)"


class VisionTransformer(nn.Module):
    """The class token's states of square pictures.

    Attributes:
      image_size: side of the pictures that the positions were trained for, in pixels.
      patch_size: side of a patch, in pixels.
      features: D.
      num_layers: layers.
      num_heads: attention heads; divides D.
      hidden_features: hidden width of the feed-forward layers.
      epsilon: of the LayerNorms.
      dtype: of the matrix products.
      activation: a name in `transformer.ACTIVATIONS`.
      patch_bias: whether the projection of patches has a bias.
      norm_first: whether what goes into the first layer is normed, as CLIP's is.
      residual_scale: that of `transformer.Layer`; DINOv2's is True.
    """

    image_size: int
    patch_size: int
    features: int
    num_layers: int
    num_heads: int
    hidden_features: int
    epsilon: float
    dtype: jnp.dtype
    activation: str = "gelu"
    patch_bias: bool = True
    norm_first: bool = False
    residual_scale: bool = False

    @nn.compact
    def __call__(self, pictures: jax.Array, scale: jax.Array, shift: jax.Array) -> list[jax.Array]:
        """Encodes.

        Args:
          pictures: `[B, S, S, 3]`, red first, grey levels of any dtype; S is divisible by the
            patch size and need not be `image_size`.
          scale: `[3]`, what grey levels are multiplied with.
          shift: `[3]`, what is added then.

        Returns:
          The class token's embedding, its state after each layer, the last one normed:
          `num_layers + 1` times `[B, D]` float32.
        """
        batch, side = len(pictures), pictures.shape[1] // self.patch_size
        pixels = pictures.astype(jnp.float32) * scale[None, None, None] + shift[None, None, None]
        shape = (1, (self.image_size // self.patch_size) ** 2 + 1, self.features)
        positions = self.param("positions", nn.initializers.normal(0.02), shape)
        token = self.param("class_token", nn.initializers.normal(0.02), (1, 1, self.features))
        x = _Patches(self.patch_size, self.features, self.patch_bias, self.dtype, name="patches")(
            pixels
        )
        x = jnp.concatenate([jnp.broadcast_to(token, (batch, *token.shape[1:])), x], axis=1)
        x = x + resized(positions, side)
        if self.norm_first:
            x = nn.LayerNorm(self.epsilon, name="first_norm")(x)
        mask = jnp.ones(x.shape[:2], bool)
        states = [x[:, 0]]
        for k in range(self.num_layers):
            x = Layer(
                self.num_heads,
                self.hidden_features,
                self.epsilon,
                self.dtype,
                pre_norm=True,
                activation=self.activation,
                residual_scale=self.residual_scale,
                name=f"layer_{k}",
            )(x, mask)
            states.append(x[:, 0])
        states[-1] = nn.LayerNorm(self.epsilon, name="norm")(states[-1])
        return states


class _Patches(nn.Module):
    """A convolution whose windows touch, as one matrix product, which is quicker on a CPU."""

    size: int
    features: int
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """`[B, S, S, 3]` -> `[B, patches, D]` float32, row by row."""
        shape = (self.size, self.size, 3, self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        batch, side = len(pixels), pixels.shape[1] // self.size
        pixels = pixels.reshape(batch, side, self.size, side, self.size, 3)
        rows = pixels.transpose(0, 1, 3, 2, 4, 5).reshape(batch, side * side, -1)
        kernel = kernel.reshape(-1, self.features)
        x = (rows.astype(self.dtype) @ kernel.astype(self.dtype)).astype(jnp.float32)
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.features,))[None, None]
        return x


def resized(positions: jax.Array, side: int) -> jax.Array:
    """Positions `[1, 1 + n * n, D]` for `side * side` patches: bicubic, as PyTorch interpolates."""
    trained = round((positions.shape[1] - 1) ** 0.5)
    if side == trained:
        return positions
    weights = _bicubic(trained, side)
    grid = positions[0, 1:].reshape(trained, trained, -1)
    grid = jnp.einsum("ri,cj,ijd->rcd", weights, weights, grid, precision="highest")
    return jnp.concatenate([positions[0, :1], grid.reshape(side * side, -1)])[None]


def _bicubic(size: int, new: int) -> np.ndarray:
    """Weights `[new, size]` of cubic convolution with a = -0.75, without antialiasing.

    Reference: Keys, Cubic Convolution Interpolation for Digital Image Processing, 1981.
    """
    a = -0.75
    place = (np.arange(new) + 0.5) * size / new - 0.5
    first = np.floor(place).astype(int)
    weights = np.zeros((new, size))
    for offset in range(-1, 3):
        x = np.abs(place - (first + offset))
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        index = np.clip(first + offset, 0, size - 1)
        np.add.at(weights, (np.arange(new), index), np.where(x <= 1, near, far))
    return weights.astype(np.float32)


def from_config(file: str, config: Mapping[str, Any], dtype: jnp.dtype) -> VisionTransformer:
    """The module that a Hugging Face `config.json` describes.

    Args:
      file: the config's path, for messages.
      config: its content, defaults filled in.
      dtype: of the matrix products.

    Raises:
      UserError: it describes parts that the module lacks.
    """
    check(file, config, {"qkv_bias": True})
    return VisionTransformer(
        **sizes(file, config),
        hidden_features=config["intermediate_size"],
        dtype=dtype,
    )


def check(file: str, config: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses a config that differs from `wanted`, field -> value, where it has the field.

    Raises:
      UserError: it does, or has another number of colours, or an activation that is not known.
    """
    for field, value in {"num_channels": 3, **wanted}.items():
        if (found := config.get(field, value)) != value:
            raise UserError(f"{file}: {field} is {found!r}, wanted {value!r}")
    if (found := config["hidden_act"]) not in ACTIVATIONS:
        raise UserError(f"{file}: hidden_act is {found!r}, wanted one of {', '.join(ACTIVATIONS)}")


def sizes(file: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What configs of all three families name alike.

    Raises:
      UserError: pictures or patches are not square, or do not fit together.
    """
    image, patch = config["image_size"], config["patch_size"]
    if not isinstance(image, int) or not isinstance(patch, int) or not 0 < patch <= image:
        raise UserError(
            f"{file}: image_size is {image!r} and patch_size {patch!r}; wanted a side in pixels of "
            "each, patches no larger than pictures"
        )
    return {
        "image_size": image,
        "patch_size": patch,
        "features": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "epsilon": config["layer_norm_eps"],
        "activation": config["hidden_act"],
    }


def tensors(module: VisionTransformer) -> Tensors:
    """The names of a published checkpoint's tensors."""
    return named(module, ("vit.",), _MODULES, _LAYER, "encoder.layer", _IGNORED)


def named(
    module: VisionTransformer,
    prefixes: tuple[str, ...],
    modules: Mapping[str, str],
    layer: Mapping[str, str],
    layers: str,
    ignored: str,
    adapt: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = dict,
) -> Tensors:
    """`Tensors` of a family; `layers`: where its layers lie, the rest as in `Tensors`."""
    modules = dict(modules)
    for k in range(module.num_layers):
        modules |= {f"layer_{k}/{ours}": f"{layers}.{k}.{name}" for ours, name in layer.items()}
    # Any number of patches will do to make the parameters: positions are those of `image_size`.
    picture = np.zeros((1, module.patch_size, module.patch_size, 3), np.uint8)
    return Tensors(prefixes, modules, ignored, (picture, np.ones(3), np.zeros(3)), adapt)
