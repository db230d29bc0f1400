"""DINOv2 (Oquab et al., 2023, arXiv:2304.07193): small, base and large."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from cmarr_jax.extract.models import vit
from cmarr_jax.extract.models.tensors import Tensors
from cmarr_jax.extract.models.vit import VisionTransformer

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
    "attention_norm": "norm1",
    "attention_scale": "layer_scale1.lambda1",
    "expand": "mlp.fc1",
    "contract": "mlp.fc2",
    "feed_forward_norm": "norm2",
    "feed_forward_scale": "layer_scale2.lambda1",
}
_IGNORED = r"(embeddings\.mask_token|classifier\..*)"


def from_config(file: str, config: Mapping[str, Any], dtype: jnp.dtype) -> VisionTransformer:
    """The module that a Hugging Face `config.json` describes.

    Args:
      file: the config's path, for messages.
      config: its content, defaults filled in.
      dtype: of the matrix products.

    Raises:
      UserError: it describes parts that the module lacks, as the giant's SwiGLU.
    """
    vit.check(file, config, {"qkv_bias": True, "use_swiglu_ffn": False})
    return VisionTransformer(
        **vit.sizes(file, config),
        hidden_features=int(config["hidden_size"] * config["mlp_ratio"]),
        dtype=dtype,
        residual_scale=True,
    )


def tensors(module: VisionTransformer) -> Tensors:
    """The names of a published checkpoint's tensors."""
    return vit.named(module, ("dinov2.",), _MODULES, _LAYER, "encoder.layer", _IGNORED)
