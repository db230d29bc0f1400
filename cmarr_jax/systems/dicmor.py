"""DiCMoR: distribution-consistent modal recovering (Wang, Cui and Li, ICCV 2023).

First, one convolution for each modality and MulT's fusion learn on complete data. Then the
convolutions are frozen, so that the distributions stay as they are, while flows learn these by
likelihood under class-conditional Gaussians, and recovery and fusion learn with missing modalities.

    CE + w (sum over modalities of max(0, NLL in bits a feature) + rec)
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from cmarr_jax import losses
from cmarr_jax.errors import UserError
from cmarr_jax.nn.conv import Conv1D
from cmarr_jax.nn.dropout import Dropout
from cmarr_jax.nn.flows import PERMUTATIONS, RealNVP
from cmarr_jax.nn.mult import MulT, ResidualMLP
from cmarr_jax.nn.rcab import ReconstructionHead
from cmarr_jax.nn.umc import masked_mean
from cmarr_jax.systems.checks import check_choice, check_faithful_to
from cmarr_jax.systems.system import Batch, Output, Stage, System, gather, whole_cross_entropy


class Backbone(nn.Module):
    """The convolutions and the fusion: the network of the first stage."""

    config: ConfigDict
    modalities: tuple[str, ...]
    num_classes: int
    batch_axis: str | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """A convolution for each modality, the fusion, the classifier."""
        c = self.config
        dropout = functools.partial(Dropout, c.dropout, self.batch_axis)
        self.text_dropout = Dropout(c.text_dropout, self.batch_axis)
        self.convs = [
            Conv1D(c.width, c.conv_kernel, False, self.dtype, name=f"conv_{m}")
            for m in self.modalities
        ]
        if len(self.modalities) > 1:
            of_source = [
                c.get(f"attention_dropout_{m}", c.attention_dropout) for m in self.modalities
            ]
            self.fusion = MulT(
                len(self.modalities),
                c.num_layers,
                c.num_heads,
                dropout,
                functools.partial(Dropout, c.embed_dropout, self.batch_axis),
                (tuple(of_source), c.attention_dropout),
                self.dtype,
            )
        self.classifier = ResidualMLP(
            self.num_classes, functools.partial(Dropout, c.out_dropout, self.batch_axis)
        )

    def __call__(self, batch: Batch, available: jax.Array) -> jax.Array:
        """-> logits `[B, C]`."""
        sequences = jnp.where(available.T[:, :, None, None], self.embed(batch), 0)
        return self.decide(sequences, batch.mask)

    def embed(self, batch: Batch) -> jax.Array:
        """-> `[M, B, T, D]`, zero where padded."""
        valid = batch.mask[..., None]
        features = dict(batch.features)
        if "text" in features:
            features["text"] = self.text_dropout(features["text"])
        return jnp.stack(
            [
                conv(features[m] * valid) * valid
                for conv, m in zip(self.convs, self.modalities, strict=True)
            ]
        )

    def decide(self, sequences: jax.Array, mask: jax.Array) -> jax.Array:
        """`[M, B, T, D]` under `mask` `[B, T]` -> logits `[B, C]`."""
        if len(self.modalities) == 1:
            return self.classifier(masked_mean(sequences[0], mask))
        return self.classifier(self.fusion(sequences, mask))


class Recovery(nn.Module):
    """The second stage: the backbone, flows, a class prior and recovery."""

    config: ConfigDict
    modalities: tuple[str, ...]
    num_classes: int
    batch_axis: str | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """The backbone, the flows and reconstruction heads stacked over M, the prior."""
        c, num = self.config, len(self.modalities)
        stacked = functools.partial(
            nn.vmap,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=0,
            axis_size=num,
        )
        self.backbone = Backbone(c, self.modalities, self.num_classes, self.batch_axis, self.dtype)
        self.flow = stacked(RealNVP, methods=["forward_and_log_det", "inverse"])(
            c.width,
            c.flow.num_couplings,
            c.flow.hidden,
            "sigmoid",
            c.flow.permute,
            True,
            self.dtype,
        )
        self.reconstruct = stacked(ReconstructionHead)(c.num_blocks, dtype=self.dtype)
        if c.faithful_to == "code":
            self.mix = stacked(nn.Dense)(c.width, dtype=self.dtype)
        shape, zeros = (self.num_classes, c.width), nn.initializers.zeros
        self.prior_mu = self.param("prior_mu", zeros, shape)
        self.prior_log_sigma = self.param("prior_log_sigma", zeros, shape)

    def __call__(self, batch: Batch, available: jax.Array) -> tuple[jax.Array, ...]:
        """-> x, z `[M, B, T, D]`, log_det `[M, B, T]`, recovered `[M, B, T, D]`, logits."""
        x, z, log_det = self.encode(batch)
        recovered, logits = self.decide(x, z, batch.mask, available)
        return x, z, log_det, recovered, logits

    def encode(self, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """-> x, z `[M, B, T, D]`, log_det `[M, B, T]`; no gradient passes x."""
        x = jax.lax.stop_gradient(self.backbone.embed(batch))
        return x, *self.flow.forward_and_log_det(x)

    def decide(
        self, x: jax.Array, z: jax.Array, mask: jax.Array, available: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """-> recovered `[M, B, T, D]`, logits `[B, C]`."""
        masks = jnp.broadcast_to(mask, (len(self.modalities), *mask.shape))
        has = available.T[:, :, None, None]
        latents = jnp.where(has, z, 0)
        count = jnp.maximum(jnp.sum(has, axis=0), 1)
        if self.config.faithful_to == "paper":
            mean = jnp.sum(latents, axis=0) / count
            guess = self._invert(mean, z.shape)
        else:
            guess = self._mix_all(latents, has)
        recovered = self.reconstruct(guess * masks[..., None], masks)
        return recovered, self.backbone.decide(jnp.where(has, x, recovered), mask)

    def _invert(self, latent: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """`[B, T, D]` through every flow's inverse; no gradient: likelihood trains the flows."""
        return jax.lax.stop_gradient(self.flow.inverse(jnp.broadcast_to(latent, shape)))

    def _mix_all(self, latents: jax.Array, has: jax.Array) -> jax.Array:
        """The code's way: each available latent through each flow, joined by a 1 x 1 convolution.

        A single available latent skips the convolution. The published convolution takes exactly
        two latents; here missing ones are zero, so that there may be any number of modalities.
        """
        sources = [
            self._invert(latent, latents.shape) * present[None]
            for latent, present in zip(latents, has, strict=True)
        ]
        count = jnp.sum(has, axis=0)[None]
        return jnp.where(count > 1, self.mix(jnp.concatenate(sources, axis=-1)), sum(sources))


