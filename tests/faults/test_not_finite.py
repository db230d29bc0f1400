"""A run whose loss is not finite is named and stopped; the others do not notice."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax import losses
from cmarr_jax.data import pack, pipeline
from cmarr_jax.runtime.exits import Preempted
from cmarr_jax.systems import SYSTEMS
from cmarr_jax.systems.system import Output, Stage, System
from cmarr_jax.training import loop as training
from cmarr_jax.training import prng
from cmarr_jax.training.runs import make_runs
from cmarr_jax.workdir.checkpoints import Checkpoints
from cmarr_jax.workdir.status import Stopped
from tests import tiny
from tests.faults import runs


@pytest.fixture(scope="module")
def corpus(tiny_pack):
    return pipeline.load(pack=tiny_pack.path, loader="numpy", length=2)


def linear(*, fold, step, value):
    """A system that compiles in no time. Its loss `cls` is `value` at that step, counted from 1,
    of that fold's run, if the run's class weights are 2, as no others are: one program serves
    spoiled and sound sweeps.
    """
    run = prng.key(jax.random.key_data(jax.random.fold_in(jax.random.key(0), fold)))
    bad_key = jax.random.key_data(jax.random.split(jax.random.fold_in(run, step - 1))[1])

    def make(config, modalities, num_classes, batch_axis=None):
        def means(batch):  # a dict comes back from jit in another order
            return [batch.features[m].mean(axis=1) for m in modalities]

        def encode(params, batch):  # [M, B, C]
            ends = np.cumsum([x.shape[-1] for x in means(batch)])[:-1]
            kernels = jnp.split(params["params"]["kernel"], ends)
            return jnp.stack([x @ kernel for x, kernel in zip(means(batch), kernels, strict=True)])

        def init(key, batch, before):
            shape = (sum(x.shape[-1] for x in means(batch)), num_classes)
            return {"params": {"kernel": 0.1 * jax.random.normal(key, shape)}}

        def loss(params, batch, available, key):
            logits = encode(params, batch).sum(axis=0)
            cls = losses.cross_entropy(logits, batch.labels, batch.weights)
            hit = jnp.all(jax.random.key_data(key) == bad_key) & jnp.all(batch.weights == 2)
            return {"cls": jnp.where(hit, value, cls)}

        def predict(params, encoded, mask, available):
            logits = jnp.where(available.T[:, :, None], encoded, 0).sum(axis=0)
            return Output(logits, recovered=None, target=None)

        return System((Stage("train", init, loss, encode, predict),))

    return make


def weigh(patch, fold, weight):
    def made(corpus, run_ids, *args, **fields):
        runs = make_runs(corpus, run_ids, *args, **fields)
        runs.class_weights[[r.fold.number == fold for r in run_ids]] = weight
        return runs

    patch.setattr(training, "make_runs", made)


def train(
    corpus, monkeypatch, checkpoints=None, *, spoiled=0, fold=2, step=6, value=np.nan,
    report=None, leave=lambda: False, **fields,
):  # fmt: skip
    stopped, epochs, memory = [], [], checkpoints or tiny.Memory()
    with monkeypatch.context() as patch:
        patch.setitem(SYSTEMS, "linear", linear(fold=fold, step=step, value=value))
        weigh(patch, spoiled, 2)
        _, best, scored = tiny.train(
            corpus, memory, stopped=stopped, leave=leave, report=report or epochs.append,
            **{"system": "linear", "train.epochs": 4}, **fields,
        )  # fmt: skip
    return best, scored, stopped, memory, epochs


@pytest.mark.parametrize("layout", ["vmap", pytest.param("map", marks=pytest.mark.faults)])
@pytest.mark.parametrize("value", [np.nan, pytest.param(-np.inf, marks=pytest.mark.faults)])
def test_one_run_of_a_sweep_is_stopped_and_the_others_keep_every_bit(
    corpus, monkeypatch, layout, value
):
    best, scored, stopped, memory, _ = train(corpus, monkeypatch, value=value, layout=layout)
    assert stopped == [None] * 3
    hurt, hurt_scored, stopped, hurt_memory, epochs = train(
        corpus, monkeypatch, spoiled=2, value=value, layout=layout
    )
    assert stopped == [None, Stopped(2, 0, "", 2, 6, "cls", str(value)), None]
    assert "fold 2, seed 0: stopped at step 6 (epoch 2), where cls became" in str(stopped[1])
    for run in (0, 2):
        np.testing.assert_array_equal(hurt.params[run], best.params[run])
        np.testing.assert_array_equal(hurt_scored[run].posteriors, scored[run].posteriors)
    ours, theirs = hurt_memory.saved["last"][0], memory.saved["last"][0]
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a[[0, 2]], b[[0, 2]])
    assert ours.step.tolist() == [16, 5, 16] and np.isfinite(ours.params).all()
    assert [e.trained.tolist() for e in epochs] == [[True] * 3] * 2 + [[True, False, True]] * 2
    assert [sum(map(bool, e.stopped)) for e in epochs] == [0, 1, 0, 0]


def test_the_parameters_stay_as_before_the_bad_step(corpus, monkeypatch):
    """Stopped at step 5, the first of epoch 2: what an epoch of 4 steps alone gives."""
    spoiled = {"spoiled": 2, "train.averaging": 0.9}
    hurt, memory = tiny.Memory(), tiny.Memory()
    _, _, stopped, _, _ = train(corpus, monkeypatch, hurt, step=5, **spoiled)
    assert stopped[1].step == 5
    with pytest.raises(Preempted):
        train(corpus, monkeypatch, memory, step=5, leave=lambda: True, **spoiled)
    for field in ("params", "average", "step"):
        ours, theirs = (getattr(m.saved["last"][0], field)[1] for m in (hurt, memory))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.faults
def test_a_resumed_sweep_remembers_who_was_stopped(corpus, monkeypatch, tmp_path):
    best, _, stopped, _, _ = train(corpus, monkeypatch, spoiled=2)
    epochs = []
    resumed = {"spoiled": 2, "report": epochs.append, "leave": lambda: len(epochs) == 3}
    with Checkpoints(str(tmp_path)) as checkpoints, pytest.raises(Preempted):
        train(corpus, monkeypatch, checkpoints, **resumed)
    with Checkpoints(str(tmp_path)) as checkpoints:
        again, _, found, _, epochs = train(corpus, monkeypatch, checkpoints, spoiled=2)
    assert found == stopped and [e.number for e in epochs] == [4]
    np.testing.assert_array_equal(again.params, best.params)


@pytest.mark.faults
def test_a_student_of_a_stopped_teacher_is_not_begun(corpus, monkeypatch):
    """The teacher's learning rate takes one fold's parameters out of all bounds."""
    teachers, stopped, epochs = tiny.NoTeachers(), [], []

    def spoiled(*args, to_come=0, **fields):
        made = make_runs(*args, to_come=to_come, **fields)
        if to_come:
            made.class_weights[1] = np.nan
        return made

    monkeypatch.setattr(training, "make_runs", spoiled)
    tiny.train(
        corpus, tiny.Memory(), argument="mmin", teachers=teachers, stopped=stopped,
        report=epochs.append, **{"train.epochs": 1, "pretrain.epochs": 1, "train.batch_size": 8},
    )  # fmt: skip
    assert [bool(s) for s in stopped] == [False, True, False]
    assert stopped[1].stage == "teacher" and stopped[1].step == 1
    assert sorted(fold for _, fold, _ in teachers.saved) == [1, 3]
    assert epochs[-1].trained.tolist() == [True, False, True]


# Fold 2's features become NaN in the batch of epoch 3, step 2.
SPOIL_FOLD_2 = """
import jax.numpy as jnp
from cmarr_jax.training import loop, train_step
whole, order, rows = train_step.take_batch, loop.epoch_order, [None]
def epoch_order(run_ids, *rest):
    rows[0] = order(run_ids, 3, *rest[1:])[1, 1]
    return order(run_ids, *rest)
