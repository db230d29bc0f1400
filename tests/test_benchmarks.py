"""The benchmarks call the library as it is; what they measure is theirs to say."""

import argparse

import jax
import numpy as np
import pytest

from benchmarks import training_jax, training_sweep
from benchmarks.training_inputs import make_evaluated, make_features, make_order
from cmarr_jax.data import protocol
from cmarr_jax.training import layout, vector
from tests import tiny


@pytest.fixture
def traced(monkeypatch):
    """Programs are traced, not compiled: their results are zero."""
    compile_ = layout.Layout.compile

    def trace(self, one_run, donate=()):
        def run(*args):
            shapes = jax.eval_shape(compile_(self, one_run), *args)
            return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)

        return run

    def init(stage, vector, keys, *_):
        return np.zeros((len(keys), vector.size), np.float32)

    monkeypatch.setattr(layout.Layout, "compile", trace)
    monkeypatch.setattr(vector, "init_params", init)


def test_the_benchmarked_sweep_is_built_as_the_library_has_it(traced):
    args = argparse.Namespace(utterances=8)
    data = make_features(8, 4)
    made = training_sweep.CompiledSweep(tiny.config(), training_sweep.corpus_of(data), 2)
    made.train(np.minimum(make_order(args, 4), 7))()
    conditions = protocol.make_conditions(tuple(data["features"]))
    made.evaluate(make_evaluated(args), conditions)()


def test_products_are_counted_as_often_as_they_run():
    """By hand: 3 times (4 x 5 by 5 x 5), and 4 x 5 by 5 x 2."""

    def function(x, w, v):
        x, _ = jax.lax.scan(lambda x, _: (x @ w, None), x, length=3)
        return x @ v

    program = jax.make_jaxpr(function)(np.ones((4, 5)), np.ones((5, 5)), np.ones((5, 2)))
    wanted = 2e-9 * (3 * 4 * 5 * 5 + 4 * 5 * 2)
    np.testing.assert_allclose(training_jax.products(program.jaxpr), wanted)
