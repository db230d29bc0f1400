"""The expected time follows from what the loop reports; a clock that is not real tells it."""

from types import SimpleNamespace

import numpy as np
import pytest

from cmarr_jax.data import pipeline
from cmarr_jax.experiment import dry_run
from cmarr_jax.training import loop
from tests import tiny
from tests.conftest import write_pack


def test_a_teacher_and_its_student_are_timed_apart(tiny_pack, monkeypatch):
    corpus = pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)
    config = tiny.config("mmin", **{"pretrain.batch_size": 4, "train.batch_size": 8})
    config.train.epochs, config.pretrain.epochs = 50, 10
    run_ids = tiny.experiment(corpus, config).run_ids
    folds = [fold for fold, _ in run_ids]
    steps = [len(fold.train) // 4 for fold in folds], [len(fold.train) // 8 for fold in folds]
    now = [100.0]
    monkeypatch.setattr(dry_run.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(dry_run.jax, "device_count", lambda: 3)

    def train(experiment, checkpoints, report):
        assert experiment.config.train.epochs == experiment.config.pretrain.epochs == 2
        # teacher: compiles for 30 s, a step of all runs takes 1 s; student: 60 s and 2 s
        for stage, compiling, step, size in (("t", 30, 1.0, 4), ("", 60, 2.0, 8)):
            whole = [len(fold.train) // size for fold, _ in experiment.run_ids]
            every = [min(most, n) for most, n in zip(experiment.steps, whole, strict=True)]
            assert max(every) <= dry_run.STEPS
            seconds = max(every) * step
            utterances = sum(every) * size
            for number in (1, 2):
                now[0] += compiling * (number == 1) + seconds + 5.0  # 5 s of validation
                speed = float("nan") if number == 1 else utterances / seconds
                report(SimpleNamespace(stage=stage, number=number, utterances_per_second=speed))

    monkeypatch.setattr(loop, "train", train)
    teachers = tiny.NoTeachers()
    teachers.saved = {("teacher", 1, 0): np.zeros(1)}

    experiment = tiny.experiment(corpus, config, teachers=teachers)
    plans = dry_run.measure(experiment)
    teacher, student = plans
    assert [p.name for p in plans] == ["teacher", "student"]
    assert teacher.step == pytest.approx(1) and student.step == pytest.approx(2)
    assert teacher.validation == pytest.approx(5) and student.compile == pytest.approx(60)
    assert (teacher.kept, student.kept) == (1, 0)
    wanted = 30 + 10 * (max(steps[0]) * 1 + 5)
    assert teacher.expected == pytest.approx(wanted)
    text = dry_run.describe(plans, experiment, ["DIR"])
    total = wanted + 60 + 50 * (max(steps[1]) * 2 + 5)
    assert f"expected time: {total / 60:.1f} min; nothing was written to DIR" in text
    there = dry_run.describe([teacher._replace(kept=3), student], experiment, ["DIR"])
    assert f"expected time: {(total - wanted) / 60:.1f} min" in there


def test_validation_is_measured_on_a_part_and_counted_whole(tiny_pack, monkeypatch):
    corpus = pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)
    experiment = tiny.experiment(corpus, tiny.config(**{"train.eval_batch_size": 1}))
    now = [0.0]
    monkeypatch.setattr(dry_run.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(dry_run.jax, "device_count", lambda: 3)

    def train(experiment, checkpoints, report):
        for number in (1, 2):
            validation = max(len(fold.val) for fold, _ in experiment.run_ids)
            assert validation == 1
            now[0] += 8.0 + validation  # a second a batch
            whole = [len(f.train) // 8 for f, _ in experiment.run_ids]
            every = [min(most, n) for most, n in zip(experiment.steps, whole, strict=True)]
            rate = sum(every) * 8 / 8.0
            report(SimpleNamespace(stage="", number=number, utterances_per_second=rate))

    monkeypatch.setattr(loop, "train", train)
    (plan,) = dry_run.measure(experiment)
    whole = max(len(fold.val) for fold, _ in experiment.run_ids)
    assert whole > 2 and plan.validation == pytest.approx(whole)


def test_a_pack_of_one_vector_a_modality_is_told_of_the_variant_for_it(tmp_path):
    pack = write_pack(tmp_path / "pack", length=1).path
    plain = tiny.experiment(pipeline.load(pack=pack, loader="numpy", length=4), tiny.config())
    assert "data.length=4" in plain.advice and ":pooled" in plain.advice
    short = tiny.config(**{"data.length": 1})
    assert tiny.experiment(pipeline.load(pack=pack, loader="numpy", length=1), short).advice == ""


def test_a_pack_of_sequences_is_told_nothing(tiny_pack):
    corpus = pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)
    assert tiny.experiment(corpus, tiny.config()).advice == ""


def test_runs_that_wait_for_one_another_are_counted_and_not_measured(tiny_pack, monkeypatch):
    """Three runs on two devices: one of them goes twice."""
    corpus = pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)
    experiment = tiny.experiment(corpus, tiny.config())
    now, seen = [0.0], []
    monkeypatch.setattr(dry_run.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(dry_run.jax, "device_count", lambda: 2)

    def train(experiment, checkpoints, report):
        whole = [len(fold.train) // 8 for fold, _ in experiment.run_ids]
        every = [min(most, n) for most, n in zip(experiment.steps, whole, strict=True)]
        seen.append(list(experiment.steps))
        for number in (1, 2):
            now[0] += max(every) + 3.0
            rate = sum(every) * 8 / max(every)
            report(SimpleNamespace(stage="", number=number, utterances_per_second=rate))

    monkeypatch.setattr(loop, "train", train)
    (plan,) = dry_run.measure(experiment)
    # The second run waits for the first, the third goes beside it; validation takes all of them.
    assert seen == [[dry_run.STEPS, 0, dry_run.STEPS]]
    assert plan.step == pytest.approx(2) and plan.validation == pytest.approx(3)
