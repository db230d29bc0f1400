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