def take_batch(arrays, run, these, dtype):
    batch = whole(arrays, run, these, dtype)
    hit = jnp.all(run.key == jnp.array(KEY, jnp.uint32))
    if len(these) == len(rows[0]):
        hit = hit & jnp.all(these == rows[0])
        return batch._replace(features={m: jnp.where(hit, jnp.nan, x) for m, x in batch.features.items()})
    return batch
train_step.take_batch, loop.epoch_order = take_batch, epoch_order
"""


def rows_of(file, fold):
    with open(file, newline="") as f:
        return [row for row in csv.DictReader(f) if row["fold"] == fold]


@pytest.mark.faults
def test_the_command_says_so_in_its_exit_code_its_results_and_its_status(sweeps, whole, tmp_path):
    out = tmp_path / "out"
    key = jax.random.key_data(jax.random.fold_in(jax.random.key(0), 2)).tolist()
    spoil = SPOIL_FOLD_2.replace("KEY", str(key))
    _, early = sweeps.kill_at("epoch 4/6", out, before=spoil)
    says = "fold 2, seed 0: stopped at step 8 (epoch 3), where cls became nan"
    assert f"{says}; the other runs go on" in early.err
    ended = sweeps.run(out, before=spoil)
    assert ended.code == 3 and not ended.errors
    assert f"{says}; lower the learning rate, in a new --workdir" in ended.err
    assert "; 1 runs" in ended.out
    status = json.loads((out / "status.json").read_text())
    assert status["complete"] is False
    assert [(s["fold"], s["step"], s["term"]) for s in status["stopped"]] == [(2, 8, "cls")]
    for name in ("results.csv", "predictions.csv"):
        assert rows_of(out / name, "1") == rows_of(whole / name, "1")
        assert not rows_of(out / name, "2")
    again = sweeps.run(out)
    assert again.code == 3 and again.out == ended.out and "epoch" not in again.err.replace(says, "")
    table = sweeps.run(out, script="evaluate.py")
    assert table.code == 0 and table.out == ended.out and f"without {says}" in table.err


@pytest.mark.faults
def test_where_every_run_is_stopped_there_are_no_results(sweeps, tmp_path):
    ended = sweeps.run(tmp_path / "out", "--config.train.learning_rate=1e30")
    assert ended.code == 3 and ended.out == "" and not ended.errors, ended.err
    assert ended.err.count("lower the learning rate") == 2
    assert not (tmp_path / "out/results.csv").exists()
    table = sweeps.run(tmp_path / "out", script="evaluate.py")
    assert table.code == 2 and "fold 1, seed 0: stopped at step" in table.errors[0]


@pytest.mark.faults
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused_by_row(sweeps, tmp_path, value):
    made = pack.read(str(sweeps.pack))
    broken = tmp_path / "pack"
    runs.copy(made.path, broken)
    rows = np.load(broken / "speech.npy")
    rows[17, 3] = value
    np.save(broken / "speech.npy", rows)
    ended = sweeps.run(tmp_path / "out", f"--config.data.pack={broken}")
    assert ended.code == 2 and len(ended.errors) == 1
    assert "speech.npy: row 17 (utterances.csv row" in ended.errors[0]
    assert not (tmp_path / "out").exists()
