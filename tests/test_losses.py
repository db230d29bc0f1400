"""Each loss against a naive NumPy loop in float64, and at its anchors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax import losses

pytestmark = pytest.mark.device


def naive_info_nce(mu, sigma, available, temperature, scale, shift):
    """Eq. 1-5 by loops: mean over pairs of the sum of both directions."""
    pairs = []
    for n in range(len(mu)):
        for m in range(n + 1, len(mu)):
            both = [i for i in range(mu.shape[1]) if available[n, i] and available[m, i]]

            def similarity(i, j, n=n, m=m):
                distance = np.sum((mu[n, i] - mu[m, j]) ** 2 + (sigma[n, i] - sigma[m, j]) ** 2)
                return (scale * distance + shift) / temperature

            total = 0.0
            for i in both:
                there = [np.exp(similarity(i, j)) for j in both]
                back = [np.exp(similarity(j, i)) for j in both]
                own = np.exp(similarity(i, i))
                total -= np.log(own / sum(there)) + np.log(own / sum(back))
            pairs.append(total / max(len(both), 1))
    return np.mean(pairs)


def naive_supervised_contrast(points, labels, valid, temperature):
    anchors = [(m, i) for m in range(len(points)) for i in range(len(labels)) if valid[m, i]]
    terms = []
    for m, i in anchors:
        others = [(n, j) for n, j in anchors if j != i]
        positives = [(n, j) for n, j in others if labels[j] == labels[i]]
        if not positives:
            continue
        denominator = sum(np.exp(points[m, i] @ points[n, j] / temperature) for n, j in others)
        share = [
            np.log(np.exp(points[m, i] @ points[n, j] / temperature) / denominator)
            for n, j in positives
        ]
        terms.append(-np.mean(share))
    return np.mean(terms) if terms else 0.0


def unit(points):
    return points / np.linalg.norm(points, axis=-1, keepdims=True)


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_distribution_contrast_equals_the_naive_loop(rng, num_modalities):
    mu = rng.normal(size=(num_modalities, 7, 5))
    sigma = np.exp(rng.normal(size=mu.shape))
    available = rng.random((num_modalities, 7)) > 0.2
    args = dict(scale=-0.3, shift=4.0)
    ours = losses.distribution_contrast(
        jnp.float32(mu), jnp.float32(sigma), jnp.array(available), jnp.float32(0.5), **args
    )
    want = naive_info_nce(mu, sigma, available, 0.5, -0.3, 4.0)
    np.testing.assert_allclose(ours, want, rtol=1e-5)


def test_distribution_contrast_sums_or_averages_the_pairs(rng):
    mu = jnp.float32(rng.normal(size=(3, 6, 4)))
    args = (mu, jnp.ones_like(mu), jnp.ones((3, 6), bool), jnp.float32(0.1))
    mean = losses.distribution_contrast(*args, scale=-0.1, shift=1.0, reduce="mean")
    total = losses.distribution_contrast(*args, scale=-0.1, shift=1.0, reduce="sum")
    np.testing.assert_allclose(total, 3 * mean, rtol=1e-6)


def test_the_similarity_of_a_gaussian_with_itself_is_the_shift(rng):
    mu, sigma = jnp.float32(rng.normal(size=(2, 6, 4)))
    distances = losses.wasserstein_distances(mu, sigma)
    np.testing.assert_allclose(np.diag(-0.005 * distances + 4.0), 4.0, atol=1e-6)


def test_wasserstein_distances_equal_the_double_loop(rng):
    mu = rng.normal(size=(6, 4)) + 10
    sigma = np.exp(rng.normal(size=(6, 4)))
    want = [
        [np.sum((mu[i] - mu[j]) ** 2 + (sigma[i] - sigma[j]) ** 2) for j in range(6)]
        for i in range(6)
    ]
    ours = losses.wasserstein_distances(jnp.float32(mu), jnp.float32(sigma))
    np.testing.assert_allclose(ours, want, rtol=1e-4, atol=1e-4)


def test_no_array_of_all_pairs_times_features_exists(rng):
    mu = jnp.float32(rng.normal(size=(50, 40)))
    jaxpr = jax.make_jaxpr(losses.wasserstein_distances)(mu, mu)
    largest = max(v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars)
    assert largest <= max(50 * 50, 50 * 80)


def test_point_contrast_equals_the_naive_loop(rng):
    points = unit(rng.normal(size=(3, 8, 5)))
    labels = rng.integers(3, size=8)
    valid = rng.random((3, 8)) > 0.2
    ours = losses.point_contrast(
        jnp.float32(points), jnp.array(labels), jnp.array(valid), temperature=0.3
    )
    want = naive_supervised_contrast(points, labels, valid, 0.3)
    np.testing.assert_allclose(ours, want, rtol=1e-5)


def test_point_contrast_is_zero_when_all_labels_differ(rng):
    points = jnp.float32(unit(rng.normal(size=(3, 4, 5))))
    loss = losses.point_contrast(points, jnp.arange(4), jnp.ones((3, 4), bool), temperature=0.1)
    assert loss == 0


def test_points_of_one_utterance_do_not_attract_each_other(rng):
    """Moving an utterance's second modality onto its first changes no term between the two."""
    points = unit(rng.normal(size=(2, 1, 5)))
    alone = losses.point_contrast(
        jnp.float32(points), jnp.zeros(1, int), jnp.ones((2, 1), bool), temperature=0.1
    )
    assert alone == 0


