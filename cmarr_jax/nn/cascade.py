"""Cascaded residual autoencoder (Tran et al., CVPR 2017) as the MMIN family wires it.

Weights start with a variance of 1 / fan-in. The family's code starts them with twice that: five
blocks then multiply the variance of their input by three thousand before the first step.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class _Autoencoder(nn.Module):
    """One block of the cascade; a scan body over the blocks."""

    widths: Sequence[int]
    wiring: str
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, jax.Array], context: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        received, out = carry
        received = (received if self.wiring == "sum" else context) + out
        hidden = received
        for width in self.widths[:-1]:
            hidden = nn.leaky_relu(nn.Dense(width, dtype=self.dtype)(hidden), 0.01)
        code = nn.Dense(self.widths[-1], dtype=self.dtype)(hidden)
        hidden = code
        for width in self.widths[-2::-1]:
            hidden = nn.relu(nn.Dense(width, dtype=self.dtype)(hidden))
        out = nn.Dense(received.shape[-1], dtype=self.dtype)(hidden)
        return (received, out), code


class Cascade(nn.Module):
    """K residual autoencoders in a row and a transition; r, z, o are a block's input, code, output.

        "sum" (MMIN, CRA)     r_k = r_(k-1) + o_(k-1), r_1 = x
        "context" (IF-MMIN)   r_k = o_(k-1) + c,       o_0 = x
        z_k = Enc_k(r_k), o_k = Dec_k(z_k);  result = Linear ReLU Linear of what `output` names

    Attributes:
      num_blocks: K.
      widths: of the layers of a block's encoder; the decoder mirrors it.
      wiring: "sum" or "context".
      output: "sum": r_K + o_K (MMIN, CRA, CIF-MMIN); "last": o_K (IF-MMIN).
      dtype: of the products, see `cmarr_jax.nn`.
    """

    num_blocks: int
    widths: Sequence[int] = (256, 128, 64)
    wiring: str = "sum"
    output: str = "sum"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """`x` and `context` `[B, D]` -> result `[B, D]`, all codes `[B, K * widths[-1]]`."""
        x = x.astype(self.dtype)
        zeros = jnp.zeros_like(x)
        start = (x, zeros) if self.wiring == "sum" else (zeros, x)
        blocks = nn.scan(
            _Autoencoder,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.num_blocks,
        )(tuple(self.widths), self.wiring, self.dtype)
        context = zeros if context is None else context.astype(self.dtype)
        (received, out), codes = blocks(start, context)
        hidden = received + out if self.output == "sum" else out
        hidden = nn.relu(nn.Dense(x.shape[-1], dtype=self.dtype)(hidden))
        result = nn.Dense(x.shape[-1], dtype=self.dtype)(hidden)
        return result, jnp.swapaxes(codes, 0, 1).reshape(x.shape[0], -1)
