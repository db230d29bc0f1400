"""CLIP's vision tower (Radford et al., 2021, arXiv:2103.00020), without its projection.

A checkpoint of both towers will do: the one for text is left out.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from cmarr_jax.extract.models import vit
from cmarr_jax.extract.models.tensors import Tensors
from cmarr_jax.extract.models.vit import VisionTransformer

_MODULES = {
    "class_token": "embeddings.class_embedding",
    "positions": "embeddings.position_embedding.weight",
    "patches": "embeddings.patch_embedding",
    "first_norm": "pre_layrnorm",  # so misspelt by the original
    "norm": "post_layernorm",
}
_LAYER = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "attention_norm": "layer_norm1",
    "expand": "mlp.fc1",
    "contract": "mlp.fc2",
    "feed_forward_norm": "layer_norm2",
}
_IGNORED = (
    r"(embeddings\.position_ids|logit_scale|"
    r"(text_model|text_projection|visual_projection|classifier)\..*)"
)


def from_config(file: str, config: Mapping[str, Any], dtype: jnp.dtype) -> VisionTransformer:
    """The module that a Hugging Face `config.json` describes, of both towers or of this one.

    Args:
      file: the config's path, for messages.
      config: its content, defaults filled in.
      dtype: of the matrix products.

    Raises:
      UserError: it describes parts that the module lacks.
    """
    config = config.get("vision_config", config)
    vit.check(file, config, {})
    return VisionTransformer(
        **vit.sizes(file, config),
        hidden_features=config["intermediate_size"],
        dtype=dtype,
        patch_bias=False,
        norm_first=True,
    )


def tensors(module: VisionTransformer) -> Tensors:
    """The names of a published checkpoint's tensors."""
    prefixes = ("clip.", "vision_model.")
    return vit.named(module, prefixes, _MODULES, _LAYER, "encoder.layers", _IGNORED, _batched)


def _batched(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The class token and the positions as ViT has them, `[1, T, D]`."""
    shapes = {_MODULES["class_token"]: (1, 1, -1), _MODULES["positions"]: (1, -1)}
    for name, shape in shapes.items():
        if name in tensors:
            tensor = tensors[name]
            tensors[name] = tensor.reshape(*shape, *tensor.shape[1:])
    return tensors
