"""The losses of CM-ARR and its baselines: pure functions of arrays of any float type, in float32.

Value and gradient are finite for inputs up to 1e4 (temperatures of 0.01 and more, log deviations
of -7 to 4), for identical samples, batches of one and empty masks. "Within k eps of s" means: the
value differs from float64's by at most k * 2^-23 * s, as measured over 10,000 inputs of a few
features (tests/systems/test_float64.py).

A loss sees the whole batch. Where a batch is cut over devices, the caller gathers the few arrays
that a loss reads: negatives then come from the whole batch, and D devices compute what one does.
"""

import jax
import jax.numpy as jnp
import numpy as np


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum of weights * values over the sum of weights; 0 if all weights are 0."""
    weights = weights.astype(jnp.float32)
    total = jnp.sum(weights)
    return jnp.sum(values * weights) / jnp.where(total > 0, total, 1)


def _log_sum_exp(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """log of the sum of exp over the last axis, where `mask` is True; 0 where it is all False.

    No large negative number can mark masked entries: features of 1e4 have logits below -1e9.
    """
    largest = jnp.max(logits, axis=-1, keepdims=True, where=mask, initial=-jnp.inf)
    largest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0))
    below = jnp.where(mask, logits - largest, 0)
    # Fused kernels may round one logit in two ways: around -6e9 the two can differ by 512.
    below = below - jax.lax.stop_gradient(jnp.maximum(below, 0))
    shares = jnp.where(mask, jnp.exp(below), 0)
    total = jnp.sum(shares, axis=-1)
    return jnp.log(jnp.where(total > 0, total, 1)) + largest[..., 0]


def cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """L_cls: weighted mean over the batch of -log softmax(logits)[label].

    Within 4 eps of 1 + the largest |logit|.

    Args:
      logits: `[B, C]`.
      labels: `[B]` int.
      weights: `[B]`; equal weights give the paper's loss.
    """
    log_posterior = jax.nn.log_softmax(logits.astype(jnp.float32))
    return weighted_mean(-jnp.take_along_axis(log_posterior, labels[:, None], 1)[:, 0], weights)


def wasserstein_distances(mu: jax.Array, sigma: jax.Array) -> jax.Array:
    """Squared 2-Wasserstein distances between diagonal Gaussians (paper, Eq. 1).

    D = |mu_i - mu_j|^2 + |sigma_i - sigma_j|^2 with sigma the standard deviation; given the
    variance, it is Eq. 1 as printed, which is no 2-Wasserstein distance. Within 32 eps of the
    largest distance: small distances lose digits beside large ones.

    Args:
      mu, sigma: `[N, D]`.

    Returns:
      `[N, N]`, from one matrix product, without an array `[N, N, D]`.
    """
    points = jnp.concatenate([mu, sigma], axis=-1).astype(jnp.float32)
    points = points - jnp.mean(points, axis=0, keepdims=True)  # so that less cancels below
    inner = jnp.matmul(points, points.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(points * points, axis=-1)
    return jnp.maximum(squares[:, None] + squares[None, :] - 2 * inner, 0)


def distribution_contrast(
    mu: jax.Array,
    sigma: jax.Array,
    available: jax.Array,
    temperature: jax.Array,
    *,
    scale: float,
    shift: float,
    reduce: str = "mean",
) -> jax.Array:
    """L_udcl: InfoNCE between the Gaussians of every two modalities (paper, Eq. 2-5).

    S = scale * D_2W + shift. Both directions are summed; each is a mean over the utterances that
    have both modalities. The negatives are the batch's other utterances. Within 16 eps of 1 +
    the largest |S| / tau.

    Args:
      mu, sigma: `[M, B, D]`, one Gaussian for each modality and utterance.
      available: `[M, B]` bool.
      temperature: scalar tau.
      scale: a < 0.
      shift: b.
      reduce: "mean" or "sum" over the pairs of modalities.

    Returns:
      Scalar; 0 for a single modality.
    """
    num_modalities, batch, width = mu.shape
    distances = wasserstein_distances(mu.reshape(-1, width), sigma.reshape(-1, width))
    logits = (scale * distances + shift) / temperature
    logits = logits.reshape(num_modalities, batch, num_modalities, batch)
    pairs = [(n, m) for m in range(num_modalities) for n in range(m)]
    if not pairs:
        return jnp.zeros(())
    there = jnp.stack([logits[n, :, m, :] for n, m in pairs])  # [P, B, B]
    both = jnp.stack([available[n] & available[m] for n, m in pairs])
    valid = both[:, None, :] & both[:, :, None]
    positive = jnp.diagonal(there, axis1=1, axis2=2)
    both_ways = jnp.stack([there, jnp.swapaxes(there, 1, 2)])
    errors = jnp.sum(_log_sum_exp(both_ways, valid[None]) - positive[None], axis=0)
    contrasts = jax.vmap(weighted_mean)(errors, both)
    return jnp.mean(contrasts) if reduce == "mean" else jnp.sum(contrasts)


def point_contrast(
    points: jax.Array, labels: jax.Array, valid: jax.Array, *, temperature: float
) -> jax.Array:
    """L_spcl: supervised contrast between modalities of different utterances (section 3.3.1).

    Khosla et al. (2020), L_out, with the paper's sets: positives are all points of other utterances
    with the same label, of any modality; negatives are all points with other labels. Points of the
    same utterance are neither. Within 16 eps of 1 + 1 / temperature.

    Args:
      points: `[M, B, D]`, of unit length.
      labels: `[B]` int.
      valid: `[M, B]` bool; other points count as absent.
      temperature: of the softmax.

    Returns:
      Scalar mean over the anchors that have a positive; 0 if none has.
    """
    num_modalities, batch, width = points.shape
    flat = points.reshape(-1, width).astype(jnp.float32)
    utterance = jnp.tile(jnp.arange(batch), num_modalities)
    label = jnp.tile(labels, num_modalities)
    valid = valid.reshape(-1)
    other = (utterance[:, None] != utterance[None, :]) & valid[:, None] & valid[None, :]
    positive = other & (label[:, None] == label[None, :])
    scores = jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST) / temperature
    log_share = scores - _log_sum_exp(scores, other)[:, None]
    num_positives = jnp.sum(positive, axis=1)
    per_anchor = -jnp.sum(jnp.where(positive, log_share, 0), axis=1) / jnp.maximum(num_positives, 1)
    return weighted_mean(per_anchor, num_positives > 0)


def squared_errors(recovered: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Sum over time and features of (X^ - X)^2 (paper, Eq. 9, one utterance).

    Within 8 eps of itself.

    Args:
      recovered, target: `[..., T, D]`.
      mask: `[..., T]` bool.

    Returns:
      `[...]` float32.
    """
    difference = (recovered.astype(jnp.float32) - target.astype(jnp.float32)) * mask[..., None]
    return jnp.sum(difference * difference, axis=(-2, -1))


