import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from cmarr_jax import systems
from cmarr_jax.data import pipeline, protocol
from cmarr_jax.systems.precision import PRECISIONS
from cmarr_jax.training.runs import RunId
from cmarr_jax.training.teachers import Teachers
from tests import tiny


@pytest.fixture(scope="module")
def corpus(tiny_pack):
    return pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)


def test_a_teacher_serves_the_precision_that_it_was_trained_in_alone(corpus, tmp_path):
    config = tiny.config("mmin")
    rows = np.arange(4)
    run_id = RunId(protocol.Fold(1, "", rows, rows, rows), 0)
    teachers = Teachers(str(tmp_path), corpus, lambda: b"the corpus")
    shape = FrozenConfigDict(config.model), corpus.modalities, 3
    files = {
        teachers.file(config, systems.make("mmin", *shape, None, each).stages[0], run_id)
        for each in PRECISIONS.values()
    }
    assert len(files) == 3
