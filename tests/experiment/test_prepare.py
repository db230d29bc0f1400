"""What takes part, and what the first lines and the tables say of it."""

import numpy as np
import pytest

from cmarr_jax.cli.progress import Silent
from cmarr_jax.data import missing, protocol
from cmarr_jax.errors import UserError
from cmarr_jax.experiment import dry_run
from cmarr_jax.experiment.prepare import prepare
from tests import tiny
from tests.conftest import write_pack


def experiment(pack, argument=None, folder="/nowhere", **fields):
    config = tiny.config(argument, **{"data.pack": pack.path} | fields)
    return prepare([config], Silent(), folder)


def test_only_complete_utterances_take_part_on_request(tiny_pack):
    every, made = (experiment(tiny_pack, **{"protocol.complete": flag}) for flag in (False, True))
    whole = made.corpus.present.all(axis=1)
    assert 0 < (~whole).sum() < 15
    for (one, _), (other, _) in zip(every.run_ids, made.run_ids, strict=True):
        np.testing.assert_array_equal(other.test, one.test[whole[one.test]])
        learned = np.sort(np.concatenate([other.train, other.val]))
        assert whole[learned].all() and len(learned) + len(other.test) == whole.sum()
    assert made.sweeps[0].identity["protocol"] == "3 folds by session, complete utterances"
    line = f"protocol.complete: {whole.sum()} of 60 labelled utterances take part"
    assert made.audited["gaps"] == [line] and "gaps" not in every.audited


def test_without_a_complete_utterance_it_is_refused(tmp_path):
    pack = write_pack(tmp_path / "pack", dims={"text": 3, "speech": 2})
    np.save(tmp_path / "pack" / "speech.npy", np.zeros((0, 2), np.float32))
    np.save(tmp_path / "pack" / "speech.offsets.npy", np.zeros(61, np.int64))
    with pytest.raises(UserError, match=r"protocol\.complete: none of 60 labelled utterances has"):
        experiment(pack, **{"protocol.complete": True})


def test_a_training_set_that_lacks_modalities_is_the_same_for_everyone(tiny_pack):
    fields = {"protocol.train_missing": "t0.1+s0.5"}
    made = experiment(tiny_pack, **fields)
    rates = np.array([0.1, 0.5, 0])
    np.testing.assert_array_equal(made.corpus.dropped, missing.drop(made.corpus.present, rates, 0))
    others = [
        experiment(tiny_pack, "mmin", **fields),
        experiment(tiny_pack, **fields, fold=2, seed=3, **{"train.batch_size": 4}),
    ]
    for other in others:
        np.testing.assert_array_equal(other.corpus.dropped, made.corpus.dropped)
    again = experiment(tiny_pack, **fields, **{"protocol.train_missing_seed": 1})
    assert (again.corpus.dropped != made.corpus.dropped).any()
    # Teachers and checkpoints of another training set are others.
    digests = {e.digest() for e in (made, again, experiment(tiny_pack))}
    assert len(digests) == 3 and others[0].digest() in digests
    assert made.sweeps[0].identity["protocol"] == "3 folds by session, training lacks t0.1+s0.5"
    line, *_ = made.audited["gaps"]
    shares = made.corpus.dropped.mean(axis=0)
    assert f"text of {shares[0]:.1%}, speech of {shares[1]:.1%}, video of 0.0%" in line
    plan = dry_run.StagePlan("train", 1, 1, 1, 1.0, 1.0, 1.0, 1, 0)
    assert line in dry_run.describe([plan], made, ["out"])


def test_what_validates_lacks_what_is_dropped_and_what_is_tested_does_not(tiny_pack):
    made = experiment(tiny_pack, "mmin", **{"protocol.train_missing": "0.2"})
    left = made.corpus.present & ~made.corpus.dropped
    for number, plain in ((0, made.conditions[-1:]), (1, made.conditions)):
        limited = made.validated(number)
        assert [c.name for c in limited] == [c.name for c in plain]
        for one, other in zip(limited, plain, strict=True):
            np.testing.assert_array_equal(one.available, np.asarray(other.available) & left)
    assert made.conditions == protocol.make_conditions(made.corpus.modalities)
    whole = experiment(tiny_pack, "mmin")
    assert whole.validated(1) == whole.conditions and whole.validated(0) == whole.conditions[-1:]


def test_further_conditions_follow_from_the_config(tiny_pack):
    fields = {"missing_rates": (0.5,), "noise_levels": (0.5,), "rates": "s0.5+t0.1,0.3"}
    fields |= {"frame_rates": (0.3, 0.9), "span_rates": (0.3,)}
    made = experiment(tiny_pack, **{f"robustness.{name}": value for name, value in fields.items()})
    assert [c.name for c in made.curves] == [
        *("missing=0.5", "rates=t0.1+s0.5", "rates=t0.3+s0.3+v0.3", "gaussian=0.5", "impulse=0.5"),
        *("frames=0.3", "frames=0.9", "spans=0.3"),
    ]
    again = experiment(tiny_pack, "nmer", **{"robustness.frame_rates": (0.9,)}, seed=5)
    np.testing.assert_array_equal(again.curves[0].lost, made.curves[6].lost)
