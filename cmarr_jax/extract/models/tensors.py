"""What a family of encoders says of its checkpoints: which tensor fills which parameter."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np


class Tensors(NamedTuple):
    """The tensors of a checkpoint, named as Hugging Face's models name them.

    Attributes:
      prefixes: of the names in checkpoints of a whole model with its heads; `"bert."`.
      modules: path of a linen module, such as `"layer_0/query"` -> its name in the checkpoint.
      ignored: a regular expression; matching tensors belong to parts that the encoder leaves out.
      inputs: arguments of the module with which its parameters can be made.
      adapt: old or split tensors -> those that `modules` names; in place of what it read.
    """

    prefixes: tuple[str, ...]
    modules: Mapping[str, str]
    ignored: str
    inputs: tuple[jax.Array | np.ndarray, ...]
    adapt: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda tensors: tensors
