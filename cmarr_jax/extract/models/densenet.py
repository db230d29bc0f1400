"""DenseNet-BC for faces, as the FER+ network behind "denseface" features was built.

Depth 100, growth 12, three blocks: 342 features of a grey 64 x 64 face. Reference: Huang et al.,
Densely Connected Convolutional Networks, CVPR 2017; the variant (stride 2 in the first
convolution, epsilon 1e-3) is that of the MMIN family's extractor, https://github.com/AIM3-RUC/MMIN.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

INPUT_SIZE = 64


class _NormReluConv(nn.Module):
    """Batch norm by stored statistics, ReLU, convolution without bias."""

    features: int
    kernel: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(_batch_norm(self.dtype)(x))
        return nn.Conv(
            self.features, (self.kernel,) * 2, use_bias=False, dtype=self.dtype, name="conv"
        )(x)


class DenseNet(nn.Module):
    """Features and class scores of faces; for inference only.

    Attributes:
      layers: dense layers a block; 16 makes the depth 100.
      growth: channels that a layer adds.
      blocks: dense blocks; a transition halves channels, height and width between two.
      num_classes: 8 for FER+ (neutral, happy, surprise, sad, anger, disgust, fear, contempt).
      dtype: of the convolutions and what stands between them; pooling adds up in float32.
    """

    layers: int = 16
    growth: int = 12
    blocks: int = 3
    num_classes: int = 8
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, faces: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Faces `[B, H, W, 1]`, normalised -> features `[B, D]` and logits `[B, C]`, float32.

        H and W are divisible by 2 to the number of blocks, or the rest is cut.
        """
        x = nn.Conv(
            2 * self.growth,
            (3, 3),
            strides=2,
            padding="SAME",  # at stride 2 pads below and right alone, as TensorFlow does
            use_bias=False,
            dtype=self.dtype,
            name="initial",
        )(faces)
        for block in range(self.blocks):
            for layer in range(self.layers):
                name = f"block_{block}_layer_{layer}"
                new = _NormReluConv(4 * self.growth, 1, self.dtype, name=f"{name}_bottleneck")(x)
                new = _NormReluConv(self.growth, 3, self.dtype, name=f"{name}_composite")(new)
                x = jnp.concatenate([x, new], axis=-1)
            if block < self.blocks - 1:
                channels = x.shape[-1] // 2
                x = _NormReluConv(channels, 1, self.dtype, name=f"transition_{block}")(x)
                x = nn.avg_pool(x.astype(jnp.float32), (2, 2), strides=(2, 2)).astype(self.dtype)
        x = nn.relu(_batch_norm(self.dtype)(x))
        features = x.astype(jnp.float32).mean(axis=(1, 2))
        return features, nn.Dense(self.num_classes, name="classes")(features)


def _batch_norm(dtype: jnp.dtype) -> nn.BatchNorm:
    # 1e-3 is the default of the TensorFlow layer that the weights were trained with.
    return nn.BatchNorm(use_running_average=True, epsilon=1e-3, dtype=dtype, name="norm")
