"""The expected time follows from what the loop reports; a clock that is not real tells it."""

from types import SimpleNamespace

import numpy as np
import pytest

from cmarr_jax.data import pipeline, protocol
from cmarr_jax.experiment import dry_run
from cmarr_jax.experiment.prepare import Experiment, Part
from cmarr_jax.systems import SYSTEMS
from cmarr_jax.training import loop as training
from cmarr_jax.training.runs import RunId
from tests import tiny


def test_a_teacher_and_its_student_are_timed_apart(tiny_pack, monkeypatch):
    corpus = pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)
    config = tiny.config("mmin", **{"pretrain.batch_size": 4, "train.batch_size": 8})
    config.train.epochs, config.pretrain.epochs = 50, 10
    folds = protocol.make_folds(corpus.columns, corpus.labels, scheme="session")
    run_ids = [RunId(fold, 0) for fold in folds]
    steps = [len(fold.train) // 4 for fold in folds], [len(fold.train) // 8 for fold in folds]
    now = [100.0]
    monkeypatch.setattr(dry_run.time, "monotonic", lambda: now[0])

    def train(*, config, run_ids, report, **_):
        assert config.train.epochs == config.pretrain.epochs == 2
        # teacher: compiles for 30 s, a step of all runs takes 1 s; student: 60 s and 2 s
        for stage, compiling, step, every in (("t_", 30, 1.0, steps[0]), ("", 60, 2.0, steps[1])):
            seconds = max(every) * step
            utterances = sum(every) * (4 if stage else 8)
            for number in (1, 2):
                now[0] += compiling * (number == 1) + seconds + 5.0  # 5 s of validation
                speed = float("nan") if number == 1 else utterances / seconds
                report(SimpleNamespace(stage=stage, number=number, utterances_per_second=speed))

    monkeypatch.setattr(training, "train", train)
    teachers = tiny.NoTeachers()
    teachers.saved = {("teacher", 1, 0): np.zeros(1)}

    def make_system(axis):
        return SYSTEMS["mmin"](config.model, corpus.modalities, 3, axis)

    identity = {"system": "mmin", "variant": "v", "corpus": "c", "protocol": "p"}
    made = Experiment(
        parts=[Part(config, identity, run_ids, ())],
        corpus=corpus, audited={}, conditions=[], curves=[], masking=None,
        make_system=make_system, stages=make_system(None).stages,
        vectors=training.make_vectors(make_system(None), corpus), device="1 x cpu",
        digest=corpus.digest, teachers=teachers, memory=10**9,
    )  # fmt: skip
    plans = dry_run.measure(made)
    teacher, student = plans
    assert [p.name for p in plans] == ["teacher", "student"]
    assert teacher.step == pytest.approx(1) and student.step == pytest.approx(2)
    assert teacher.validation == pytest.approx(5) and student.compile == pytest.approx(60)
    assert (teacher.kept, student.kept) == (1, 0)
    wanted = 30 + 10 * (max(steps[0]) * 1 + 5)
    assert teacher.expected == pytest.approx(wanted)
    text = dry_run.describe(plans, made, ["DIR"])
    total = wanted + 60 + 50 * (max(steps[1]) * 2 + 5)
    assert f"expected time: {total / 60:.1f} min; nothing was written to DIR" in text
    there = dry_run.describe([teacher._replace(kept=3), student], made, ["DIR"])
    assert f"expected time: {(total - wanted) / 60:.1f} min" in there
