"""A system whose prediction reads what is missing is refused before it is trained."""

import numpy as np
import pytest

from cmarr_jax.data import pipeline
from cmarr_jax.errors import UserError
from cmarr_jax.systems import SYSTEMS
from cmarr_jax.training import loop
from tests import tiny


@pytest.fixture(scope="module")
def corpus(tiny_pack):
    return pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)


def refuse_training(monkeypatch):
    monkeypatch.setattr(loop, "_train_epoch", lambda *_: pytest.fail("it began to train"))


def leaking(modality):
    """CM-ARR whose logits see one modality whatever is available."""

    def make(*given):
        system = SYSTEMS["cmarr"](*given)
        stage = system.stages[-1]

        def encode(params, batch):
            return stage.encode(params, batch), batch.features[modality].mean(axis=(1, 2))

        def predict(params, encoded, mask, available):
            inner, seen = encoded
            output = stage.predict(params, inner, mask, available)
            return output._replace(
                logits=output.logits + 1e-3 * seen[:, None] * np.arange(3.0)[None]
            )

        return system._replace(stages=(stage._replace(encode=encode, predict=predict),))

    return make


@pytest.mark.parametrize("modality", ["text", "speech", "video"])
def test_a_prediction_that_reads_what_is_missing_is_refused(corpus, monkeypatch, modality):
    refuse_training(monkeypatch)
    monkeypatch.setitem(SYSTEMS, "leaking", leaking(modality))
    made = tiny.experiment(corpus, tiny.config(system="leaking"), folds=(1,))
    with pytest.raises(UserError) as error:
        loop.train(made, tiny.Memory(), lambda epoch: None)
    said = str(error.value)
    assert f"moves with the values of {modality}, which is missing there" in said
    assert said.startswith(f"{__file__}: system 'leaking'") and "\n" not in said


@pytest.mark.parametrize("system", [*SYSTEMS])
def test_every_system_is_blind_to_what_is_missing(corpus, monkeypatch, system):
    """Those of two stages in both; the first epoch of each is not trained here."""
    stages = []

    def no_epoch(plan, point, trained):
        stages.append(plan.name)
        return point._replace(epoch=plan.config.epochs), {"loss": np.zeros(len(trained))}, 1.0

    monkeypatch.setattr(loop, "_train_epoch", no_epoch)
    made = tiny.experiment(corpus, tiny.config(system), folds=(1,))
    loop.train(made, tiny.Memory(), lambda epoch: None)
    assert len(stages) == len(made.stages)
