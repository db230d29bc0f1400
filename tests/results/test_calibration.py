import numpy as np

from cmarr_jax.results import calibration


def naive(posteriors, labels, bins):
    """The definition, a prediction at a time."""
    held = [[] for _ in range(bins)]
    for posterior, label in zip(posteriors, labels, strict=True):
        confidence = max(posterior)
        bin = next(b for b in range(bins) if confidence <= (b + 1) / bins + 1e-12)
        held[bin].append((confidence, float(np.argmax(posterior) == label)))
    ece = 0.0
    for members in held:
        if members:
            confidence, accuracy = np.mean(members, axis=0)
            ece += len(members) / len(labels) * abs(confidence - accuracy)
    return [len(m) / len(labels) for m in held], ece


def test_it_is_the_definition(rng):
    posteriors = rng.dirichlet(np.ones(4), size=500)
    labels = rng.integers(0, 4, size=500)
    for bins in (5, 10, 15):
        bars = calibration.reliability(posteriors, labels, bins)
        share, ece = naive(posteriors, labels, bins)
        np.testing.assert_allclose(bars.share, share)
        np.testing.assert_allclose(bars.ece, ece)


def test_the_edge_of_a_bin_belongs_to_the_lower_one():
    posteriors = np.array([[0.75, 0.25], [0.8, 0.2]])
    bars = calibration.reliability(posteriors, np.array([0, 1]), 4)
    np.testing.assert_allclose(bars.share, [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(bars.accuracy[2:], [1, 0])
    assert np.isnan(bars.accuracy[0])


def test_a_calibrated_forecaster_has_no_error_and_a_boaster_has(rng):
    truth = rng.uniform(0.5, 1, size=200_000)
    labels = (rng.random(len(truth)) > truth).astype(int)
    right = np.stack([truth, 1 - truth], axis=1)
    assert calibration.reliability(right, labels).ece < 0.01
    boast = np.tile([1.0, 0.0], (len(truth), 1))
    np.testing.assert_allclose(calibration.reliability(boast, labels).ece, 0.25, atol=0.01)


def test_nothing_has_no_error():
    assert np.isnan(calibration.reliability(np.zeros((0, 3)), np.zeros(0, int)).ece)
