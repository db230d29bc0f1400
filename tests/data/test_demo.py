"""The demo corpus is what it says: IEMOCAP's shape, ordered modalities, shared content."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cmarr_jax.data import demo, pipeline, protocol

pytestmark = pytest.mark.slow  # it makes the whole demo corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("demo") / "pack")
    demo.make(path)
    return pipeline.load(pack=path, loader="numpy", length=1)


def test_shape_and_class_proportions(corpus):
    assert corpus.modalities == ("text", "speech", "video")
    assert [f.shape[-1] for f in corpus.features.values()] == [768, 768, 342]
    assert "synthetic" in corpus.name
    assert len(set(corpus.columns["session"])) == 5 and len(set(corpus.columns["speaker"])) == 10
    share = np.bincount(corpus.labels) / len(corpus.labels)
    np.testing.assert_allclose(share, np.array([1103, 1636, 1708, 1084]) / 5531, atol=0.01)


def test_single_modalities_are_ordered_as_in_the_paper(corpus):
    """Speech over text over video, none at chance or at the ceiling."""
    folds = protocol.make_folds(corpus.columns, corpus.labels)
    accuracy = {}
    for modality, features in corpus.features.items():
        x, hits = features[:, 0].astype(np.float32), []
        for fold in folds:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=200))
            model.fit(x[fold.train], corpus.labels[fold.train])
            hits.append(model.score(x[fold.test], corpus.labels[fold.test]))
        accuracy[modality] = np.mean(hits)
    assert 0.9 > accuracy["speech"] > accuracy["text"] > accuracy["video"] > 0.4


def test_one_modality_predicts_another(corpus):
    fold = protocol.make_folds(corpus.columns, corpus.labels)[0]
    both = corpus.present.all(axis=1)
    train, test = fold.train[both[fold.train]], fold.test[both[fold.test]]
    vectors = {m: f[:, 0].astype(np.float32) for m, f in corpus.features.items()}
    for source in vectors:
        for target in vectors:
            if source != target:
                model = Ridge(100).fit(vectors[source][train], vectors[target][train])
                assert model.score(vectors[source][test], vectors[target][test]) > 0.3
