"""In what numbers a system computes: `--config.precision`.

Whatever it is, parameters, the optimizer's moments, the statistics of norms, softmax, the flows'
carried values and log determinants, logits and losses are float32.
"""

import contextlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cmarr_jax.errors import UserError


class Precision(NamedTuple):
    """How activations are kept and matrices multiplied.

    Attributes:
      name: as a config has it.
      dtype: of activations and of the matrices that are multiplied.
      products: how float32 matrices are multiplied, as `jax.default_matmul_precision` names it;
        None = as the backend does it by itself.
    """

    name: str
    dtype: DTypeLike
    products: str | None

    def multiplying(self) -> contextlib.AbstractContextManager:
        """A context in which what is traced multiplies as `products` says."""
        return jax.default_matmul_precision(self.products)


FLOAT32 = Precision("float32", jnp.float32, "highest")
TF32 = Precision("tf32", jnp.float32, "tensorfloat32")
BF16 = Precision("bf16", jnp.bfloat16, None)
PRECISIONS = {each.name: each for each in (FLOAT32, TF32, BF16)}

# A GPU's is the one that it was measured with; a TPU multiplies in bfloat16 anyway.
_OF_BACKEND = {"gpu": TF32, "tpu": BF16}


def choose(name: str) -> Precision:
    """The precision of a config's field; "auto" is the default of JAX's backend.

    Raises:
      UserError: there is no such precision, or the backend does not have it.
    """
    backend = jax.default_backend()
    if name == "auto":
        return _OF_BACKEND.get(backend, FLOAT32)
    if name not in PRECISIONS:
        raise UserError(f"--config.precision={name}: wanted auto, {', '.join(PRECISIONS)}")
    if name == "tf32" and backend != "gpu":
        raise UserError(
            f"--config.precision=tf32: GPUs alone have it, this is a {backend.upper()}; wanted "
            "float32 or bf16"
        )
    return PRECISIONS[name]
