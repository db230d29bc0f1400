"""The expected time follows from what the loop reports; a clock that is not real tells it."""

from types import SimpleNamespace

import numpy as np
import pytest

from cmarr_jax.data import pipeline
from cmarr_jax.experiment import dry_run
from cmarr_jax.training import loop
from tests import tiny


def test_a_teacher_and_its_student_are_timed_apart(tiny_pack, monkeypatch):
    corpus = pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)
    config = tiny.config("mmin", **{"pretrain.batch_size": 4, "train.batch_size": 8})
    config.train.epochs, config.pretrain.epochs = 50, 10
    run_ids = tiny.experiment(corpus, config).run_ids
    folds = [fold for fold, _ in run_ids]
    steps = [len(fold.train) // 4 for fold in folds], [len(fold.train) // 8 for fold in folds]
    now = [100.0]
    monkeypatch.setattr(dry_run.time, "monotonic", lambda: now[0])

    def train(experiment, checkpoints, report):
        assert experiment.config.train.epochs == experiment.config.pretrain.epochs == 2
        # teacher: compiles for 30 s, a step of all runs takes 1 s; student: 60 s and 2 s
        for stage, compiling, step, every in (("t", 30, 1.0, steps[0]), ("", 60, 2.0, steps[1])):
            seconds = max(every) * step
            utterances = sum(every) * (4 if stage else 8)
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
