"""CM-ARR: cross-modal alignment, reconstruction and refinement (Sun et al., arXiv:2407.09029).

    R_m  --Dense, LayerNorm-->  tokens  --UMC-->  Gaussians                    alignment
    mu_m --Conv1D--> X_m --flow F_m--> Z_m;  Z~ = mean of the available Z
    X~_m = F_m^-1(Z~);  X^_m = head_m(X~_m) for what is missing                reconstruction
    cross-attention from text to the others, self-attention, classifier        refinement, fusion

The modalities' blocks have equal shapes, so each is one module vmapped over a leading axis M.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmarr_jax import losses
from cmarr_jax.errors import UserError
from cmarr_jax.nn.conv import Conv1D
from cmarr_jax.nn.dense import Dense
from cmarr_jax.nn.dropout import Dropout, draw_normal
from cmarr_jax.nn.flows import PERMUTATIONS, RealNVP
from cmarr_jax.nn.fusion import VARIANTS, Fusion
from cmarr_jax.nn.missing import rebuild_missing
from cmarr_jax.nn.rcab import ReconstructionHead
from cmarr_jax.nn.umc import UMC, Gaussian, GaussianPooling, masked_mean
from cmarr_jax.systems.system import Batch, Prediction, Stage, System, gather

_MAP_WIDTH = 768  # the width at which MAP chose its scale a = -1/200
_TEMPERATURE_RANGE = (0.01, 1.0)
_LEAST_POSITIONS = 256  # of a part of a training batch, see `train_fused`


class Encoded(NamedTuple):
    """Per modality and utterance; nothing here mixes modalities or utterances."""

    tokens: Gaussian  # [M, B, T, D]
    utterance: Gaussian  # [M, B, D]
    x: jax.Array  # [M, B, T, D], the flows' input
    z: jax.Array  # [M, B, T, D], the flows' latent
    log_det: jax.Array  # [M, B, T]


class Fused(NamedTuple):
    logits: jax.Array  # [B, C]
    inputs: jax.Array  # [M, B, T, D], X where available, X^ where not
    recovered: jax.Array  # [M, B, T, D], X^


class CMARR(nn.Module):
    """The network. `config` is the `model` part of configs/common.py, which explains each field.

    Attributes:
      config: a hashable, frozen ConfigDict.
      modalities: names, in the corpus' order.
      num_classes: C.
      batch_axis: name of the mapped axis that the batch is cut over, if it is.
    """

    config: Any
    modalities: tuple[str, ...]
    num_classes: int
    batch_axis: str | None = None

    def setup(self):
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
        self.projections = [Dense(width, name=f"project_{m}") for m in self.modalities]
        self.project_norm = stacked(nn.LayerNorm)()
        self.umc = stacked(UMC)(
            variant=c.umc.variant,
            num_heads=c.umc.num_heads,
            mlp_ratio=c.umc.mlp_ratio,
            log_sigma_range=tuple(c.umc.log_sigma_range),
            dropout=self._dropout(c.umc.dropout),
        )
        self.pooling = stacked(GaussianPooling)(c.umc.pool)
        self.conv = stacked(Conv1D)(width, c.conv_kernel)
        self.flow = stacked(RealNVP, methods=["forward_and_log_det", "inverse"])(*_flow(c))
        self.reconstruct = stacked(ReconstructionHead)(*_head(c))
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
            fusion_pairs(c.fusion.pairs, self.modalities),
            self.num_classes,
            self._dropout,
        )

    def _dropout(self, rate):
        return functools.partial(Dropout, rate, self.batch_axis)

    def __call__(self, batch: Batch, available: jax.Array) -> tuple[Encoded, Fused]:
        encoded = self.encode(batch)
        return encoded, self.decide(encoded, batch.mask, available)

    def encode(self, batch: Batch) -> Encoded:
        """Everything that a modality says for itself (paper, sections 3.1 and 3.2 to Eq. 6)."""
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

    def decide(self, encoded: Encoded, mask: jax.Array, available: jax.Array) -> Fused:
        """Recovers what is missing (Eq. 7-9), fuses (Eq. 10-13) and classifies."""
        c, (num_modalities, *_) = self.config, encoded.x.shape
        masks = jnp.broadcast_to(mask, (num_modalities, *mask.shape))
        has = available.T[:, :, None, None]
        latent = mean_latent(encoded.z, available)
        recovered = self.flow.inverse(jnp.broadcast_to(latent, encoded.z.shape))
        if c.flow.detach_inverse:
            recovered = jax.lax.stop_gradient(recovered)
        recovered = self.reconstruct(recovered * masks[..., None], masks)
        inputs = jnp.where(has, encoded.x, recovered)
        return Fused(self.fusion(inputs, mask), inputs, recovered)

    def temperature(self) -> jax.Array:
        return jnp.clip(jnp.exp(self.log_temperature), *_TEMPERATURE_RANGE)

    def class_prior(self, labels: jax.Array) -> Gaussian:
        """`[B]` -> `[1, B, 1, D]`: the latent's Gaussian, one a class for all modalities."""
        return Gaussian(*(p[labels][None, :, None, :] for p in self.prior))


