"""DistilBERT (Sanh et al., 2019, arXiv:1910.01108): BERT's encoder without segments."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from cmarr_jax.extract.models import bert
from cmarr_jax.extract.models.config import activation, rate
from cmarr_jax.extract.models.tensors import Tensors

_LAYER = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "out": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "expand": "ffn.lin1",
    "contract": "ffn.lin2",
    "feed_forward_norm": "output_layer_norm",
}
_IGNORED = rf"({bert.IGNORED}|vocab_(transform|layer_norm|projector)\..*|pre_classifier\..*)"


def from_config(file: str, config: Mapping[str, Any], dtype: jnp.dtype) -> bert.Bert:
    """As `bert.from_config`; the table of positions is in the checkpoint even if it is of sines.

    What attention gives was published without dropout.
    """
    return bert.Bert(
        vocab_size=config["vocab_size"],
        num_positions=config["max_position_embeddings"],
        num_segments=0,
        features=config["dim"],
        num_layers=config["n_layers"],
        num_heads=config["n_heads"],
        hidden_features=config["hidden_dim"],
        epsilon=1e-12,
        dtype=dtype,
        activation=activation(file, config, "activation"),
        hidden_dropout=rate(file, config, "dropout"),
        attention_dropout=rate(file, config, "attention_dropout"),
        drop_attended=False,
    )


def tensors(module: bert.Bert) -> Tensors:
    """The names of a published checkpoint's tensors."""
    layers = {
        f"layer_{k}/{ours}": f"transformer.layer.{k}.{theirs}"
        for k in range(module.num_layers)
        for ours, theirs in _LAYER.items()
    }
    return Tensors(("distilbert.",), bert.EMBEDDINGS | layers, _IGNORED, bert.INPUTS)
