import numpy as np

from cmarr_jax.results import intervals, paired


def test_the_interval_ends_where_the_paired_test_rejects(rng):
    """Oracle: the tables' corrected t-test of the folds, inverted."""
    scores = rng.normal(0.6, 0.05, size=5)
    half = intervals.half_width(scores, 1 / 4)
    for end in (scores.mean() - half, scores.mean() + half):
        np.testing.assert_allclose(paired.p_value(scores - end, 1 / 4), 0.05)


def test_one_fold_has_no_t_interval():
    assert np.isnan(intervals.half_width(np.ones((1, 3)), np.nan)).all()


def test_the_bootstrap_is_the_binomials_spread(rng):
    """WAR of one class is a mean of coin flips, of which a textbook knows the interval."""
    num = 400
    hits = (rng.random((num, 2)) < [0.6, 0.8]).astype(float)
    made = intervals.bootstrap(hits, np.ones((num, 2), bool), np.zeros(num, int), slice(0, 1))
    share = hits.mean(axis=0)
    half = 1.96 * np.sqrt(share * (1 - share) / num)
    np.testing.assert_allclose(made[0, 0, :2], share - half, atol=0.006)
    np.testing.assert_allclose(made[1, 0, :2], share + half, atol=0.006)
    np.testing.assert_allclose(made[..., 0], made[..., 2])  # "avg" of the first alone
    np.testing.assert_allclose(made[:, 0], made[:, 1])  # one class: UAR = WAR


def test_the_bootstrap_averages_recalls_over_classes_and_leaves_out_what_was_not_scored(rng):
    labels = np.array([0] * 90 + [1] * 10)
    hits = np.array([1.0] * 90 + [0.0] * 10)[:, None]
    scored = np.ones((100, 1), bool)
    made = intervals.bootstrap(hits, scored, labels, slice(0, 1))
    np.testing.assert_allclose(made[:, 0, 0], 0.9)  # classes keep their sizes
    np.testing.assert_allclose(made[:, 1, 0], 0.5)
    scored[90:] = False
    made = intervals.bootstrap(hits, scored, labels, slice(0, 1))
    np.testing.assert_allclose(made[:, :, 0], 1)
