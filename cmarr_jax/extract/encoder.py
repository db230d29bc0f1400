"""A published encoder made ready: its module, its weights and the hidden states asked for."""

import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract import layers as layers_lib
from cmarr_jax.extract import pretrained, weights


class Encoder(NamedTuple):
    """What a source needs of its encoder."""

    folder: str  # with the model's files
    module: nn.Module
    dim: int  # of a feature
    forward: Callable[..., np.ndarray]  # the module's inputs -> [B, T, dim] float32
    recipe: dict[str, Any]  # what the numbers depend on


def open_encoder(
    model: str, families: Mapping[str, ModuleType], *, layers: str, dtype: str
) -> Encoder:
    """Opens `model`.

    Args:
      model: a folder with a Hugging Face snapshot, or its name on the hub.
      families: `model_type` of a config -> the module of `models` that implements it.
      layers: one of `layers.FORMS`.
      dtype: of the matrix products, "float32" or "bfloat16"; norms and softmax are float32.

    Raises:
      UserError: the model is not there, is of none of the families, or its files contradict
        each other; or `layers` asks for what it does not have.
    """
    folder = pretrained.folder(model)
    compute_dtype = pretrained.compute_dtype(dtype)
    config, file = pretrained.config(folder), os.path.join(folder, "config.json")
    kind = config["model_type"]
    if kind not in families:
        raise UserError(f"{file}: model_type is {kind!r}; wanted {', '.join(families)}")
    family = families[kind]
    module = family.from_config(file, config, compute_dtype)
    chosen = layers_lib.parse(layers, module.num_layers, model)
    params = jax.device_put(
        weights.load(pretrained.weights(folder), module, family.tensors(module))
    )

    @jax.jit
    def encode(params: Any, *inputs: Any) -> jax.Array:
        states = module.apply(params, *inputs)
        kept = [states[k] for k in chosen.states]
        return sum(kept) / len(kept) if chosen.mean else jnp.concatenate(kept, axis=-1)

    def forward(*inputs: Any) -> np.ndarray:
        with pretrained.precision(compute_dtype):
            return np.asarray(encode(params, *inputs))

    return Encoder(
        folder,
        module,
        chosen.dim(module.features),
        forward,
        {"encoder": kind, "sha256": pretrained.hashes(folder), "dtype": compute_dtype.name}
        | chosen.recipe(),
    )