def mean_squared_error(x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean over everything of (x - y)^2, a scalar, from arrays of any float type."""
    return jnp.mean(jnp.square(x.astype(jnp.float32) - y.astype(jnp.float32)))


def gaussian_nll(
    latent: jax.Array,
    log_det: jax.Array,
    mask: jax.Array,
    mu: jax.Array | float = 0.0,
    log_sigma: jax.Array | float = 0.0,
) -> jax.Array:
    """Negative log-likelihood of a flow under a diagonal Gaussian, in nats per feature.

    It is not in the paper's Eq. 14, although the paper says that its flows reach a Gaussian. Within
    16 eps of 1 + the largest term of one position.

    Args:
      latent: `[..., T, D]`.
      log_det: `[..., T]`.
      mask: `[..., T]` bool.
      mu, log_sigma: of the Gaussian, with the latent's rank; by default the unit Gaussian.

    Returns:
      `[...]`: mean over the valid positions.
    """
    width = latent.shape[-1]
    mu, log_sigma = (jnp.asarray(x, jnp.float32) for x in (mu, log_sigma))
    standard = (latent.astype(jnp.float32) - mu) * jnp.exp(-log_sigma)
    squares = jnp.sum(jnp.square(standard) + 2 * log_sigma, axis=-1)
    nats = 0.5 * (squares + width * jnp.log(2 * jnp.pi)) - log_det
    positions = jnp.maximum(jnp.sum(mask, axis=-1), 1)
    return jnp.sum(nats * mask, axis=-1) / (positions * width)


def entropy_hinge(log_sigma: jax.Array, margin: float) -> jax.Array:
    """MAP's guard against collapsing variances: max(0, margin - entropy in nats).

    Within 4 eps of margin + the sum of |log_sigma|.

    Args:
      log_sigma: `[..., D]`.
      margin: the least entropy without a loss.

    Returns:
      `[...]`.
    """
    width, log_sigma = log_sigma.shape[-1], log_sigma.astype(jnp.float32)
    entropy = 0.5 * width * (jnp.log(2 * jnp.pi) + 1) + jnp.sum(log_sigma, axis=-1)
    return jnp.maximum(margin - entropy, 0)


def central_moment_discrepancy(x: jax.Array, y: jax.Array, valid: jax.Array) -> jax.Array:
    """CMD_5 between two sets of vectors (Zellinger et al., 2017), as IF-MMIN codes it.

    The distance of the means plus those of the central moments 2 to 5, without scaling by an
    interval. A small constant under each root keeps the gradient finite for equal sets. Within
    16 eps of the largest |x| and the largest (2 |x|)^2 to (2 |x|)^5: moments cancel.

    Args:
      x, y: `[B, D]`.
      valid: `[B]` bool; other rows do not count.
    """
    weights = (valid / jnp.maximum(jnp.sum(valid), 1)).astype(jnp.float32)[:, None]

    def moment(z):
        return jnp.sum(weights * z, axis=0, keepdims=True)

    def distance(a, b):
        # Squares of fifth moments of features of 1e4 overflow float32: scale by a power of two.
        exponent = jnp.frexp(jax.lax.stop_gradient(jnp.max(jnp.abs(a - b))))[1]
        unit = jnp.ldexp(jnp.float32(1), jnp.maximum(exponent, 0))
        return unit * jnp.sqrt(jnp.sum(jnp.square((a - b) / unit)) + jnp.square(1e-6 / unit))

    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    mean_x, mean_y = moment(x), moment(y)
    total = distance(mean_x, mean_y)
    for k in range(2, 6):
        total += distance(moment((x - mean_x) ** k), moment((y - mean_y) ** k))
    return total


def decoupled_contrast(
    x: jax.Array, y: jax.Array, valid: jax.Array, log_scale: jax.Array
) -> jax.Array:
    """CIF-MMIN's contrast: InfoNCE without the positive in the denominator, both directions' mean.

    Within 16 eps of 24 + exp(theta), for theta of -2 to 6.

    Args:
      x, y: `[B, D]`, of unit length; row i of one is the positive of row i of the other.
      valid: `[B]` bool; other rows are neither anchors nor negatives.
      log_scale: scalar theta; similarities are multiplied by exp(theta).
    """
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    logits = jnp.exp(log_scale) * jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    positive = jnp.diagonal(logits)
    others = valid[:, None] & valid[None, :] & ~jnp.eye(len(x), dtype=bool)
    # The published code adds 1e-10 to the sum: the same as one more similarity of log 1e-10.
    others = jnp.pad(others, ((0, 0), (0, 1)), constant_values=True)
    floor = ((0, 0), (0, 1))
    there, back = (
        _log_sum_exp(jnp.pad(z, floor, constant_values=np.log(1e-10)), others) - positive
        for z in (logits, logits.T)
    )
    return 0.5 * (weighted_mean(there, valid) + weighted_mean(back, valid))
