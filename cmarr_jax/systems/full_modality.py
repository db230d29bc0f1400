"""The paper's "Baseline" (Table 3): feature extraction and cross-modal fusion, nothing recovered.

It trains on complete data; the sequence of a missing modality is zero. `augmented` trains the same
network on simulated missing modalities.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from cmarr_jax.nn.conv import Conv1D
from cmarr_jax.nn.dense import Dense
from cmarr_jax.nn.dropout import Dropout
from cmarr_jax.nn.fusion import Fusion, parse_pairs
from cmarr_jax.systems.checks import check_fusion
from cmarr_jax.systems.system import Batch, Output, Stage, System, whole_cross_entropy


class FullModality(nn.Module):
    """CM-ARR's projections, convolutions and fusion; `config` as in `systems.cmarr.CMARR`."""

    config: ConfigDict
    modalities: tuple[str, ...]
    num_classes: int
    batch_axis: str | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """A projection, norm and convolution for each modality, then the fusion."""
        c = self.config
        self.input_dropout = self._dropout(c.input_dropout)()
        self.projections = [
            Dense(c.width, dtype=self.dtype, name=f"project_{m}") for m in self.modalities
        ]
        self.norms = [nn.LayerNorm(dtype=self.dtype, name=f"norm_{m}") for m in self.modalities]
        self.convs = [
            Conv1D(c.width, c.conv_kernel, dtype=self.dtype, name=f"conv_{m}")
            for m in self.modalities
        ]
        pairs = parse_pairs(c.fusion.pairs, self.modalities)
        self.fusion = Fusion(c, self.modalities, pairs, self.num_classes, self._dropout, self.dtype)

    def _dropout(self, rate: float) -> Callable[[], nn.Module]:
        return functools.partial(Dropout, rate, self.batch_axis)

    def __call__(self, batch: Batch, available: jax.Array) -> jax.Array:
        """-> logits `[B, C]`."""
        return self.decide(self.embed(batch), batch.mask, available)

    def embed(self, batch: Batch) -> jax.Array:
        """-> `[M, B, T, D]`, zero where padded."""
        valid, sequences = batch.mask[..., None], []
        for k, modality in enumerate(self.modalities):
            x = self.projections[k](self.input_dropout(batch.features[modality]))
            sequences.append(self.convs[k](self.norms[k](x) * valid) * valid)
        return jnp.stack(sequences)

    def decide(self, sequences: jax.Array, mask: jax.Array, available: jax.Array) -> jax.Array:
        """`[M, B, T, D]` -> logits `[B, C]`; what is not available counts as zero."""
        return self.fusion(jnp.where(available.T[:, :, None, None], sequences, 0), mask)


def make(
    config: ConfigDict,
    modalities: Sequence[str],
    num_classes: int,
    batch_axis: str | None = None,
    dtype: DTypeLike = jnp.float32,
) -> System:
    """The baseline as a system; arguments and errors as in `systems.cmarr.make`."""
    return System((make_stage(config, modalities, num_classes, batch_axis, dtype, complete=True),))


def make_stage(
    config: ConfigDict,
    modalities: Sequence[str],
    num_classes: int,
    batch_axis: str | None,
    dtype: DTypeLike,
    *,
    complete: bool,
) -> Stage:
    """The network as a stage; `complete`: on complete data, else with modalities missing."""
    check_fusion(config, modalities)
    network = FullModality(config, tuple(modalities), num_classes, batch_axis, dtype)

    def loss(params, batch, available, key):
        logits = network.apply(params, batch, available, rngs={"dropout": key})
        return {"cls": whole_cross_entropy(logits, batch, batch_axis)}

    def encode(params, batch):
        return network.apply(params, batch, method="embed")

    def predict(params, encoded, mask, available):
        logits = network.apply(params, encoded, mask, available, method="decide")
        return Output(logits, None, None)

    def init(key, batch, before):
        return network.init(key, batch, batch.present)

    return Stage("train", init, loss, encode, predict, complete=complete)
