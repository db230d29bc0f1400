"""The layers of a published encoder above one hidden state, to be trained on what a pack keeps."""

import functools
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from cmarr_jax.errors import UserError
from cmarr_jax.extract import pretrained, speech, text, weights

FAMILIES = text.FAMILIES | speech.FAMILIES


class Upper(NamedTuple):
    """Layers and what they start from.

    Attributes:
      module: the whole encoder; `apply(params, states, mask, start=start)` runs these layers alone.
      start: the number of the hidden state that goes into them, see `layers`.
      params: `{"params": ...}` of these layers, float32 NumPy arrays, as published.
      kind: `model_type`, one of `FAMILIES`.
      config: `config.json` with its defaults filled in, what `upper_module` needs.
      sha256: file -> hash, what packs of this encoder have in their recipe.
    """

    module: nn.Module
    start: int
    params: dict[str, Any]
    kind: str
    config: dict[str, Any]
    sha256: dict[str, str]


def open_upper(
    model: str, start: int, *, dtype: str, recompute: bool = False, batch_axis: str | None = None
) -> Upper:
    """Opens the layers of `model` above hidden state `start`.

    Args:
      model: a folder with a Hugging Face snapshot of one of `FAMILIES`, or its name on the hub.
      start: 0 to its layers - 1; state 0 goes into the first layer.
      dtype: of the matrix products, "float32" or "bfloat16"; norms and softmax are float32.
      recompute: gradients run each layer anew, so that only its input is kept. On CPU it saves
        nothing by default: XLA runs all layers anew at once.
      batch_axis: name of the mapped axis that the batch is cut over, if it is cut.

    Raises:
      UserError: the model is not there, is of another family, or its files contradict each other;
        or it has no layer above state `start`.
    """
    folder = pretrained.folder(model)
    config, file = pretrained.config(folder), os.path.join(folder, "config.json")
    kind = config["model_type"]
    module = _module(file, kind, config, dtype, recompute, batch_axis)
    if not 0 <= start < module.num_layers:
        raise UserError(
            f"from_layer={start}: wanted 0 to {module.num_layers - 1}, {model}'s layers"
        )
    tensors = FAMILIES[kind].tensors(module)
    whole = weights.load(pretrained.weights(folder), module, tensors)
    inputs = jnp.zeros((1, 2, module.features)), jnp.ones((1, 2), bool)
    needed = jax.eval_shape(functools.partial(module.init, start=start), jax.random.key(0), *inputs)
    whole = flax.traverse_util.flatten_dict(whole)
    params = {path: whole[path] for path in flax.traverse_util.flatten_dict(needed)}
    return Upper(
        module,
        start,
        flax.traverse_util.unflatten_dict(params),
        kind,
        config,
        pretrained.hashes(folder),
    )


def upper_module(
    kind: str,
    config: Mapping[str, Any],
    *,
    dtype: str,
    recompute: bool = False,
    batch_axis: str | None = None,
) -> nn.Module:
    """`Upper.module` again, from its `kind` and `config`: no file is read.

    Raises:
      UserError: `kind` is none of `FAMILIES`, or its family has no module for `config`.
    """
    return _module("config.json", kind, config, dtype, recompute, batch_axis)


def _module(
    file: str,
    kind: str,
    config: Mapping[str, Any],
    dtype: str,
    recompute: bool,
    batch_axis: str | None,
) -> Any:
    if kind not in FAMILIES:
        raise UserError(
            f"{file}: model_type is {kind!r}, wanted {', '.join(FAMILIES)}; a vision model's upper "
            "layers need all patches of a picture, and a pack holds one vector a frame"
        )
    module = FAMILIES[kind].from_config(file, config, pretrained.compute_dtype(dtype))
    return module.clone(recompute=recompute, batch_axis=batch_axis)