def _flow(config: Any) -> tuple:
    flow = config.flow
    return config.width, flow.num_couplings, flow.hidden, flow.scale, flow.permute


def _head(config: Any) -> tuple:
    rec = config.rec
    return rec.num_blocks, rec.expansion, rec.reduction, rec.kernel


def mean_latent(z: jax.Array, available: jax.Array) -> jax.Array:
    """Eq. 7, `[M, B, T, D]` -> `[B, T, D]`; 0 for an utterance without any modality."""
    has = available.T[:, :, None, None]
    return jnp.sum(jnp.where(has, z, 0), axis=0) / jnp.maximum(jnp.sum(has, axis=0), 1)


def decide_missing(
    network: CMARR,
    params: Any,
    encoded: Encoded,
    mask: jax.Array,
    available: jax.Array,
    size: int = 0,
    rngs: dict[str, jax.Array] | None = None,
) -> Fused:
    """`CMARR.decide` at the cost of what is missing: the rest is neither inverted nor rebuilt, and
    `recovered` is X there. `size` utterances at a time; 0 = a quarter of the batch."""
    config, size = network.config, size or -(-len(available) // 4)
    flow, head = RealNVP(*_flow(config)), ReconstructionHead(*_head(config))

    def rebuild(weights, latent, mask):
        x = flow.apply({"params": weights["flow"]}, latent, method="inverse")
        if config.flow.detach_inverse:
            x = jax.lax.stop_gradient(x)
        return head.apply({"params": weights["reconstruct"]}, x * mask[..., None], mask)

    weights = {name: params["params"][name] for name in ("flow", "reconstruct")}
    latent, missing = mean_latent(encoded.z, available), ~available.T
    recovered = rebuild_missing(rebuild, size, weights, latent, mask, missing)
    inputs = jnp.where(missing[:, :, None, None], recovered, encoded.x)
    logits = network.apply(
        params, inputs, mask, method=lambda net, *args: net.fusion(*args), rngs=rngs
    )
    return Fused(logits, inputs, inputs)


def train_fused(
    network: CMARR, params: Any, batch: Batch, available: jax.Array, key: jax.Array
) -> tuple[Encoded, Fused]:
    """What the loss is taken of, under dropout.

    An accelerator takes the whole batch at once. So does a CPU where no part of it is worth adding
    up the gradient of all weights once more.
    """
    rngs, (size, length) = {"dropout": key}, batch.mask.shape
    part = max(-(-size // 4), -(-_LEAST_POSITIONS // length))
    on_cpu = jax.default_backend() == "cpu"
    if not on_cpu or part >= size or network.config.spcl.on == "recovered":
        return network.apply(params, batch, available, rngs=rngs)
    encoded = network.apply(params, batch, method="encode", rngs=rngs)
    return encoded, decide_missing(network, params, encoded, batch.mask, available, part, rngs)


def fusion_pairs(pairs: Sequence[str], modalities: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """("text<-video", ...) -> (("text", "video"), ...); empty = text, or else the first
    modality, attends to every other."""
    if not pairs:
        query = "text" if "text" in modalities else modalities[0]
        return tuple((query, m) for m in modalities if m != query)
    split = tuple(tuple(pair.split("<-")) for pair in pairs)
    for pair in split:
        if len(pair) != 2 or not set(pair) <= set(modalities):
            raise UserError(
                f"--config.model.fusion.pairs={tuple(pairs)}: wanted 'QUERY<-KEY' of {modalities}"
            )
    return split


def loss_terms(
    network: CMARR, params: Any, encoded: Encoded, fused: Fused, batch: Batch, available: jax.Array
) -> dict[str, jax.Array]:
    """The terms of the loss (Eq. 14) of what the network made of a batch.

    Args:
      network: whose `config` says how each term is taken.
      params: the network's variables.
      encoded, fused: what it returned, under dropout.
      batch: what it was given.
      available: `[B, M]`, the simulated pattern.

    Returns:
      name -> scalar, to be weighed by `loss_weights`; "cls" is that of `fused.logits`.
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
            network.apply(params, method="temperature"),
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


def loss_weights(config: Any) -> dict[str, float]:
    """Term of `loss_terms` -> its weight in the loss."""
    return {
        "udcl": config.udcl.weight,
        "spcl": config.spcl.weight,
        "rec": config.rec.weight,
        "nll": config.flow.nll_weight,
        "entropy": config.umc.entropy_weight,
    }


def make(
    config: Any,
    modalities: Sequence[str],
    num_classes: int,
    batch_axis: str | None = None,
) -> System:
    """CM-ARR as a system.

    Args:
      config: the `model` part of a config, frozen; see configs/common.py.
      modalities: names, in the corpus' order.
      num_classes: C.
      batch_axis: name of the mapped axis that the batch is cut over, if it is.

    Raises:
      UserError: a field of `config` has no meaning.
    """
    check(config)
    fusion_pairs(config.fusion.pairs, modalities)
    network = CMARR(config, tuple(modalities), num_classes, batch_axis)

    def loss(params, batch, available, key):
        encoded, fused = train_fused(network, params, batch, available, key)
        return loss_terms(network, params, encoded, fused, batch, available)

    def predict(params, encoded, mask, available):
        fused = decide_missing(network, params, encoded, mask, available)
        variance = jnp.mean(jnp.exp(2 * encoded.utterance.log_sigma), axis=-1)
        return Prediction(fused.logits, fused.recovered, encoded.x, variance)

    stage = Stage(
        name="train",
        init=lambda key, batch, before: network.init(key, batch, batch.present),
        loss=loss,
        encode=lambda params, batch: network.apply(params, batch, method="encode"),
        predict=predict,
        weights=loss_weights(config),
    )
    return System((stage,))


_CHOICES = {
    "umc.variant": ("pde", "mlp"),
    "umc.pool": ("mean", "first", "attn"),
    "udcl.on": ("distribution", "point"),
    "udcl.reduce": ("mean", "sum"),
    "flow.input": ("mu", "sample", "raw"),
    "flow.scale": ("tanh", "sigmoid"),
    "flow.permute": PERMUTATIONS,
    "flow.prior": ("unit", "class"),
    "rec.reduce": ("mean", "sum"),
    "spcl.on": ("fusion_inputs", "recovered", "mu"),
}


def check_fusion(config: Any) -> None:
    """Refuses what the convolutions and the fusion cannot be, by a UserError."""
    if config.fusion.variant not in VARIANTS:
        raise UserError(
            f"--config.model.fusion.variant={config.fusion.variant}: wanted one of "
            f"{', '.join(VARIANTS)}"
        )
    if config.width % config.fusion.num_heads:
        raise UserError(
            f"--config.model.width={config.width}: wanted a multiple of fusion.num_heads="
            f"{config.fusion.num_heads}"
        )
    if config.conv_kernel % 2 == 0:
        raise UserError(f"--config.model.conv_kernel={config.conv_kernel}: wanted an odd number")


def check(config: Any) -> None:
    """Refuses a field without a meaning, by a UserError."""
    for field, choices in _CHOICES.items():
        part, name = field.split(".")
        if config[part][name] not in choices:
            raise UserError(
                f"--config.model.{field}={config[part][name]}: wanted one of {', '.join(choices)}"
            )
    heads = 2 * config.umc.num_heads
    if config.width % heads or config.umc.num_heads % 2:
        raise UserError(
            f"--config.model.width={config.width}: wanted a multiple of {heads}, twice the UMC's "
            "heads, which are an even number"
        )
    if config.rec.kernel % 2 == 0:
        raise UserError(f"--config.model.rec.kernel={config.rec.kernel}: wanted an odd number")
    check_fusion(config)
    if config.udcl.scale >= 0:
        raise UserError(f"--config.model.udcl.scale={config.udcl.scale}: wanted a negative number")
