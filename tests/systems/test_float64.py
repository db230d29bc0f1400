"""Every loss and the flows in float32 against plain float64, over 10,000 inputs, extreme ones too.

The references are the formulas, written with loops over pairs and positions and NumPy alone. An
error is told in units of float32's resolution (2^-23) times the largest number on the way to the
result; the docstrings of `losses` and `nn.flows` state the bounds that are held here.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax import losses
from cmarr_jax.nn.flows import RealNVP

EPSILON = 2.0**-23
BATCHES = (1, 2, 6)  # a batch of one, of two, of several
MODALITIES, CLASSES, WIDTH, LENGTH = 3, 4, 5, 3
short_and_long = pytest.mark.parametrize(
    "total", [300, pytest.param(10_000, marks=pytest.mark.faults)]
)


def points(rng, num, *shape):
    """`[num, *shape]` float32; scales 1e-4 to 1e4, a tenth all the same, a tenth zeros."""
    scale = 10.0 ** rng.uniform(-4, 4, (num, *[1] * len(shape)))
    x = rng.normal(size=(num, *shape)) * scale
    x = np.clip(x, -1e4, 1e4)
    kind = rng.integers(10, size=num)
    x[kind == 0] = x[kind == 0][:, *[slice(1)] * (len(shape) - 1)]
    x[kind == 1] = 0
    x[kind == 2] = np.sign(x[kind == 2]) * 1e4
    return x.astype(np.float32)


def masks(rng, num, *shape):
    """`[num, *shape]` bool: full, empty, one, or random."""
    m = rng.random((num, *shape)) > rng.choice([0.0, 0.3, 0.7, 1.0], (num, *[1] * len(shape)))
    return m


def log_sum_exp(x, mask):
    """Of the last axis in float64; -inf where nothing is."""
    x = np.where(mask, x, -np.inf)
    largest = x.max(axis=-1, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - largest).sum(axis=-1)) + largest[..., 0]


def mean_where(values, mask):
    """Over the last axis; 0 over nothing."""
    total = np.where(mask, values, 0).sum(axis=-1)
    return total / np.maximum(mask.sum(axis=-1), 1)


# Each case: draw(rng, num, batch) -> (floats to differentiate by, other arguments);
# ours(*floats, *others) of one input; reference(*floats, *others) of all -> (values, magnitudes).


def draw_cross_entropy(rng, num, batch):
    labels = rng.integers(rng.integers(1, CLASSES + 1), size=(num, batch))  # classes may lack
    weights = rng.random((num, batch)) * masks(rng, num, batch)
    return (points(rng, num, batch, CLASSES),), (labels, weights.astype(np.float32))


def reference_cross_entropy(logits, labels, weights):
    posterior = logits - log_sum_exp(logits, np.ones(logits.shape, bool))[..., None]
    terms = -np.take_along_axis(posterior, labels[..., None], -1)[..., 0]
    total = weights.sum(-1)
    value = (terms * weights).sum(-1) / np.where(total > 0, total, 1)
    return value, 1 + np.abs(logits).max((1, 2))


def draw_wasserstein(rng, num, batch):
    mu = points(rng, num, batch, WIDTH)
    return (mu, np.abs(points(rng, num, batch, WIDTH))), ()


def all_distances(mu, sigma):
    distances = np.zeros((len(mu), mu.shape[1], mu.shape[1]))
    for i in range(mu.shape[1]):
        for j in range(mu.shape[1]):
            for a in (mu, sigma):
                distances[:, i, j] += np.sum((a[:, i] - a[:, j]) ** 2, axis=-1)
    return distances


def reference_wasserstein(mu, sigma):
    distances = all_distances(mu, sigma)
    return distances, distances.max((1, 2))[:, None, None]


def draw_distribution(rng, num, batch):
    mu = points(rng, num, MODALITIES, batch, WIDTH)
    log_sigma = rng.uniform(-7, 4, mu.shape)
    temperature = 10.0 ** rng.uniform(-2, 0, num)
    floats = (mu, np.exp(log_sigma).astype(np.float32), temperature.astype(np.float32))
    return floats, (masks(rng, num, MODALITIES, batch),)


def reference_distribution(mu, sigma, temperature, available, scale=-0.03, shift=4.0):
    num, count, batch, width = mu.shape
    distances = all_distances(mu.reshape(num, -1, width), sigma.reshape(num, -1, width))
    logits = (scale * distances + shift) / temperature[:, None, None]
    logits = logits.reshape(num, count, batch, count, batch)
    total = np.zeros(num)
    for n in range(count):
        for m in range(n + 1, count):
            both = available[:, n] & available[:, m]
            valid = both[:, None, :] & both[:, :, None]
            z = logits[:, n, :, m]
            own = np.diagonal(z, axis1=1, axis2=2)
            for side in (z, z.transpose(0, 2, 1)):
                lse = np.where(both, log_sum_exp(side, valid), 0)
                total += mean_where(np.where(both, lse - own, 0), both)
    return total / 3, 1 + np.abs(logits).max((1, 2, 3, 4))


def unit(x):
    x = x.astype(jnp.float32)
    return x / jnp.sqrt(jnp.sum(x**2, -1, keepdims=True) + 1e-12)


def draw_point(rng, num, batch):
    labels = rng.integers(rng.integers(1, CLASSES + 1), size=(num, batch))
    return (points(rng, num, MODALITIES, batch, WIDTH),), (
        labels,
        masks(rng, num, MODALITIES, batch),
    )


def reference_point(x, labels, valid, temperature=0.1):
    num, count, batch, _ = x.shape
    x = x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-12)
    terms, anchors = np.zeros(num), np.zeros(num)
    flat, valid = x.reshape(num, count * batch, -1), valid.reshape(num, -1)
    who, label = np.tile(np.arange(batch), count), np.tile(labels, (1, count))
    for a in range(count * batch):
        others = valid & valid[:, a : a + 1] & (who != who[a])[None]
        positive = others & (label == label[:, a : a + 1])
        scores = np.einsum("nkd,nd->nk", flat, flat[:, a]) / temperature
        has = positive.any(-1)
        share = scores - np.where(has, log_sum_exp(scores, others), 0)[:, None]
        terms -= np.where(has, mean_where(share, positive), 0)
        anchors += has
    return terms / np.maximum(anchors, 1), np.full(num, 1 + 1 / temperature)


def draw_squared(rng, num, batch):
    both = points(rng, num, batch, LENGTH, WIDTH), points(rng, num, batch, LENGTH, WIDTH)
    return both, (masks(rng, num, batch, LENGTH),)


def reference_squared(a, b, mask):
    value = np.sum((a - b) ** 2 * mask[..., None], axis=(-2, -1))
    return value, value


def draw_nll(rng, num, batch):
    latent, mu = (points(rng, num, batch, n, WIDTH) for n in (LENGTH, 1))
    log_sigma = rng.uniform(-7, 4, mu.shape).astype(np.float32)
    log_det = points(rng, num, batch, LENGTH)
    return (latent, log_det, mu, log_sigma), (masks(rng, num, batch, LENGTH),)


def reference_nll(latent, log_det, mu, log_sigma, mask):
    nats = 0.5 * ((latent - mu) / np.exp(log_sigma)) ** 2 + log_sigma + 0.5 * np.log(2 * np.pi)
    value = mean_where(nats.sum(-1) - log_det, mask) / WIDTH
    return value, 1 + np.abs(nats).max((2, 3)) + np.abs(log_det).max(2)


def draw_hinge(rng, num, batch):
    return (points(rng, num, batch, WIDTH),), ()


def reference_hinge(log_sigma):
    entropy = (0.5 * (np.log(2 * np.pi) + 1) + log_sigma).sum(-1)
    return np.maximum(9.0 - entropy, 0), 9 + np.abs(log_sigma).sum(-1)


def draw_moments(rng, num, batch):
    valid = masks(rng, num, batch)
    return (points(rng, num, batch, WIDTH), points(rng, num, batch, WIDTH)), (valid,)


def reference_moments(x, y, valid):
    count = np.maximum(valid.sum(1), 1)[:, None]

    def moment(z):
        return (z * valid[..., None]).sum(1) / count

    centred = [z - moment(z)[:, None] for z in (x, y)]
    value = np.sqrt(((moment(x) - moment(y)) ** 2).sum(-1) + 1e-12)
    magnitude = 1e-6 + np.abs(x).max((1, 2)) + np.abs(y).max((1, 2))
    # In float32 the mean is off by its own rounding, and the fifth power takes that five times.
    spread = [np.abs(z * valid[..., None]).max((1, 2)) for z in (x, y)]
    largest = magnitude.copy()
    for k in range(2, 6):
        a, b = (moment(z**k) for z in centred)
        value += np.sqrt(((a - b) ** 2).sum(-1) + 1e-12)
        largest += sum((2 * s) ** k for s in spread)
    return value, largest


def draw_decoupled(rng, num, batch):
    theta = rng.uniform(-2, 6, num).astype(np.float32)  # similarities up to e^6 = 403
    x, y = (points(rng, num, batch, WIDTH) for _ in range(2))
    return (x, y, theta), (masks(rng, num, batch),)


def reference_decoupled(x, y, theta, valid):
    x, y = (z / np.sqrt((z**2).sum(-1, keepdims=True) + 1e-12) for z in (x, y))
    num, batch, _ = x.shape
    total = np.zeros(num)
    for a, b in ((x, y), (y, x)):
        for i in range(batch):
            z = np.exp(theta)[:, None] * np.einsum("nd,nkd->nk", a[:, i], b)
            others = valid & (np.arange(batch) != i)[None]
            z_floor = np.concatenate([z, np.full((num, 1), np.log(1e-10))], 1)
            with_floor = np.concatenate([others, np.ones((num, 1), bool)], 1)
            total += valid[:, i] * (log_sum_exp(z_floor, with_floor) - z[:, i])
    return total / np.maximum(valid.sum(1), 1) / 2, 24 + np.exp(theta)


CASES = {  # name: (draw, ours, reference, bound in units of EPSILON * magnitude)
    "cross_entropy": (draw_cross_entropy, losses.cross_entropy, reference_cross_entropy, 4),
    "wasserstein_distances": (
        draw_wasserstein,
        losses.wasserstein_distances,
        reference_wasserstein,
        32,
    ),
    "distribution_contrast": (
        draw_distribution,
        lambda mu, sigma, temperature, available: losses.distribution_contrast(
            mu, sigma, available, temperature, scale=-0.03, shift=4.0
        ),
        reference_distribution,
        16,
    ),
    "point_contrast": (
        draw_point,
        lambda x, labels, valid: losses.point_contrast(unit(x), labels, valid, temperature=0.1),
        reference_point,
        16,
    ),
    "squared_errors": (draw_squared, losses.squared_errors, reference_squared, 8),
    "gaussian_nll": (
        draw_nll,
        lambda z, log_det, mu, log_sigma, mask: losses.gaussian_nll(
            z, log_det, mask, mu, log_sigma
        ),
        reference_nll,
        16,
    ),
    "entropy_hinge": (draw_hinge, lambda x: losses.entropy_hinge(x, 9.0), reference_hinge, 4),
    "central_moment_discrepancy": (
        draw_moments,
        losses.central_moment_discrepancy,
        reference_moments,
        16,
    ),
    "decoupled_contrast": (
        draw_decoupled,
        lambda x, y, theta, valid: losses.decoupled_contrast(unit(x), unit(y), valid, theta),
        reference_decoupled,
        16,
    ),
}


@short_and_long
@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_finite_and_within_its_bound_of_float64(name, total):
    draw, ours, reference, bound = CASES[name]
    rng = np.random.default_rng(0)
    worst = 0.0
    for batch in BATCHES if total > 1000 else BATCHES[-1:]:
        floats, others = draw(rng, total // len(BATCHES) + 1, batch)

        def one(floats, others):
            values = ours(*floats, *others)
            return jnp.sum(values), values

        both = jax.jit(jax.vmap(jax.value_and_grad(one, has_aux=True)))
        (_, values), gradients = both(floats, others)
        want, magnitude = reference(*(np.asarray(x, np.float64) for x in floats), *others)
        assert np.isfinite(values).all()
        for gradient in gradients:
            assert np.isfinite(gradient).all(), name
        error = np.abs(np.asarray(values, np.float64) - want)
        worst = max(worst, np.max(error / (EPSILON * np.maximum(magnitude, 1e-30))))
    print(f"{name}: {worst:.2f}")
    assert worst <= bound


@pytest.mark.parametrize("name", CASES)
def test_a_loss_of_bfloat16_inputs_is_float32_and_within_the_same_bound(name):
    """What the inputs lost when they were rounded is theirs; the loss itself loses nothing more."""
    draw, ours, reference, bound = CASES[name]
    floats, others = draw(np.random.default_rng(0), 100, BATCHES[-1])
    floats = [jnp.asarray(x, jnp.bfloat16) for x in floats]
    values = jax.jit(jax.vmap(ours))(*floats, *others)
    want, magnitude = reference(*(np.asarray(x, np.float64) for x in floats), *others)
    assert values.dtype == jnp.float32
    error = np.abs(np.asarray(values, np.float64) - want)
    assert np.max(error / (EPSILON * np.maximum(magnitude, 1e-30))) <= bound


def naive_flow(weights, x, scale, permute, inverse=False):
    """The chain in float64, layer by layer -> result, log det."""
    half, log_det = x.shape[-1] // 2, np.zeros(x.shape[:-1])
    layers = range(len(weights["kernel_0"]))
    for k in reversed(layers) if inverse else layers:
        w = {name: value[k] for name, value in weights.items()}
        if permute == "glow":
            lower = np.tril(w["factors"], -1) + np.eye(2 * half)
            upper = np.triu(w["factors"], 1) + np.diag(np.exp(w["log_scale"]))
            if inverse:
                x = x @ np.linalg.inv(lower @ upper).T - w["shift"]
        if inverse and permute != "none":
            x = np.roll(x, half, axis=-1)
        a, b = x[..., :half], x[..., half:]
        h = np.maximum(a @ w["kernel_0"] + w["bias_0"], 0)
        h = np.maximum(h @ w["kernel_1"] + w["bias_1"], 0)
        t, h = np.split(h @ w["kernel_2"] + w["bias_2"], 2, axis=-1)
        s = 2 * np.tanh(h / 2)
        if scale == "sigmoid":
            s = np.maximum(-np.logaddexp(0, -(h + 2)), -60 / len(layers))
            t = t * np.exp(s)
        b = (b - t) * np.exp(-s) if inverse else b * np.exp(s) + t
        x, log_det = np.concatenate([a, b], axis=-1), log_det + s.sum(-1)
        if not inverse and permute != "none":
            x = np.roll(x, half, axis=-1)
        if not inverse and permute == "glow":
            x = (x + w["shift"]) @ (lower @ upper).T
            log_det = log_det + w["log_scale"].sum()
    return x, log_det


# scale, permute, couplings; bounds of every error over max(1, |x|): for |x| up to 10, and of 99 in
# 100 for |x| up to 1e4. A sigmoid that is down at its floor has lost what it scaled: no bound.
FLOWS = [
    ("tanh", "swap", 8, 1e-3, 0.01),
    ("tanh", "glow", 8, 3e-3, 0.5),
    ("sigmoid", "swap", 8, 1e-5, np.inf),
    ("sigmoid", "none", 32, 0.01, np.inf),
]


@pytest.mark.faults
@pytest.mark.parametrize("scale, permute, layers, calm_bound, wild_bound", FLOWS)
def test_a_flow_is_finite_and_within_its_bounds_of_float64(
    scale, permute, layers, calm_bound, wild_bound
):
    width, rng = 6, np.random.default_rng(0)
    flow = RealNVP(width, layers, 12, scale, permute)
    forward = functools.partial(flow.apply, method="forward_and_log_det")
    params = flow.init(jax.random.key(0), jnp.zeros((1, width)), method="forward_and_log_det")
    params = jax.tree.map(lambda p: np.float32(p + 0.1 * rng.normal(size=p.shape)), params)
    x = points(rng, 10_000, 1, width)[:, 0]

    def both_ways(params, x):
        z, log_det = forward(params, x)
        back = flow.apply(params, z, method="inverse")
        return jnp.sum(log_det) + jnp.sum(back), (z, log_det, back)

    (_, (z, log_det, back)), gradients = jax.jit(
        jax.value_and_grad(both_ways, argnums=(0, 1), has_aux=True)
    )(params, x)
    for array in (z, log_det, back, *jax.tree.leaves(gradients)):
        assert np.isfinite(array).all()
    weights = {name: np.asarray(p, np.float64) for name, p in params["params"].items()}
    want, want_log_det = naive_flow(weights, x.astype(np.float64), scale, permute)
    back64, _ = naive_flow(weights, np.asarray(z, np.float64), scale, permute, inverse=True)
    size = np.maximum(np.abs(x).max(-1), 1)
    calm = size <= 10
    for name, ours, wanted in (
        ("forward", z, want),
        ("log det", log_det[:, None], want_log_det[:, None]),
        ("inverse", back, back64),
        ("round trip", back, x),
    ):
        error = np.abs(np.asarray(ours, np.float64) - wanted).max(-1) / size
        print(f"{name}: {error[calm].max():.1e}, wild {np.quantile(error, 0.99):.1e}")
        assert error[calm].max() <= calm_bound, name
        assert np.quantile(error, 0.99) <= wild_bound, name
