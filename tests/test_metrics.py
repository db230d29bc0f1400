import numpy as np
import sklearn.metrics

from cmarr_jax import metrics


def test_scores_equal_sklearn(rng):
    labels, predicted = rng.integers(4, size=(2, 200))
    ours = metrics.scores(metrics.confusion_matrix(labels, predicted, 4))
    np.testing.assert_allclose(ours.war, sklearn.metrics.accuracy_score(labels, predicted))
    np.testing.assert_allclose(
        ours.uar, sklearn.metrics.recall_score(labels, predicted, average="macro")
    )
    np.testing.assert_allclose(
        ours.macro_f1, sklearn.metrics.f1_score(labels, predicted, average="macro")
    )


def test_a_class_that_never_occurs_has_no_recall():
    confusion = np.array([[3, 1, 0], [0, 0, 0], [0, 1, 3]])
    assert metrics.scores(confusion).uar == 0.75


def test_nothing_to_score_is_nan():
    assert np.isnan(metrics.scores(np.zeros((3, 3)))).all()


def test_cross_entropy_is_the_balanced_log_loss_of_sklearn(rng):
    labels = rng.choice(3, size=60, p=[0.7, 0.2, 0.1])
    posteriors = rng.dirichlet([1, 1, 1, 1], size=60)  # the fourth class never occurs
    weights = 1 / np.bincount(labels)[labels]
    wanted = sklearn.metrics.log_loss(labels, posteriors, labels=range(4), sample_weight=weights)
    np.testing.assert_allclose(metrics.cross_entropy(posteriors, labels), wanted)


def test_cross_entropy_of_a_posterior_that_was_rounded_to_zero_is_finite():
    assert 80 < metrics.cross_entropy(np.float32([[0, 1]]), np.array([0])) < 90
