"""NMER: noise-robust multimodal emotion recognition (Lee et al., after IF-MMIN).

RECONSTRUCTED FROM PARTIAL CODE: the published repository lacks the decoder, and its encoder lets
utterances of a batch attend to each other, so that one sees the others; here the modalities of one
utterance are the tokens. In training, a "missing" modality is mixed with noise of random strength;
in the test it is noise alone, one fixed draw so that scores repeat. A variational autoencoder
conditioned on invariant features restores the teacher's vectors, which are then classified.

    CE + MSE(c, teacher's c) + MSE(x^, teacher's vectors of complete data) + w KL

The published KL is a sum over batch and features at w = 1; ours is by default a mean over the batch
at w = 1e-3. The published student's classifier has batch normalisation, which a system of pure
functions has no place to keep the running statistics of; ours has none.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from cmarr_jax.errors import UserError
from cmarr_jax.nn.attention import AttentionBlock
from cmarr_jax.nn.dropout import Dropout, draw_normal
from cmarr_jax.nn.utterance_encoders import Classifier, UtteranceEncoders
from cmarr_jax.systems.checks import check_choice
from cmarr_jax.systems.if_mmin import SharedEncoder, make_discrepancy_teacher
from cmarr_jax.systems.system import (
    Batch,
    System,
    gather,
    whole_cross_entropy,
    whole_squared_error,
)
from cmarr_jax.systems.teacher_student import make_student, teach, teacher_network

_LATENT = 64
_FEED_FORWARD = 128  # hidden width of the blocks, as published (there the blocks are 768 wide)


def noise_schedule() -> np.ndarray:
    """abar(t), `[100]`: the share of a feature's variance that is left at noise step t."""
    betas = np.linspace(np.sqrt(0.01), np.sqrt(0.5), 100) ** 2
    return np.cumprod(1 - betas).astype(np.float32)


