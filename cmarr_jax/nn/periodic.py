"""A classifier with one periodic hidden layer: trained random Fourier features."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cmarr_jax.nn.dense import product


class Head(nn.Module):
    """sqrt(2) cos(W x + b), dropout, and a linear layer that starts at zero.

    At the start the hidden layer's inner products estimate the Gaussian kernel
    exp(-|x - y|^2 / D) (Rahimi and Recht, Random Features for Large-Scale Kernel Machines, NIPS
    2007), so that the head begins as a kernel machine; W and b are then trained with the rest
    (periodic features: Gorishniy et al., On Embeddings for Numerical Features, NeurIPS 2022).
    Weight decay would make the Gaussian kernel wider. So W is not named "kernel": weight decay
    acts on those (`systems.system.kernels`).

    Attributes:
      width: of the hidden layer.
      num_classes: C.
      dropout: makes the dropout layer.
      periodic: False makes the hidden layer an ordinary one with rectified linear units.
      dtype: of the hidden layer's product, see `cmarr_jax.nn`; phases and logits are float32.
    """

    width: int
    num_classes: int
    dropout: Callable[[], nn.Module]
    periodic: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, D]`, about standard normal -> logits `[B, C]`."""
        if self.periodic:
            shape, phase = (x.shape[-1], self.width), nn.initializers.uniform(2 * math.pi)
            deviation = nn.initializers.normal(math.sqrt(2 / x.shape[-1]))
            frequencies = self.param("frequencies", deviation, shape)
            phases = self.param("phases", phase, (self.width,))
            turned = product(x.astype(self.dtype), frequencies).astype(jnp.float32)
            hidden = math.sqrt(2) * jnp.cos(turned + phases.reshape(1, -1))
        else:
            hidden = nn.relu(nn.Dense(self.width, dtype=self.dtype, name="hidden")(x))
        zeros = nn.initializers.zeros
        classifier = nn.Dense(
            self.num_classes, kernel_init=zeros, dtype=jnp.float32, name="classifier"
        )
        return classifier(self.dropout()(hidden))
