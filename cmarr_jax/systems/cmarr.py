"""CM-ARR: cross-modal alignment, reconstruction and refinement (Sun et al., arXiv:2407.09029).

    R_m  --Dense, LayerNorm-->  tokens  --UMC-->  Gaussians                    alignment
    mu_m --Conv1D--> X_m --flow F_m--> Z_m;  Z~ = mean of the available Z
    X~_m = F_m^-1(Z~);  X^_m = head_m(X~_m) for what is missing                reconstruction
    cross-attention from text to the others, self-attention, classifier        refinement, fusion

The modalities' blocks have equal shapes, so each is one module vmapped over a leading axis M.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from cmarr_jax import losses
from cmarr_jax.errors import UserError
from cmarr_jax.nn.conv import Conv1D
from cmarr_jax.nn.dense import Dense
from cmarr_jax.nn.dropout import Dropout, draw_normal
from cmarr_jax.nn.flows import PERMUTATIONS, RealNVP
from cmarr_jax.nn.fusion import Fusion, parse_pairs
from cmarr_jax.nn.missing import rebuild_missing
from cmarr_jax.nn.rcab import ReconstructionHead
from cmarr_jax.nn.umc import UMC, Gaussian, GaussianPooling, masked_mean
from cmarr_jax.systems.checks import check_choice, check_fusion
from cmarr_jax.systems.system import Batch, Output, Params, Stage, System, gather

_MAP_WIDTH = 768  # the width at which MAP chose its scale a = -1/200
_TEMPERATURE_RANGE = (0.01, 1.0)
_LEAST_POSITIONS = 256  # in one chunk of a training batch, see `training_chunk`


class Encoded(NamedTuple):
    """What each modality of each utterance gives alone: nothing here mixes them."""

    tokens: Gaussian  # [M, B, T, D]
    utterance: Gaussian  # [M, B, D]
    x: jax.Array  # [M, B, T, D], the flows' input
    z: jax.Array  # [M, B, T, D], the flows' latent
    log_det: jax.Array  # [M, B, T]


class Fused(NamedTuple):
    """What the network makes of all modalities under one availability."""

    logits: jax.Array  # [B, C]
    inputs: jax.Array  # [M, B, T, D], X where available, X^ where not
    recovered: jax.Array  # [M, B, T, D], X^; X where it was not rebuilt


class CMARR(nn.Module):
    """The network. `config` is the section `model` of configs/common.py, which explains each field.

    Attributes:
      config: a hashable, frozen ConfigDict.
      modalities: names, in the corpus' order.
      num_classes: C.
      batch_axis: name of the mapped axis that the batch is cut over, if it is.
      dtype: of activations and products; the latents, what is pooled over time, logits and losses
        are float32.
    """

    config: ConfigDict
    modalities: tuple[str, ...]
    num_classes: int
    batch_axis: str | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """The blocks of every modality, stacked over M, then the fusion that all share."""
        c, num_modalities = self.config, len(self.modalities)
        width = c.width
        stacked = functools.partial(
            nn.vmap,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=0,
            axis_size=num_modalities,
        )

        self.input_dropout = self._dropout(c.input_dropout)()
        self.projections = [
            Dense(width, dtype=self.dtype, name=f"project_{m}") for m in self.modalities
        ]
        self.project_norm = stacked(nn.LayerNorm)(dtype=self.dtype)
        self.umc = stacked(UMC)(
            variant=c.umc.variant,
            num_heads=c.umc.num_heads,
            mlp_ratio=c.umc.mlp_ratio,
            log_sigma_range=tuple(c.umc.log_sigma_range),
            dropout=self._dropout(c.umc.dropout),
            dtype=self.dtype,
        )
        self.pooling = stacked(GaussianPooling)(c.umc.pool)
        self.conv = stacked(Conv1D)(width, c.conv_kernel, dtype=self.dtype)
        self.flow = stacked(RealNVP, methods=["forward_and_log_det", "inverse"])(
            *_flow(c), dtype=self.dtype
        )
        self.reconstruct = stacked(ReconstructionHead)(*_head(c), self.dtype)
        self.log_temperature = self.param(
            "log_temperature", lambda key: jnp.log(jnp.float32(c.udcl.temperature))
        )
        if c.flow.prior == "class":
            shape, zeros = (self.num_classes, width), nn.initializers.zeros
            self.prior = Gaussian(
                *(self.param(f"prior_{n}", zeros, shape) for n in Gaussian._fields)
            )
        self.fusion = Fusion(
            c,
            self.modalities,
            parse_pairs(c.fusion.pairs, self.modalities),
            self.num_classes,
            self._dropout,
            self.dtype,
        )

    def _dropout(self, rate: float) -> Callable[[], nn.Module]:
        return functools.partial(Dropout, rate, self.batch_axis)

    def __call__(self, batch: Batch, available: jax.Array, chunk: int = 0) -> tuple[Encoded, Fused]:
        """`encode` and `decide`."""
        encoded = self.encode(batch)
        return encoded, self.decide(encoded, batch.mask, available, chunk)

    def encode(self, batch: Batch) -> Encoded:
        """What each modality gives alone (paper, section 3.1, and 3.2 up to Eq. 6)."""
        num_modalities, flow_input = len(self.modalities), self.config.flow.input
        masks = jnp.broadcast_to(batch.mask, (num_modalities, *batch.mask.shape))
        tokens = jnp.stack(
            [
                project(self.input_dropout(batch.features[m]))
                for project, m in zip(self.projections, self.modalities, strict=True)
            ]
        )
        tokens = self.project_norm(tokens) * masks[..., None]
        gaussians = self.umc(tokens, masks)
        points = tokens if flow_input == "raw" else gaussians.mu
        if flow_input == "sample" and self.has_rng("dropout"):
            shape = (points.shape[1], num_modalities, *points.shape[2:])
            noise = draw_normal(self.make_rng("dropout"), shape, self.batch_axis)
            points = points + jnp.exp(gaussians.log_sigma) * jnp.swapaxes(noise, 0, 1)
        x = self.conv(points * masks[..., None]) * masks[..., None]
        z, log_det = self.flow.forward_and_log_det(x)
        return Encoded(gaussians, self.pooling(gaussians, masks), x, z, log_det)

    def decide(
        self, encoded: Encoded, mask: jax.Array, available: jax.Array, chunk: int = 0
    ) -> Fused:
        """Recovers what is missing (Eq. 7-9), fuses (Eq. 10-13) and classifies.

        Args:
          encoded: from `encode`.
          mask: `[B, T]`.
          available: `[B, M]`.
          chunk: 0 rebuilds every modality of every utterance; else only what is missing, `chunk`
            utterances at a time, so that the cost falls with what is there.
        """
        c, missing = self.config, ~available.T
        if self.is_initializing():  # `encode` has made the flows' parameters, not the heads'
            self.reconstruct(encoded.x, jnp.broadcast_to(mask, encoded.x.shape[:3]))
        # Modules of one modality, applied below to its slice of the stacked parameters.
        flow = RealNVP(*_flow(c), dtype=self.dtype, parent=None)
        head = ReconstructionHead(*_head(c), self.dtype, parent=None)

        def rebuild(weights, latent, mask):  # Eq. 8 and 9
            x = flow.apply({"params": weights["flow"]}, latent, method="inverse")
            if c.flow.detach_inverse:
                x = jax.lax.stop_gradient(x)
            return head.apply({"params": weights["reconstruct"]}, x * mask[..., None], mask)

        weights = {name: self.variables["params"][name] for name in ("flow", "reconstruct")}
        latent = mean_latent(encoded.z, available)
        if chunk:
            recovered = rebuild_missing(rebuild, chunk, weights, latent, mask, missing)
            recovered = recovered.astype(encoded.x.dtype)
            recovered = jnp.where(missing[:, :, None, None], recovered, encoded.x)
            inputs = recovered
        else:
            every = [jnp.broadcast_to(a, (len(encoded.x), *a.shape)) for a in (latent, mask)]
            recovered = jax.vmap(rebuild)(weights, *every)
            inputs = jnp.where(missing[:, :, None, None], recovered, encoded.x)
        return Fused(self.fusion(inputs, mask), inputs, recovered)

    def temperature(self) -> jax.Array:
        """The learned temperature of L_udcl, a scalar, within its bounds if it has any."""
        temperature = jnp.exp(self.log_temperature)
        if self.config.udcl.clip_temperature:
            temperature = jnp.clip(temperature, *_TEMPERATURE_RANGE)
        return temperature

    def class_prior(self, labels: jax.Array) -> Gaussian:
        """`[B]` -> `[1, B, 1, D]`: the latent's Gaussian, one a class for all modalities."""
        return Gaussian(*(p[labels][None, :, None, :] for p in self.prior))


