"""HuBERT (Hsu et al., 2021, arXiv:2106.07447): wav2vec 2.0's network, trained on cluster labels."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from cmarr_jax.extract.models import wav2vec2
from cmarr_jax.extract.models.tensors import Tensors


def from_config(file: str, config: Mapping[str, Any], dtype: jnp.dtype) -> wav2vec2.Wav2Vec2:
    """As `wav2vec2.from_config`; some HuBERTs lack a norm or have another one."""
    return wav2vec2.make(
        file,
        config,
        dtype,
        "hubert",
        projection_norm=config["feat_proj_layer_norm"],
        position_norm="batch" if config["conv_pos_batch_norm"] else None,
    )


def tensors(module: wav2vec2.Wav2Vec2) -> Tensors:
    """The names of a published checkpoint's tensors."""
    return wav2vec2.tensors(module)._replace(prefixes=("hubert.",))