class Encoders(nn.Module):
    """Specific vectors from one set of encoders; invariants from another and a shared encoder."""

    modalities: tuple[str, ...]
    width: int
    dropout: Callable[[], nn.Module]
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Encoders of the specific vectors, and of the invariants."""
        encoders = functools.partial(
            UtteranceEncoders, self.modalities, self.width, self.dropout, dtype=self.dtype
        )
        self.specific = encoders()
        self.invariant = encoders()
        self.shared = SharedEncoder(self.width, self.dtype)

    def __call__(
        self, features: dict[str, jax.Array], mask: jax.Array, available: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """-> x, c, both `[B, M, W]`."""
        inputs = (features, mask, available)
        return self.specific(*inputs), self.shared(self.invariant(*inputs))


class Student(nn.Module):
    """Encoders, the variational autoencoder and a classifier of what it restores."""

    config: ConfigDict
    modalities: tuple[str, ...]
    num_classes: int
    batch_axis: str | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Encoders, the autoencoder's attention blocks and dense layers, the classifier."""
        c = self.config
        dropout = functools.partial(Dropout, c.dropout, self.batch_axis)
        self.encoders = Encoders(self.modalities, c.width, dropout, self.dtype)
        self.blocks = [
            AttentionBlock(c.num_heads, dropout, _FEED_FORWARD, self.dtype)
            for _ in range(c.num_layers)
        ]
        self.moments = nn.Dense(2 * _LATENT, dtype=jnp.float32)
        self.hidden = nn.Dense(2 * c.width, dtype=self.dtype)
        self.restored = nn.Dense(len(self.modalities) * c.width, dtype=self.dtype)
        self.classifier = Classifier(self.num_classes, dropout, dtype=self.dtype)

    def __call__(self, batch: Batch, available: jax.Array) -> tuple[jax.Array, ...]:
        """-> x^, c `[B, M, W]`, logits `[B, C]`, KL `[B]`."""
        x, c = self.embed(batch, available)
        restored, logits, divergence = self.decide((x, c))
        return restored, c, logits, divergence

    def embed(self, batch: Batch, available: jax.Array) -> tuple[jax.Array, jax.Array]:
        """-> x, c, both `[B, M, W]`."""
        return self.encoders(batch.features, batch.mask, available)

    def decide(
        self, embedded: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x, c -> x^ `[B, M, W]`, logits `[B, C]`, KL `[B]`."""
        x, c = embedded
        tokens = jnp.concatenate([x, c], axis=-1)
        everything = jnp.ones(tokens.shape[:2], bool)
        for block in self.blocks:
            tokens = block(tokens, everything)
        mu, log_variance = jnp.split(self.moments(tokens.reshape(len(x), -1)), 2, axis=-1)
        log_variance = jnp.clip(log_variance, -10, 10)
        z = mu
        if self.has_rng("dropout"):  # in training; a test takes the mean
            noise = draw_normal(self.make_rng("dropout"), mu.shape, self.batch_axis)
            z = mu + jnp.exp(0.5 * log_variance) * noise
        hidden = nn.relu(self.hidden(jnp.concatenate([z, c.reshape(len(c), -1)], axis=-1)))
        restored = self.restored(hidden)
        divergence = 0.5 * jnp.sum(jnp.exp(log_variance) + mu**2 - 1 - log_variance, axis=-1)
        return restored.reshape(x.shape), self.classifier(restored), divergence


def corrupt(
    batch: Batch,
    modalities: Sequence[str],
    available: jax.Array,
    key: jax.Array,
    batch_axis: str | None = None,
) -> Batch:
    """Mixes noise into what is not available; its strength is drawn for each modality and batch.

    `modalities` are the names of the columns of `available`: `jit` sorts the keys of a dictionary.
    """
    left = jnp.asarray(noise_schedule())
    features = {}
    for k, modality in enumerate(modalities):
        x = batch.features[modality]
        strength_key, noise_key = jax.random.split(jax.random.fold_in(key, k))
        share = left[jax.random.randint(strength_key, (), 0, len(left))]
        noise = draw_normal(noise_key, x.shape, batch_axis)
        noisy = jnp.sqrt(share) * x + jnp.sqrt(1 - share) * noise
        features[modality] = jnp.where(available[:, k, None, None], x, noisy)
    return batch._replace(features=features)


def make(
    config: ConfigDict,
    modalities: Sequence[str],
    num_classes: int,
    batch_axis: str | None = None,
    dtype: DTypeLike = jnp.float32,
) -> System:
    """NMER as a system; arguments as in `systems.cmarr.make`.

    Raises:
      UserError: the blocks' width, twice `config.width`, is no multiple of `config.num_heads`, or
        `config.kl_reduce` is unknown.
    """
    check_choice(config, "kl_reduce", ("mean", "sum"))
    over_batch = {"mean": jnp.mean, "sum": jnp.sum}[config.kl_reduce]
    if 2 * config.width % config.num_heads:
        raise UserError(
            f"--config.model.width={config.width}: wanted twice the width to be a multiple of "
            f"num_heads={config.num_heads}"
        )
    network = Student(config, tuple(modalities), num_classes, batch_axis, dtype)
    teacher = teacher_network(config, modalities, num_classes, batch_axis, dtype, Encoders)

    def loss(params, batch, available, key):
        noise_key, dropout_key = jax.random.split(key)
        noisy = corrupt(batch, modalities, available, noise_key, batch_axis)
        restored, invariants, logits, divergence = network.apply(
            params, noisy, batch.present, rngs={"dropout": dropout_key}
        )
        target, invariants_target = teach(teacher, params, batch, batch.present)
        return {
            "cls": whole_cross_entropy(logits, batch, batch_axis),
            "invariance": whole_squared_error(invariants, invariants_target, batch, batch_axis),
            "rec": whole_squared_error(restored, target, batch, batch_axis),
            "kl": over_batch(gather(divergence, batch_axis=batch_axis)),
        }

    weights = {"kl": config.kl_weight}
    student = make_student(network, teacher, loss, weights, ("encoders",), _only_noise)
    return System((make_discrepancy_teacher(teacher, batch_axis), student))


def _only_noise(batch: Batch) -> tuple[Batch, jax.Array]:
    """The end of the noise schedule, the same for every utterance."""
    features = {}
    for k, (modality, x) in enumerate(batch.features.items()):
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), k), (1, *x.shape[1:]))
        features[modality] = jnp.broadcast_to(noise, x.shape)
    return batch._replace(features=features), jnp.ones_like(batch.present)
