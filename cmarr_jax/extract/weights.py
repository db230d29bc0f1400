"""Published checkpoints as parameters: every tensor is used, every parameter is filled.

A checkpoint (`checkpoint`) has the tensor names of Hugging Face's models, with or without the
model's prefix. Every tensor fills a parameter or is on the list of parts that the encoders leave
out; every parameter is filled. PyTorch's layouts become linen's: a matrix is transposed, a
convolution `[out, in, K]` becomes `[K, in, out]`, one over a picture `[out, in, H, W]` becomes
`[H, W, in, out]`.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract import checkpoint
from cmarr_jax.extract.models.tensors import Tensors

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


def load(file: str, module: nn.Module, names: Tensors) -> dict[str, Any]:
    """Variables of `module` from the checkpoint `file`, float32.

    Args:
      file: the checkpoint.
      module: an encoder of `models`.
      names: what its family says of its tensors.

    Raises:
      UserError: `file` cannot be read, or is not a checkpoint of `module`'s shape.
    """
    tensors = {}
    for name, tensor in checkpoint.read(file).items():
        for prefix in names.prefixes:
            name = name.removeprefix(prefix)
        if name in tensors:
            raise UserError(f"{file}: holds {name} twice, once under a prefix; wanted one of them")
        tensors[name] = tensor
    tensors = names.adapt(tensors)  # the only name of them: _fill lets each go when it is used
    variables = jax.eval_shape(module.init, jax.random.key(0), *names.inputs)
    shapes = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    return _fill(file, tensors, shapes, names)


def _fill(
    file: str,
    tensors: dict[str, np.ndarray],
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    names: Tensors,
) -> dict[str, Any]:
    """Gives each parameter its tensor."""
    params, unfilled = {}, []
    for path, wanted in shapes.items():
        name = names.modules.get(path)  # a parameter that stands in no module of linen's
        if name is None:
            module, leaf = path.rsplit("/", 1)
            name = f"{names.modules[module]}.{_LEAVES[leaf]}"
        tensor = tensors.pop(name, None)
        if tensor is None:
            unfilled.append(name)
            continue
        if path.endswith("/kernel"):
            # [out, in, ...] -> [..., in, out]
            tensor = np.moveaxis(tensor, (0, 1), (-1, -2)) if tensor.ndim > 1 else tensor
        if tensor.shape != wanted.shape:
            raise UserError(
                f"{file}: tensor {name} is {tensor.shape} in linen's layout, but config.json "
                f"beside it describes {wanted.shape}; the two belong to different models"
            )
        params[path] = np.ascontiguousarray(tensor, np.float32)
    if unfilled:
        raise UserError(
            f"{file}: lacks {len(unfilled)} of {len(shapes)} tensors, among them {unfilled[0]}; "
            "wanted a checkpoint of the model that config.json beside it describes"
        )
    if extra := sorted(name for name in tensors if not re.fullmatch(names.ignored, name)):
        raise UserError(
            f"{file}: holds {len(extra)} tensors that the model has no place for, among them "
            f"{extra[0]}; wanted a checkpoint of the model that config.json beside it describes"
        )
    return {"params": flax.traverse_util.unflatten_dict(params, sep="/")}