def make(
    config: ConfigDict,
    modalities: Sequence[str],
    num_classes: int,
    batch_axis: str | None = None,
    dtype: DTypeLike = jnp.float32,
) -> System:
    """DiCMoR as a system; arguments as in `systems.cmarr.make`.

    Raises:
      UserError: a field of `config` has a value that it cannot have.
    """
    check_faithful_to(config)
    check_choice(config, "flow.permute", PERMUTATIONS)
    if config.width % (2 * config.num_heads) or not config.conv_kernel % 2:
        raise UserError(
            f"--config.model.width={config.width}, conv_kernel={config.conv_kernel}: wanted a "
            f"multiple of {2 * config.num_heads} (twice num_heads) and an odd kernel"
        )
    whole = functools.partial(gather, axis=1, batch_axis=batch_axis)
    network = Recovery(config, tuple(modalities), num_classes, batch_axis, dtype)

    def init(key, batch, before):
        params = network.init(key, batch, batch.present)["params"]
        return {"params": params | {"backbone": before["params"]}}

    def loss(params, batch, available, key):
        x, z, log_det, recovered, logits = network.apply(
            params, batch, available, rngs={"dropout": key}
        )
        masks = jnp.broadcast_to(batch.mask, x.shape[:3])
        tree = params["params"]
        prior = (tree[n][batch.labels][None, :, None] for n in ("prior_mu", "prior_log_sigma"))
        bits = losses.gaussian_nll(z, log_det, masks, *prior) / jnp.log(2)
        present = whole(batch.present.T)
        per_modality = jax.vmap(losses.weighted_mean)(whole(bits), present)
        errors = losses.squared_errors(recovered, x, masks)
        errors = errors / (jnp.maximum(jnp.sum(masks, axis=-1), 1) * config.width)
        return {
            "cls": whole_cross_entropy(logits, batch, batch_axis),
            "nll": jnp.sum(jnp.maximum(per_modality, 0)),
            "rec": losses.weighted_mean(whole(errors), present & ~whole(available.T)),
        }

    def predict(params, encoded, mask, available):
        x, z, _ = encoded
        recovered, logits = network.apply(params, x, z, mask, available, method="decide")
        return Output(logits, recovered, x)

    def encode(params, batch):
        return network.apply(params, batch, method="encode")

    frozen = tuple(f"conv_{m}" for m in modalities)
    weights = dict.fromkeys(("nll", "rec"), config.recovery_weight)
    recover = Stage("train", init, loss, encode, predict, weights, frozen=frozen)
    return System((_pretrain(config, modalities, num_classes, batch_axis, dtype), recover))


def _pretrain(
    config: ConfigDict,
    modalities: Sequence[str],
    num_classes: int,
    batch_axis: str | None,
    dtype: DTypeLike,
) -> Stage:
    network = Backbone(config, tuple(modalities), num_classes, batch_axis, dtype)

    def loss(params, batch, available, key):
        logits = network.apply(params, batch, available, rngs={"dropout": key})
        return {"cls": whole_cross_entropy(logits, batch, batch_axis)}

    def predict(params, encoded, mask, available):
        sequences = jnp.where(available.T[:, :, None, None], encoded, 0)
        return Output(network.apply(params, sequences, mask, method="decide"), None, None)

    return Stage(
        "pretrain",
        lambda key, batch, before: network.init(key, batch, batch.present),
        loss,
        lambda params, batch: network.apply(params, batch, method="embed"),
        predict,
        complete=True,
        depends=(
            "width",
            "conv_kernel",
            "num_layers",
            "num_heads",
            "dropout",
            "attention_dropout",
            "attention_dropout_speech",
            "attention_dropout_video",
            "embed_dropout",
            "text_dropout",
            "out_dropout",
        ),
    )
