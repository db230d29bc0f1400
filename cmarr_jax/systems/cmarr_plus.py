"""CM-ARR+: CM-ARR and one classifier for each modality; their logits add up: product of experts.

    logits = sum over the available m of head_m(features_m) + CM-ARR's logits

CM-ARR's logits count where two or more modalities are available (`heads.fusion`). CM-ARR itself
does not change. Each head reads the normalised features of its modality, before CM-ARR's alignment,
flows and fusion, and learns from the sum's cross-entropy and from one of its own. CM-ARR then
learns what the heads cannot: how modalities interact. Where modalities are independent given the
class, the sum of log-posteriors is already right (the name is from Hinton, Training Products of
Experts by Minimizing Contrastive Divergence, Neural Computation 2002).

A head also learns from the posterior of all available modalities together (Hinton et al.,
Distilling the Knowledge in a Neural Network, 2015).
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from cmarr_jax import losses
from cmarr_jax.nn.dropout import Dropout
from cmarr_jax.nn.periodic import Head
from cmarr_jax.nn.umc import masked_mean
from cmarr_jax.systems import cmarr
from cmarr_jax.systems.checks import check_choice
from cmarr_jax.systems.system import Batch, Output, Stage, System, gather

_FUSION = ("several", "always", "never")


class Heads(nn.Module):
    """One classifier for each modality; `config` is the model's section `heads`."""

    config: ConfigDict
    modalities: tuple[str, ...]
    num_classes: int
    batch_axis: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, batch: Batch) -> jax.Array:
        """-> logits `[M, B, C]`; nothing here mixes modalities."""
        c = self.config
        dropout = functools.partial(Dropout, c.dropout, self.batch_axis)
        head = functools.partial(Head, c.width, self.num_classes, dropout, dtype=self.dtype)
        means = [masked_mean(batch.features[m], batch.mask) for m in self.modalities]
        return jnp.stack(
            [head(m in c.periodic, name=m)(x) for m, x in zip(self.modalities, means, strict=True)]
        )


def combine(heads: jax.Array, fused: jax.Array, available: jax.Array, fusion: str) -> jax.Array:
    """The product of experts' logits `[B, C]`.

    Args:
      heads: logits of the heads, `[M, B, C]`.
      fused: CM-ARR's, `[B, C]`.
      available: `[B, M]`.
      fusion: when CM-ARR's logits count: "several" (with two or more modalities), "always" or
        "never".
    """
    total = jnp.sum(jnp.where(available.T[:, :, None], heads, 0), axis=0)
    if fusion == "always":
        return total + fused
    several = jnp.sum(available, axis=1, keepdims=True) > 1
    return total + jnp.where(several, fused, 0) if fusion == "several" else total


def make(
    config: ConfigDict,
    modalities: Sequence[str],
    num_classes: int,
    batch_axis: str | None = None,
    dtype: DTypeLike = jnp.float32,
) -> System:
    """CM-ARR+ as a system; arguments and errors as in `systems.cmarr.make`."""
    cmarr.check(config, modalities)
    check_choice(config, "heads.fusion", _FUSION)
    shape = tuple(modalities), num_classes, batch_axis, dtype
    network, heads = cmarr.CMARR(config, *shape), Heads(config.heads, *shape)
    whole = functools.partial(gather, batch_axis=batch_axis)

    def select(params, name):
        return {"params": params["params"][name]}

    def init(key, batch, before):
        keys = jax.random.split(key)
        modules = {
            "cmarr": network.init(keys[0], batch, batch.present)["params"],
            "heads": heads.init(keys[1], batch)["params"],
        }
        return {"params": modules}

    def loss(params, batch, available, key, chunk=0):
        keys = jax.random.split(key)
        own = select(params, "cmarr")
        encoded, fused = network.apply(own, batch, available, chunk, rngs={"dropout": keys[0]})
        alone = heads.apply(select(params, "heads"), batch, rngs={"dropout": keys[1]})
        together = combine(alone, fused.logits, available, config.heads.fusion)
        terms = cmarr.loss_terms(
            network, own, encoded, fused._replace(logits=together), batch, available
        )
        labels, weights = whole(batch.labels), whole(batch.weights)
        present, seen = whole(batch.present).T, whole(available).T
        posterior = jax.lax.stop_gradient(jax.nn.softmax(whole(together)))
        label = jax.nn.one_hot(labels, num_classes)
        taught = config.heads.distillation * seen[:, :, None]
        target = (1 - taught) * label[None] + taught * posterior[None]
        errors = -jnp.sum(target * jax.nn.log_softmax(whole(alone, 1)), axis=-1)
        terms["heads"] = sum(
            losses.weighted_mean(e, weights * p) for e, p in zip(errors, present, strict=True)
        )
        return terms

    def loss_on_cpu(params, batch, available, key):
        return loss(params, batch, available, key, cmarr.training_chunk(config, batch.mask))

    def encode(params, batch):
        encoded = network.apply(select(params, "cmarr"), batch, method="encode")
        return encoded, heads.apply(select(params, "heads"), batch)

    def predict(params, encoded, mask, available):
        encoded, alone = encoded
        own, chunk = select(params, "cmarr"), cmarr.evaluation_chunk(available)
        fused = network.apply(own, encoded, mask, available, chunk, method="decide")
        together = combine(alone, fused.logits, available, config.heads.fusion)
        return Output(together, fused.recovered, encoded.x)

    weights = cmarr.loss_weights(config)
    stage = Stage("train", init, loss, encode, predict, weights, loss_on_cpu=loss_on_cpu)
    return System((stage,))
