"""Runs depend on their fold and seed alone, and learn from the training part alone."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
import scipy.stats

from cmarr_jax.data import missing, pipeline, protocol
from cmarr_jax.errors import UserError
from cmarr_jax.training import train_step
from cmarr_jax.training.runs import RunId, epoch_order, learners, make_run_ids, make_runs
from tests import tiny

BALANCED = {"train.batch_size": 8, "train.epochs": 1, "train.balance_classes": True}
CONFIG = tiny.config(**BALANCED)


@pytest.fixture(scope="module")
def corpus(tiny_pack):
    return pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)


@pytest.fixture(scope="module")
def run_ids(corpus):
    return [RunId(fold, 0) for fold in protocol.make_folds(corpus.columns, corpus.labels)]


def test_runs_are_normalised_by_their_training_part_alone(corpus, run_ids):
    runs = make_runs(corpus, run_ids, CONFIG, "train")
    fold = run_ids[1].fold
    rows = [i for i in fold.train if corpus.present[i, 2]]
    frames = corpus.features["video"][rows].reshape(-1, 6)
    np.testing.assert_allclose(runs.statistics.mean["video"][1], frames.mean(0), rtol=1e-5)
    np.testing.assert_allclose(runs.statistics.scale["video"][1], 1 / frames.std(0), rtol=1e-5)
    counts = np.bincount(corpus.labels[fold.train])
    np.testing.assert_allclose(runs.class_weights[1], len(fold.train) / (3 * counts), rtol=1e-6)
    assert not runs.statistics.quantiles


def test_on_request_one_modality_alone_is_normalised(corpus, run_ids):
    config = CONFIG.copy_and_resolve_references()
    config.data.normalised = ("speech",)
    every, one = (make_runs(corpus, run_ids, c, "train").statistics for c in (CONFIG, config))
    for name, alone in (("mean", 0), ("scale", 1)):
        ours, theirs = getattr(one, name), getattr(every, name)
        np.testing.assert_array_equal(ours["speech"], theirs["speech"])
        for other in ("text", "video"):
            np.testing.assert_array_equal(ours[other], np.full_like(theirs[other], alone))
            assert (theirs[other] != alone).any()


def test_normalisation_and_class_weights_know_the_training_part_alone(corpus, run_ids):
    others = [np.setdiff1d(np.arange(len(corpus.labels)), r.fold.train) for r in run_ids]
    runs = make_runs(corpus, run_ids, CONFIG, "train")
    for k, (run_id, rows) in enumerate(zip(run_ids, others, strict=True)):
        poisoned = {m: values.copy() for m, values in corpus.features.items()}
        for values in poisoned.values():
            values[rows] = 1e4
        labels = corpus.labels.copy()
        labels[rows] = 0
        changed = corpus._replace(features=poisoned, labels=labels)
        again = make_runs(changed, [run_id], CONFIG, "train")
        for name in ("statistics", "class_weights"):
            ours, theirs = getattr(runs, name), getattr(again, name)
            for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
                np.testing.assert_array_equal(a[k], b[0])


@pytest.mark.parametrize("quantiles", [False, True])
def test_normalisation_knows_nothing_of_what_is_dropped(corpus, run_ids, quantiles):
    config = tiny.config(**BALANCED, **{"data.quantiles": quantiles})
    lacking = corpus._replace(dropped=missing.drop(corpus.present, np.full(3, 0.4), 0))
    poisoned = {m: x.copy() for m, x in corpus.features.items()}
    for k, values in enumerate(poisoned.values()):
        values[lacking.dropped[:, k]] = 1e4
    runs = [
        make_runs(each, run_ids, config, "train").statistics
        for each in (lacking, lacking._replace(features=poisoned), corpus)
    ]
    left, again, whole = map(jax.tree.leaves, runs)
    for a, b in zip(left, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != c).any() for a, c in zip(left, whole, strict=True))


def test_a_stage_on_complete_data_learns_from_utterances_that_kept_all(corpus, run_ids):
    dropped = missing.drop(corpus.present, np.full(3, 0.3), 0)
    lacking = corpus._replace(dropped=dropped)
    complete, simulated = (SimpleNamespace(complete=c) for c in (True, False))
    assert learners(run_ids, corpus, complete) == run_ids == learners(run_ids, lacking, simulated)
    own = learners(run_ids, lacking, complete)
    runs = make_runs(lacking, run_ids, CONFIG, "train", learn=own)
    for r, ((fold, seed), (whole, _)) in enumerate(zip(own, run_ids, strict=True)):
        kept = [i for i in whole.train if corpus.present[i].all() and not dropped[i].any()]
        assert fold.train.tolist() == kept and 0 < len(kept) < len(whole.train) and seed == 0
        counts = np.bincount(corpus.labels[kept], minlength=3)
        weights = len(kept) / (3 * np.maximum(counts, 1))
        np.testing.assert_allclose(runs.class_weights[r], weights, rtol=1e-6)
        assert runs.total_steps[r] == len(kept) // 8
    # They are normalised as the student will be.
    student = make_runs(lacking, run_ids, CONFIG, "train").statistics
    for a, b in zip(*map(jax.tree.leaves, (runs.statistics, student)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_by_quantiles_the_training_part_is_standard_normal_however_skewed(corpus, run_ids):
    rng = np.random.default_rng(0)  # frames repeat: the noise makes their ranks differ
    noisy = {m: x + rng.normal(size=x.shape) for m, x in corpus.features.items()}
    skewed = corpus._replace(features={m: np.exp(x) for m, x in noisy.items()})
    config = tiny.config(**BALANCED, **{"data.quantiles": True})
    runs = make_runs(skewed, run_ids, config, "train")
    run = jax.tree.map(lambda leaf: leaf[1], runs)
    arrays = train_step.Arrays(skewed.features, corpus.mask, corpus.present)
    fold = run_ids[1].fold
    rows = np.array([i for i in fold.train if corpus.present[i, 2]])
    x = np.asarray(train_step.take_batch(arrays, run, rows).features["video"])
    frames = skewed.features["video"][rows].reshape(-1, 6)
    share = (scipy.stats.rankdata(frames, method="average", axis=0) - 1) / (len(frames) - 1)
    want = np.clip(scipy.stats.norm.ppf(share), -3, 3)
    middle = np.abs(want) < 1.5  # linear in between, which is coarse where there are few
    np.testing.assert_allclose(x.reshape(-1, 6)[middle], want[middle], atol=0.05)
    np.testing.assert_allclose(x.reshape(-1, 6), want, atol=0.3)
    others = np.array([fold.test[0]])
    beyond = skewed._replace(features={m: x + 1e6 for m, x in skewed.features.items()})
    arrays = arrays._replace(features=beyond.features)
    assert (np.asarray(train_step.take_batch(arrays, run, others).features["text"]) == 3).all()


def test_epoch_orders_depend_on_fold_seed_and_epoch_alone(run_ids):
    together = epoch_order(run_ids, 4, 8)
    for k, run in enumerate(run_ids):
        alone = epoch_order([run], 4, 8)[0]
        np.testing.assert_array_equal(together[k, : len(alone)], alone)
        used = together[k][together[k] >= 0]
        assert set(used) <= set(run.fold.train) and len(set(used)) == len(used)
    assert (epoch_order(run_ids, 5, 8) != together).any()


@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"fold": 9}, "fold=9"),
        ({"batch_sizes": {"pretrain": 99}}, "pretrain.batch_size=99"),
    ],
)
def test_impossible_runs_are_named(run_ids, wrong, match):
    right = {"seed": 0, "num_seeds": 1, "fold": 0, "batch_sizes": {"train": 8}}
    with pytest.raises(UserError, match=match):
        make_run_ids([r.fold for r in run_ids], **(right | wrong))
