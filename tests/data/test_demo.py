"""The demo corpus is what it says: IEMOCAP's shape, ordered modalities, content in common."""

import json
import os

import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cmarr_jax.data import demo, pack, pipeline, protocol

MODALITIES = ("text", "speech", "video")
SHARES = (0.0, 0.5, 1.0)
slow = pytest.mark.slow  # it makes whole corpora


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("demo") / "pack")
    demo.make(path)
    return pipeline.load(pack=path, loader="numpy", length=1)


def accuracies(corpus):
    """Of a linear classifier on each modality alone, over the folds."""
    folds, accuracy = protocol.make_folds(corpus.columns, corpus.labels), {}
    for modality, features in corpus.features.items():
        x, hits = features[:, 0].astype(np.float32), []
        for fold in folds:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=200))
            model.fit(x[fold.train], corpus.labels[fold.train])
            hits.append(model.score(x[fold.test], corpus.labels[fold.test]))
        accuracy[modality] = np.mean(hits)
    return accuracy


@slow
def test_shape_and_class_proportions(corpus):
    assert corpus.modalities == ("text", "speech", "video")
    assert [f.shape[-1] for f in corpus.features.values()] == [768, 768, 342]
    assert "synthetic" in corpus.name
    assert len(set(corpus.columns["session"])) == 5 and len(set(corpus.columns["speaker"])) == 10
    share = np.bincount(corpus.labels) / len(corpus.labels)
    np.testing.assert_allclose(share, np.array([1103, 1636, 1708, 1084]) / 5531, atol=0.01)


@slow
def test_single_modalities_are_ordered_as_in_the_paper(corpus):
    """Speech over text over video, none at chance or at the ceiling."""
    accuracy = accuracies(corpus)
    assert 0.9 > accuracy["speech"] > accuracy["text"] > accuracy["video"] > 0.4


@slow
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


@pytest.mark.parametrize(
    "num, print_", [(40, "231816f78ef42401"), pytest.param(600, "dce6e9ba8c28cd10", marks=slow)]
)
def test_without_knobs_every_byte_is_as_it_always_was(tmp_path, num, print_):
    """Of the files of commit 3e86d40, before there were knobs."""
    path = str(tmp_path / "pack")
    assert demo.main([path, f"--utterances={num}"]) == 0
    assert pack.fingerprint_at(path) == print_


def test_the_knobs_reach_the_corpus_and_its_provenance(tmp_path, capsys):
    quiet, loud = str(tmp_path / "quiet"), str(tmp_path / "loud")
    flags = ["--utterances=40", "--shared=0.25", "--seed=3"]
    assert demo.main([quiet, *flags, "--noise=0"]) == 0
    assert demo.main([loud, *flags, "--noise=2"]) == 0
    assert capsys.readouterr().out == (
        f"{quiet}: 40 synthetic utterances\n{loud}: 40 synthetic utterances\n"
    )
    with open(os.path.join(loud, "pack.json"), encoding="utf-8") as f:
        manifest = json.load(f)
    assert manifest["corpus"] == "demo (synthetic); shared 0.25; noise 2"
    assert (
        manifest["provenance"] | {"shared": 0.25, "noise": 2.0, "seed": 3}
        == (manifest["provenance"])
    )
    for modality in MODALITIES:  # the same but for the noise, whose deviation is the level
        without, with_noise = (np.float32(pack.read(p).features[modality]) for p in (quiet, loud))
        assert 0.3 < without.std() < 0.7
        np.testing.assert_allclose((with_noise - without).std(), 2, rtol=0.01)


