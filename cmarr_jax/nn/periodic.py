"""A classifier with one periodic hidden layer: random Fourier features that are trained."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


class PeriodicHead(nn.Module):
    """sqrt(2) cos(W x + b), dropout, and a linear layer that starts at zero.

    At the start the hidden layer's inner products estimate the Gaussian kernel
    exp(-|x - y|^2 / D) (Rahimi and Recht, Random Features for Large-Scale Kernel Machines, NIPS
    2007), so that the head begins as a kernel machine; W and b are then trained with the rest
    (periodic features: Gorishniy et al., On Embeddings for Numerical Features, NeurIPS 2022).

    Attributes:
      width: of the hidden layer.
      num_classes: C.
      dropout: makes the dropout layer.
      activation: "cos", or "relu" for an ordinary layer of the same size.
    """

    width: int
    num_classes: int
    dropout: Callable[[], nn.Module]
    activation: str = "cos"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, D]`, about standard normal -> logits `[B, C]`."""
        if self.activation == "cos":
            hidden = nn.Dense(
                self.width,
                kernel_init=nn.initializers.normal(math.sqrt(2 / x.shape[-1])),
                bias_init=nn.initializers.uniform(2 * math.pi),
                name="frequencies",
            )(x)
            hidden = math.sqrt(2) * jnp.cos(hidden)
        else:
            hidden = nn.relu(nn.Dense(self.width, name="hidden")(x))
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="classifier")(
            self.dropout()(hidden)
        )