def _flow(config: ConfigDict) -> tuple[int, int, int, str, str]:
    flow = config.flow
    return config.width, flow.num_couplings, flow.hidden, flow.scale, flow.permute


def _head(config: ConfigDict) -> tuple[int, int, int, int]:
    rec = config.rec
    return rec.num_blocks, rec.expansion, rec.reduction, rec.kernel


def mean_latent(z: jax.Array, available: jax.Array) -> jax.Array:
    """Eq. 7, `[M, B, T, D]` -> `[B, T, D]`; 0 for an utterance without any modality."""
    has = available.T[:, :, None, None]
    return jnp.sum(jnp.where(has, z, 0), axis=0) / jnp.maximum(jnp.sum(has, axis=0), 1)


def training_chunk(config: ConfigDict, mask: jax.Array) -> int:
    """The `chunk` of `CMARR.decide` with which a CPU trains fastest on a batch of `mask` `[B, T]`.

    0, the whole batch at once as on an accelerator, where chunks would save less than it costs
    to add up the gradients of all weights once more for each, and where a loss reads everything
    that is recovered.
    """
    size, length = mask.shape
    chunk = max(-(-size // 4), -(-_LEAST_POSITIONS // length))
    return 0 if chunk >= size or config.spcl.on == "recovered" else chunk


def evaluation_chunk(available: jax.Array) -> int:
    """The `chunk` of `CMARR.decide` for scoring a batch: a quarter of it."""
    return -(-len(available) // 4)


def loss_terms(
    network: CMARR,
    params: Params,
    encoded: Encoded,
    fused: Fused,
    batch: Batch,
    available: jax.Array,
) -> dict[str, jax.Array]:
    """The terms of the loss (Eq. 14) for one batch.

    Args:
      network: its `config` says how each term is computed.
      params: the network's variables.
      encoded, fused: what the network returned for the batch, with dropout.
      batch: the batch.
      available: `[B, M]`, the simulated pattern.

    Returns:
      name -> scalar, to be multiplied by its `loss_weights`; "cls" is computed from `fused.logits`.
    """
    config = network.config
    whole = functools.partial(gather, batch_axis=network.batch_axis)
    labels = whole(batch.labels, 0)
    present = whole(batch.present, 0).T
    simulated = whole(available, 0).T
    missing = present & ~simulated
    masks = jnp.broadcast_to(batch.mask, encoded.x.shape[:3])

    target = encoded.x
    if config.rec.stop_gradient_target:
        target = jax.lax.stop_gradient(target)
    errors = losses.squared_errors(fused.recovered, target, masks)
    if config.rec.reduce == "mean":
        errors = errors / (jnp.maximum(jnp.sum(masks, axis=-1), 1) * config.width)
    points = {"fusion_inputs": fused.inputs, "recovered": fused.recovered}
    points = points.get(config.spcl.on, encoded.tokens.mu)
    points = jax.vmap(masked_mean, in_axes=(0, None))(points, batch.mask)
    points = points / jnp.sqrt(jnp.sum(points**2, axis=-1, keepdims=True) + 1e-12)
    sigma = jnp.exp(encoded.utterance.log_sigma)
    if config.udcl.sigma == "variance":
        sigma = jnp.square(sigma)
    if config.udcl.on == "point":
        sigma = jnp.zeros_like(sigma)
    scale = config.udcl.scale
    if config.udcl.normalise_by_dim:
        scale = scale * _MAP_WIDTH / config.width

    terms = {
        "cls": losses.cross_entropy(whole(fused.logits, 0), labels, whole(batch.weights, 0)),
        "udcl": losses.distribution_contrast(
            whole(encoded.utterance.mu, 1),
            whole(sigma, 1),
            simulated if config.udcl.respect_mask else present,
            network.bind(params).temperature(),
            scale=scale,
            shift=config.udcl.shift,
            reduce=config.udcl.reduce,
        ),
        "spcl": losses.point_contrast(
            whole(points, 1), labels, present, temperature=config.spcl.temperature
        ),
        "rec": losses.weighted_mean(whole(errors, 1), missing),
    }
    if config.flow.nll_weight:
        prior = ()
        if config.flow.prior == "class":
            prior = network.apply(params, batch.labels, method="class_prior")
        nll = losses.gaussian_nll(encoded.z, encoded.log_det, masks, *prior)
        terms["nll"] = losses.weighted_mean(whole(nll, 1), present)
    if config.umc.entropy_weight:
        hinge = losses.entropy_hinge(encoded.utterance.log_sigma, config.umc.entropy_margin)
        terms["entropy"] = losses.weighted_mean(whole(hinge, 1), present)
    return terms


def loss_weights(config: ConfigDict) -> dict[str, float]:
    """Name of each term of `loss_terms` -> its weight."""
    return {
        "udcl": config.udcl.weight,
        "spcl": config.spcl.weight,
        "rec": config.rec.weight,
        "nll": config.flow.nll_weight,
        "entropy": config.umc.entropy_weight,
    }


def make(
    config: ConfigDict,
    modalities: Sequence[str],
    num_classes: int,
    batch_axis: str | None = None,
    dtype: DTypeLike = jnp.float32,
) -> System:
    """CM-ARR as a system.

    Args:
      config: the section `model` of a config, frozen; see configs/common.py.
      modalities: names, in the corpus' order.
      num_classes: C.
      batch_axis: name of the mapped axis that the batch is cut over, if it is.
      dtype: of activations and products, see `cmarr_jax.systems.precision`.

    Raises:
      UserError: a field of `config` has a value that it cannot have.
    """
    check(config, modalities)
    network = CMARR(config, tuple(modalities), num_classes, batch_axis, dtype)

    def loss(params, batch, available, key, chunk=0):
        encoded, fused = network.apply(params, batch, available, chunk, rngs={"dropout": key})
        return loss_terms(network, params, encoded, fused, batch, available)

    def loss_on_cpu(params, batch, available, key):
        return loss(params, batch, available, key, training_chunk(config, batch.mask))

    def predict(params, encoded, mask, available):
        chunk = evaluation_chunk(available)
        fused = network.apply(params, encoded, mask, available, chunk, method="decide")
        variance = jnp.mean(jnp.exp(2 * encoded.utterance.log_sigma), axis=-1)
        return Output(fused.logits, fused.recovered, encoded.x, variance)

    stage = Stage(
        name="train",
        init=lambda key, batch, before: network.init(key, batch, batch.present),
        loss=loss,
        encode=lambda params, batch: network.apply(params, batch, method="encode"),
        predict=predict,
        weights=loss_weights(config),
        loss_on_cpu=loss_on_cpu,
    )
    return System((stage,))


_CHOICES = {
    "umc.variant": ("pde", "mlp"),
    "umc.pool": ("mean", "first", "attn"),
    "udcl.on": ("distribution", "point"),
    "udcl.sigma": ("deviation", "variance"),
    "udcl.reduce": ("mean", "sum"),
    "flow.input": ("mu", "sample", "raw"),
    "flow.scale": ("tanh", "sigmoid"),
    "flow.permute": PERMUTATIONS,
    "flow.prior": ("unit", "class"),
    "rec.reduce": ("mean", "sum"),
    "spcl.on": ("fusion_inputs", "recovered", "mu"),
}


def check(config: ConfigDict, modalities: Sequence[str]) -> None:
    """Refuses a value that no field can have, by a UserError."""
    for field, choices in _CHOICES.items():
        check_choice(config, field, choices)
    heads = 2 * config.umc.num_heads
    if config.width % heads or config.umc.num_heads % 2:
        raise UserError(
            f"--config.model.width={config.width}: wanted a multiple of {heads}, twice the UMC's "
            "heads, which are an even number"
        )
    if config.rec.kernel % 2 == 0:
        raise UserError(f"--config.model.rec.kernel={config.rec.kernel}: wanted an odd number")
    check_fusion(config, modalities)
