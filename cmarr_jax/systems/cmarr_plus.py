"""CM-ARR+: CM-ARR and a classifier a modality whose logits add up, a product of experts.

    logits = sum over the available m of head_m(features_m) + CM-ARR's logits

CM-ARR's logits count where two or more modalities are available (`heads.fusion`). CM-ARR is as
it is; each head reads its modality's normalised features, which CM-ARR's alignment,
flows and fusion have no part in, and is trained by the sum's cross-entropy and by one of its own.
CM-ARR then has to say what the heads cannot: how modalities interact. Where they are independent
given the class, the sum of log-posteriors is the right answer by itself (Hinton, Training Products
of Experts by Minimizing Contrastive Divergence, Neural Computation 2002, for the name).

A head also learns from the posterior of all that is available with it (Hinton et al., Distilling
the Knowledge in a Neural Network, 2015): a modality alone is taught by the modalities together.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmarr_jax import losses
from cmarr_jax.errors import UserError
from cmarr_jax.nn.dropout import Dropout
from cmarr_jax.nn.periodic import Head
from cmarr_jax.nn.umc import masked_mean
from cmarr_jax.systems import cmarr
from cmarr_jax.systems.system import Batch, Prediction, Stage, System, gather

_FUSION = ("several", "always", "never")


class Heads(nn.Module):
    """One classifier a modality; `config` is the part `heads` of the model's."""

    config: Any
    modalities: tuple[str, ...]
    num_classes: int
    batch_axis: str | None = None

    @nn.compact
    def __call__(self, batch: Batch) -> jax.Array:
        """-> logits `[M, B, C]`; nothing here mixes modalities."""
        c = self.config
        dropout = functools.partial(Dropout, c.dropout, self.batch_axis)
        head = functools.partial(Head, c.width, self.num_classes, dropout)
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
      fusion: when CM-ARR's count: "several" (with two or more modalities), "always", "never".
    """
    total = jnp.sum(jnp.where(available.T[:, :, None], heads, 0), axis=0)
    if fusion == "always":
        return total + fused
    several = jnp.sum(available, axis=1, keepdims=True) > 1
    return total + jnp.where(several, fused, 0) if fusion == "several" else total


def make(
    config: Any, modalities: Sequence[str], num_classes: int, batch_axis: str | None = None
) -> System:
    """CM-ARR+ as a system; arguments and errors as of `systems.cmarr.make`."""
    cmarr.check(config)
    if config.heads.fusion not in _FUSION:
        raise UserError(
            f"--config.model.heads.fusion={config.heads.fusion}: wanted one of {', '.join(_FUSION)}"
        )
    parts = tuple(modalities), num_classes, batch_axis
    network, heads = cmarr.CMARR(config, *parts), Heads(config.heads, *parts)
    whole = functools.partial(gather, batch_axis=batch_axis)

    def part(params, name):
        return {"params": params["params"][name]}

    def init(key, batch, before):
        keys = jax.random.split(key)
        made = {
            "cmarr": network.init(keys[0], batch, batch.present)["params"],
            "heads": heads.init(keys[1], batch)["params"],
        }
        return {"params": made}

    def loss(params, batch, available, key):
        keys = jax.random.split(key)
        own = part(params, "cmarr")
        encoded, fused = cmarr.train_fused(network, own, batch, available, keys[0])
        alone = heads.apply(part(params, "heads"), batch, rngs={"dropout": keys[1]})
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

    def encode(params, batch):
        encoded = network.apply(part(params, "cmarr"), batch, method="encode")
        return encoded, heads.apply(part(params, "heads"), batch)

    def predict(params, encoded, mask, available):
        encoded, alone = encoded
        own = part(params, "cmarr")
        fused = cmarr.decide_missing(network, own, encoded, mask, available)
        together = combine(alone, fused.logits, available, config.heads.fusion)
        return Prediction(together, fused.recovered, encoded.x)

    weights = cmarr.loss_weights(config)
    return System((Stage("train", init, loss, encode, predict, weights),))
