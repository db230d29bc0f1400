"""RoBERTa (Liu et al., 2019, arXiv:1907.11692) and its kin XLM-RoBERTa and CamemBERT.

They are BERT's encoder with positions that begin after the padding token's number.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from cmarr_jax.extract.models import bert
from cmarr_jax.extract.models.config import whole
from cmarr_jax.extract.models.tensors import Tensors


def from_config(file: str, config: Mapping[str, Any], dtype: jnp.dtype) -> bert.Bert:
    """As `bert.from_config`."""
    module = bert.from_config(file, config, dtype)
    return module.clone(padding=whole(file, config, "pad_token_id", 0, module.num_positions - 4))


def tensors(module: bert.Bert) -> Tensors:
    """The names of a published checkpoint's tensors."""
    return Tensors(("roberta.",), bert.names(module), bert.IGNORED, bert.INPUTS)
