import numpy as np
import pytest
import scipy.stats

from cmarr_jax.results import paired

FOLDS, SEEDS = 5, 3
# Parts of five equal folds: a test part of 1 for a training part of 4.
RATIO = 1 / 4


def test_it_is_the_plain_test_less_its_optimism(rng):
    differences = rng.normal(0.5, 1, size=12)
    plain = scipy.stats.ttest_1samp(differences, 0).pvalue
    np.testing.assert_allclose(paired.p_value(differences, 0.0), plain)
    corrected = paired.p_value(differences, 0.25)
    statistic = differences.mean() / np.sqrt((1 / 12 + 0.25) * differences.var(ddof=1))
    np.testing.assert_allclose(corrected, 2 * scipy.stats.t.sf(statistic, 11))
    assert corrected > plain
    assert np.isnan(paired.p_value(np.ones(4), 0.25)) and np.isnan(paired.p_value(np.ones(1), 0.25))


def draw(rng, seed_deviation, sweeps, shift=0.0):
    """Differences of two systems that are alike but for `shift`, `[sweeps, folds x seeds]`.

    Two folds' differences are correlated by the share of data that they have in common, which is
    what Nadeau and Bengio's correction is for: 1 / folds.
    """
    shared = np.sqrt(1 / FOLDS) * rng.normal(size=(sweeps, 1, 1))
    own = np.sqrt(1 - 1 / FOLDS) * rng.normal(size=(sweeps, FOLDS, 1))
    seeds = seed_deviation * rng.normal(size=(sweeps, FOLDS, SEEDS))
    return (shift + shared + own + seeds).reshape(sweeps, -1)


FOLD_OF = np.repeat(np.arange(FOLDS), SEEDS).tolist()


@pytest.mark.parametrize("seed_deviation", [0.3, 0.5, 1.0])
def test_systems_that_are_alike_are_told_apart_once_in_twenty(rng, seed_deviation):
    drawn = draw(rng, seed_deviation, 4000)
    by_fold = [paired.p_value(paired.by_fold(d, FOLD_OF), RATIO) for d in drawn]
    assert 0.03 < np.mean(np.array(by_fold) < 0.05) < 0.062


def test_seeds_taken_for_samples_would_be_wrong_more_than_twice_as_often(rng):
    drawn = draw(rng, 0.3, 4000)
    as_samples = [paired.p_value(d, RATIO) for d in drawn]
    assert np.mean(np.array(as_samples) < 0.05) > 0.11


def test_a_detectable_difference_is_found_four_times_in_five(rng):
    """Of the folds' true deviation: what a table says is its median estimate."""
    exact = np.sqrt((1 - 1 / FOLDS) + 0.5**2 / SEEDS)  # of a fold's mean, within a sweep
    scale = np.array([-1, -1, 0, 1, 1]) / np.std([-1, -1, 0, 1, 1], ddof=1)
    shift = paired.detectable(exact * scale, RATIO)
    drawn = draw(rng, 0.5, 4000, shift)
    p = [paired.p_value(paired.by_fold(d, FOLD_OF), RATIO) for d in drawn]
    assert np.mean(np.array(p) < paired.LEVEL) == pytest.approx(paired.POWER, abs=0.03)
    assert np.isnan(paired.detectable(np.ones(1), RATIO))


def test_sizes_are_those_of_the_folds():
    rows = [
        {"fold": fold, "n": n, "n_train": train}
        for fold, every, train in (("1", ("90", "100"), "200"), ("2", ("300", "150"), "400"))
        for n in every
    ]
    assert paired.test_over_train(rows) == pytest.approx((100 / 200 + 300 / 400) / 2)
    old = [{k: v for k, v in row.items() if k != "n_train"} for row in rows]
    assert paired.test_over_train(old) == 1  # 1 / (F - 1)
    assert np.isnan(paired.test_over_train(old[:2]))


def test_holm_by_hand():
    p = np.array([0.01, np.nan, 0.04, 0.03])
    np.testing.assert_allclose(paired.holm(p), [0.03, np.nan, 0.06, 0.06])
    np.testing.assert_allclose(paired.holm(np.array([0.6, 0.9])), [1, 1])
