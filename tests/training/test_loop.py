"""The sweep's promises: independent runs, devices and layouts that do not matter, exact resume."""

import jax
import numpy as np
import pytest

from cmarr_jax import metrics
from cmarr_jax.data import pipeline
from cmarr_jax.errors import UserError
from cmarr_jax.training import feed
from cmarr_jax.training.layout import make_layout
from cmarr_jax.workdir.checkpoints import Checkpoints
from tests import tiny


@pytest.fixture(scope="module")
def corpus(tiny_pack):
    return pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)


def last_params(memory, run):
    """Parameters of run `run` after the last step."""
    state, _ = memory.saved["last"]
    return [leaf[run] for leaf in jax.tree.leaves(state.params)]


def assert_close(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


class Stop(Exception):
    """Stands for a kill."""


def stop_after_two(epoch):
    if epoch.number == 3:
        raise Stop


@pytest.fixture(scope="module")
def whole_sweep(corpus):
    """Three folds together; 5 epochs of 4 steps = 20 steps."""
    memory, epochs = tiny.Memory(), []
    result = tiny.train(corpus, memory, report=epochs.append, **{"train.epochs": 5})
    memory.losses = np.stack([epoch.terms["loss"] for epoch in epochs], axis=1)  # [R, epochs]
    return memory, result


@pytest.mark.parametrize("layout", ["map", "vmap"])
def test_a_fold_alone_equals_the_fold_in_the_sweep(corpus, whole_sweep, layout, monkeypatch):
    memory, (_, _, scored) = whole_sweep
    one_device = tuple(jax.devices()[:1])
    monkeypatch.setattr(jax, "devices", lambda: list(one_device))
    alone = tiny.Memory()
    _, _, scored_alone = tiny.train(
        corpus, alone, folds=(2,), **{"train.epochs": 5, "layout": layout}
    )
    assert int(alone.saved["last"][0].step[0]) == 20
    assert_close(last_params(alone, 0), last_params(memory, 1), 1e-5)
    np.testing.assert_allclose(scored_alone[0].posteriors, scored[1].posteriors, atol=1e-4)


@pytest.mark.parametrize("system", ["augmented", pytest.param("cmarr", marks=pytest.mark.faults)])
def test_shuffled_labels_score_chance_on_the_test_folds(corpus, system):
    """Chance is 1/3: what a run predicts says nothing of the true classes, so each class is hit
    as often as it is named. The tiny corpus' classes are three clusters, and a run may name each
    cluster by luck: of a random matching of three, the share that fits has mean and deviation
    1/3. Over 12 runs of 12 permutations the mean has deviation 1/3 / sqrt(12) = 0.096 at most.
    """

    def mean_uar(argument):
        memory, fields = tiny.Memory(), {"train.epochs": 5, "model.fusion.variant": "concat"}
        run_ids, _, scored = tiny.train(
            corpus, memory, seeds=(0, 1, 2, 3), argument=argument, **fields
        )
        assert len(run_ids) == 12
        confusions = [run.confusion(corpus.labels)[-1] for run in scored]
        return np.mean([metrics.scores(c).uar for c in confusions])

    assert mean_uar(system) > 1 / 3 + 4 * 0.096  # the same sweep with its own labels
    shuffled = mean_uar(f"shuffled_labels,{system}")
    assert abs(shuffled - 1 / 3) < 3 * 0.096, shuffled


@pytest.mark.slow
def test_sweeps_of_other_rates_and_weights_in_one_program_are_what_they_are_alone(
    corpus, whole_sweep
):
    memory, _ = whole_sweep
    own = {"train.learning_rate": 1e-3, "train.weight_decay": 0.5, "model.rec.weight": 1.0}
    other, joined = tiny.Memory(), tiny.Memory()
    tiny.train(corpus, other, folds=(2,), **{"train.epochs": 5}, **own)
    tiny.train(corpus, joined, together=({}, own), **{"train.epochs": 5})
    for run in range(3):
        assert_close(last_params(joined, run), last_params(memory, run), 1e-5)
    assert_close(last_params(joined, 3 + 1), last_params(other, 0), 1e-5)
    (ours,), (theirs,) = last_params(joined, 1), last_params(joined, 3 + 1)
    assert np.abs(ours - theirs).max() > 1e-2


@pytest.mark.slow
def test_vmapped_runs_equal_mapped_runs(corpus, whole_sweep):
    memory, _ = whole_sweep
    vmapped = tiny.Memory()
    tiny.train(corpus, vmapped, **{"train.epochs": 5, "layout": "vmap"})
    for run in range(3):
        assert_close(last_params(vmapped, run), last_params(memory, run), 1e-5)


@pytest.mark.parametrize("folds, at_once", [((1, 2, 3), 2), ((2,), 3)])
def test_features_on_disk_train_as_those_in_memory(
    corpus, whole_sweep, tiny_pack, tmp_path, monkeypatch, folds, at_once
):
    size = sum(x.nbytes for x in corpus.features.values()) // len(corpus.labels)
    monkeypatch.setattr(feed, "_CHUNK", at_once * len(folds) * 8 * size)  # of four steps an epoch
    on_disk = pipeline.load(pack=tiny_pack.path, loader="numpy", length=4, stream=str(tmp_path))
    read, epochs, steps = [], [], feed.Feed.steps
    monkeypatch.setattr(
        feed.Feed, "steps", lambda self, order: (read.append(p) or p for p in steps(self, order))
    )
    (memory, (_, best, scored)), streamed = whole_sweep, tiny.Memory()
    run_ids, ours, ours_scored = tiny.train(
        on_disk, streamed, folds=folds, report=epochs.append, **{"train.epochs": 5}
    )
    read = [(rows, arrays) for rows, arrays in read if rows.shape[2] == 8]  # for training
    assert [rows.shape for rows, _ in read[:2]] == [(len(folds), at_once, 8)] * 2
    assert len(read[0][1].mask) < len(corpus.labels)
    losses = np.stack([epoch.terms["loss"] for epoch in epochs], axis=1)
    for r, (fold, _) in enumerate(run_ids):
        k = fold.number - 1
        np.testing.assert_allclose(losses[r], memory.losses[k], rtol=1e-5)
        assert_close(last_params(streamed, r), last_params(memory, k), 1e-5)
        assert ours.epoch[r] == best.epoch[k]
        np.testing.assert_allclose(ours_scored[r].posteriors, scored[k].posteriors, atol=1e-4)
        np.testing.assert_allclose(ours_scored[r].recovery, scored[k].recovery, rtol=1e-3)


def test_a_batch_cut_over_two_devices_equals_one_device(corpus, whole_sweep):
    """One run on two devices: gradients summed, negatives global, the same dropout."""
    assert make_layout(1, (8,)).cuts_batch
    memory, _ = whole_sweep
    cut = tiny.Memory()
    tiny.train(corpus, cut, folds=(3,), **{"train.epochs": 5})
    assert_close(last_params(cut, 0), last_params(memory, 2), 1e-5)


@pytest.mark.slow
def test_without_validation_the_last_model_counts_after_a_resume_too(corpus, tmp_path):
    fields = dict(folds=(1, 2), validation="none")
    whole, epochs = tiny.Memory(), []
    _, best, scored = tiny.train(corpus, whole, report=epochs.append, **fields)
    state, _ = whole.saved["last"]
    assert best.epoch.tolist() == [3, 3] and np.isnan(best.val_uar).all()
    np.testing.assert_array_equal(best.params, state.average)
    assert np.isfinite(scored[0].posteriors).all()
    assert all(np.isnan(e.validated).all() and not any(e.stopped) for e in epochs)
    with pytest.raises(Stop), Checkpoints(str(tmp_path)) as cut:
        tiny.train(corpus, cut, report=stop_after_two, **fields)
    with Checkpoints(str(tmp_path)) as cut:
        assert cut.latest_epoch("", "last") == 2
        _, resumed, _ = tiny.train(corpus, cut, **fields)
    for a, b in zip(jax.tree.leaves(best), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(corpus, tmp_path):
    with Checkpoints(str(tmp_path / "a")) as checkpoints:
        _, whole, whole_scored = tiny.train(corpus, checkpoints)
    with pytest.raises(Stop), Checkpoints(str(tmp_path / "b")) as checkpoints:
        tiny.train(corpus, checkpoints, report=stop_after_two)
    epochs = []
    with Checkpoints(str(tmp_path / "b")) as checkpoints:
        assert checkpoints.latest_epoch("", "last") == 2
        _, resumed, resumed_scored = tiny.train(corpus, checkpoints, report=epochs.append)
    assert [e.number for e in epochs] == [3]
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(whole_scored, resumed_scored, strict=True):
        np.testing.assert_array_equal(a.posteriors, b.posteriors)


def test_a_checkpoint_of_another_shape_is_refused(corpus, tmp_path):
    with Checkpoints(str(tmp_path)) as checkpoints:
        tiny.train(corpus, checkpoints, **{"train.epochs": 1})
    with pytest.raises(UserError, match="does not fit"), Checkpoints(str(tmp_path)) as checkpoints:
        tiny.train(corpus, checkpoints, **{"model.classifier.hidden": 24})


@pytest.mark.slow
def test_it_learns(corpus):
    losses = []
    _, best, scored = tiny.train(
        corpus,
        tiny.Memory(),
        report=lambda e: losses.append(e.terms["cls"].mean()),
        **{"train.epochs": 25, "train.learning_rate": 1e-2},
    )
    assert losses[-1] < losses[0] / 2
    full = np.mean([s.posteriors[-1].argmax(-1) == corpus.labels[s.rows] for s in scored])
    assert full > 0.6  # chance is a third
    assert (best.epoch >= 1).all()
