"""data2vec for speech (Baevski et al., 2022, arXiv:2202.03555).

wav2vec 2.0's network, whose position embedding is a stack of small convolutions, each followed by
a LayerNorm without parameters, and whose strided convolutions are all normed.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from cmarr_jax.extract.models import wav2vec2
from cmarr_jax.extract.models.tensors import Tensors


def from_config(file: str, config: Mapping[str, Any], dtype: jnp.dtype) -> wav2vec2.Wav2Vec2:
    """As `wav2vec2.from_config`."""
    return wav2vec2.make(
        file,
        config,
        dtype,
        "data2vec-audio",
        conv_norm="layer",
        position_kernel=config["conv_pos_kernel_size"],
        position_convs=config["num_conv_pos_embeddings"],
        position_norm="layer",
    )


def tensors(module: wav2vec2.Wav2Vec2) -> Tensors:
    """The names of a published checkpoint's tensors."""
    return wav2vec2.tensors(module)._replace(prefixes=("data2vec_audio.",))