def test_cross_entropy_is_the_weighted_mean_of_negative_log_posteriors(rng):
    logits, labels, weights = rng.normal(size=(5, 3)), rng.integers(3, size=5), rng.random(5)
    posterior = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    want = np.sum(-weights * np.log(posterior[np.arange(5), labels])) / weights.sum()
    ours = losses.cross_entropy(jnp.float32(logits), jnp.array(labels), jnp.float32(weights))
    np.testing.assert_allclose(ours, want, rtol=1e-5)


def test_squared_errors_ignore_padding(rng):
    a, b = rng.normal(size=(2, 3, 4, 5))
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    want = [np.sum((a[i, mask[i]] - b[i, mask[i]]) ** 2) for i in range(3)]
    ours = losses.squared_errors(jnp.float32(a), jnp.float32(b), jnp.array(mask))
    np.testing.assert_allclose(ours, want, rtol=1e-5)


def test_gaussian_nll_equals_scipy(rng):
    from scipy.stats import norm

    latent, log_det = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3))
    mask = np.array([[1, 1, 0], [1, 1, 1]], bool)
    want = [-np.mean((norm.logpdf(latent[i]).sum(-1) + log_det[i])[mask[i]]) / 4 for i in range(2)]
    ours = losses.gaussian_nll(jnp.float32(latent), jnp.float32(log_det), jnp.array(mask))
    np.testing.assert_allclose(ours, want, rtol=1e-5)


def test_entropy_hinge_equals_scipy(rng):
    from scipy.stats import norm

    log_sigma = rng.normal(size=(3, 6))
    entropy = norm(scale=np.exp(log_sigma)).entropy().sum(axis=-1)
    ours = losses.entropy_hinge(jnp.float32(log_sigma), 9.0)
    np.testing.assert_allclose(ours, np.maximum(9.0 - entropy, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["identical", "huge", "one", "nobody"])
def test_contrastive_gradients_are_finite(rng, case):
    batch = 1 if case == "one" else 5
    mu = np.zeros((3, batch, 4)) if case == "identical" else rng.normal(size=(3, batch, 4))
    mu = jnp.float32(mu * (1e4 if case == "huge" else 1))
    available = jnp.full((3, batch), case != "nobody")
    labels = jnp.arange(batch) % 2

    def total(mu, temperature):
        points = mu / jnp.sqrt(jnp.sum(mu**2, -1, keepdims=True) + 1e-12)
        aligned = losses.distribution_contrast(
            mu, jnp.ones_like(mu), available, temperature, scale=-0.005, shift=4.0
        )
        return aligned + losses.point_contrast(points, labels, available, temperature=0.1)

    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(mu, jnp.float32(0.07))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


def test_central_moment_discrepancy_equals_the_formula(rng):
    x, y = rng.normal(size=(2, 7, 3))
    valid = np.array([1, 1, 0, 1, 1, 1, 0], bool)
    a, b = x[valid], y[valid]
    want = np.linalg.norm(a.mean(0) - b.mean(0))
    for k in range(2, 6):
        moments = [((z - z.mean(0)) ** k).mean(0) for z in (a, b)]
        want += np.linalg.norm(moments[0] - moments[1])
    ours = losses.central_moment_discrepancy(jnp.float32(x), jnp.float32(y), jnp.array(valid))
    np.testing.assert_allclose(ours, want, rtol=1e-5)
    at_equality = jax.grad(losses.central_moment_discrepancy)(
        jnp.float32(x), jnp.float32(x), jnp.array(valid)
    )
    assert np.isfinite(at_equality).all()


def test_decoupled_contrast_equals_the_naive_loop(rng):
    x, y = rng.normal(size=(2, 5, 4))
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    valid = np.array([1, 1, 0, 1, 1], bool)
    rows = np.flatnonzero(valid)
    total = 0.0
    for a, b in ((x, y), (y, x)):
        for i in rows:
            negatives = sum(np.exp(np.e * a[i] @ b[j]) for j in rows if j != i)
            total += -np.log(np.exp(np.e * a[i] @ b[i]) / (negatives + 1e-10)) / len(rows) / 2
    ours = losses.decoupled_contrast(
        jnp.float32(x), jnp.float32(y), jnp.array(valid), jnp.float32(1)
    )
    np.testing.assert_allclose(ours, total, rtol=1e-5)