@pytest.mark.parametrize(
    "flag, wanted",
    [
        ("--shared=1.5", "a share, 0 to 1"),
        ("--shared=nan", "a share, 0 to 1"),
        ("--noise=-1", "a standard deviation, 0 or more"),
        ("--noise=inf", "a standard deviation, 0 or more"),
        ("--utterances=39", "40 or more"),
        ("--seed=-1", "0 or more"),
    ],
)
def test_a_number_out_of_range_is_named_and_nothing_is_written(tmp_path, capsys, flag, wanted):
    assert demo.main([str(tmp_path / "pack"), flag]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {flag}") and wanted in said and said.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("shared", [None, *SHARES])
@pytest.mark.parametrize("modalities", [("video",), ("text", "speech"), MODALITIES])
def test_the_ceiling_is_the_best_guess_from_the_evidence(modalities, shared):
    """By drawing evidence as the module's first lines say, and Bayes' rule with its covariance."""
    rng, num = np.random.default_rng(0), 60_000
    gains = {"text": 1.6, "speech": 1.8, "video": 1.1}
    means = np.eye(4) - 0.25
    labels, common = rng.integers(4, size=num), rng.normal(size=(num, 4))
    evidence, factors = [], []
    for m in modalities:
        share = 0.5 if shared is None else shared * gains[m] ** 2 / 1.8**2
        own = rng.normal(size=(num, 4))
        noise = np.sqrt(share) * common + np.sqrt(1 - share) * own
        evidence.append(gains[m] * means[labels] + noise)
        factors.append(np.sqrt(share))
    covariance = np.outer(factors, factors) + np.diag(1 - np.square(factors))
    covariance = np.kron(covariance, np.eye(4))
    stacked = np.concatenate(evidence, axis=1)
    log_likelihoods = [
        scipy.stats.multivariate_normal.logpdf(
            stacked, np.concatenate([gains[m] * means[c] for m in modalities]), covariance
        )
        for c in range(4)
    ]
    hits = np.argmax(log_likelihoods, axis=0) == labels
    recalls = [hits[labels == c].mean() for c in range(4)]
    np.testing.assert_allclose(demo.ceiling(modalities, shared), np.mean(recalls), atol=0.007)


def test_modalities_that_share_everything_know_no_more_than_the_clearest():
    speech = demo.ceiling(("speech",), 1.0)
    np.testing.assert_allclose(demo.ceiling(MODALITIES, 1.0), speech)
    assert demo.ceiling(MODALITIES, 0.0) > demo.ceiling(MODALITIES, 0.5) > speech + 0.02
    for modality in MODALITIES:
        alone = [demo.ceiling((modality,), shared) for shared in SHARES]
        np.testing.assert_allclose(alone, alone[0])


@pytest.fixture(scope="module")
def shared_corpora(tmp_path_factory):
    """Share -> a corpus; of each the same labels, speakers and lengths."""
    folder, found = tmp_path_factory.mktemp("shared"), {}
    for shared in SHARES:
        path = str(folder / f"{shared}")
        demo.make(path, 1000, shared=shared)
        found[shared] = pipeline.load(pack=path, loader="numpy", length=1)
    return found


@slow
def test_a_modality_alone_is_as_informative_at_every_share(shared_corpora):
    """Within 4 points, what two of 1,000 utterances' accuracies differ by once in a hundred."""
    accuracy = [accuracies(corpus) for corpus in shared_corpora.values()]
    for modality in MODALITIES:
        assert np.ptp([each[modality] for each in accuracy]) < 0.04
        assert accuracy[0][modality] > 0.4


@slow
def test_what_one_modality_tells_of_another_rises_from_the_class_alone(shared_corpora):
    """R^2 of a linear map on other speakers, of what is left when each class's and each speaker's
    mean is taken off: eight speakers could be learned by heart.
    """
    found = {}
    for corpus in shared_corpora.values():  # in the order of SHARES
        fold = protocol.make_folds(corpus.columns, corpus.labels)[0]
        both = corpus.present.all(axis=1)
        train, test = fold.train[both[fold.train]], fold.test[both[fold.test]]
        rest = {}
        for modality, features in corpus.features.items():
            x = features[:, 0].astype(np.float32)
            means = [x[train][corpus.labels[train] == c].mean(axis=0) for c in range(4)]
            left = x - np.stack(means)[corpus.labels]
            for speaker in np.unique(corpus.columns["speaker"]):
                own = both & (corpus.columns["speaker"] == speaker)
                left[own] -= left[own].mean(axis=0)
            rest[modality] = left
        for source in MODALITIES:
            for target in MODALITIES:
                if source != target:
                    model = Ridge(300).fit(rest[source][train], rest[target][train])
                    score = model.score(rest[source][test], rest[target][test])
                    found.setdefault((source, target), []).append(score)
    for pair, (none, half, whole) in found.items():
        assert -0.1 < none < 0.01, (pair, none)  # below 0: what was learned of noise
        assert none + 0.05 < half and half + 0.05 < whole, (pair, none, half, whole)
        assert whole > 0.2, (pair, whole)
