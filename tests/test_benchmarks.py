"""The benchmarks call the library as it is; what they measure is theirs to say."""

import argparse
import json
import os
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    finetuning_inputs,
    finetuning_jax,
    hlo_bytes,
    ideal_bytes,
    training_jax,
    training_sweep,
)
from benchmarks.training_inputs import make_evaluated, make_features, make_order
from cmarr_jax.data import protocol
from cmarr_jax.systems import SYSTEMS
from cmarr_jax.systems.precision import BF16, FLOAT32
from cmarr_jax.training import layout, vector
from tests import tiny
from tests.systems.test_baselines import SMALL

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


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


SMALL_RUN = argparse.Namespace(shape="tiny", utterances=16, batch=4, check=False)


def finetuned():
    """Corpus, encoder and batches of benchmarks/finetuning.py, small."""
    shape = finetuning_inputs.shape_of(SMALL_RUN)
    lengths = finetuning_inputs.make_lengths(shape, SMALL_RUN.utterances)
    corpus = finetuning_jax.padded("text", *finetuning_inputs.make_states(shape, lengths))
    encoder = finetuning_jax.random_encoder(SMALL_RUN, 1, FLOAT32)
    return corpus, encoder, finetuning_jax.make_order(SMALL_RUN, lengths)


def test_the_finetuned_layers_are_compiled_as_the_library_has_them(traced):
    corpus, encoder, order = finetuned()
    config = finetuning_jax.make_config(SMALL_RUN)
    made = training_sweep.CompiledSweep(config, corpus, 2, encoders=(encoder,))
    assert not made.layout.vmapped and made.stage.encoders == (encoder,)
    layers = sum(x.size for x in jax.tree.leaves(encoder.params))
    width, hidden = 48, finetuning_inputs.HEAD
    linear = (width + 1) * hidden + 2 * (hidden + 1) * hidden + (hidden + 1) * 4
    assert made.vector.size == layers + linear + 2 * hidden
    made.train(order)()


def test_batches_to_finetune_are_of_like_length_and_the_longest_is_untimed():
    corpus, _, order = finetuned()
    rows = corpus.rows["text"]
    assert order.shape == (4, 4) and sorted(order.ravel()) == list(range(16))
    assert (np.diff(np.sort(order, axis=1), axis=1) > 0).all()
    assert np.ptp(rows[order], axis=1).mean() < np.ptp(rows) / 2
    first = finetuning_inputs.warming(rows, *order.shape)
    assert rows[first[0]].max() == rows.max() == 40 and rows[first[1]].max() < rows.mean()
    assert (first[2:] == -1).all()


@pytest.mark.parametrize("length", [3, 40, 124])
def test_products_of_finetuned_layers_are_counted_at_any_length(length):
    """Two layers, by hand: a product has two gradients, but the states that go in need none."""
    encoder = finetuning_jax.random_encoder(SMALL_RUN, 1, FLOAT32)
    weights, scores = 4 * 48**2 + 2 * 48 * 192, 2 * 48 * length
    not_needed = 3 * 48**2
    wanted = 2e-9 * length * (2 * 3 * (weights + scores) - not_needed)
    counted = finetuning_jax.needed(encoder)(np.array([length]))
    np.testing.assert_allclose(counted, [wanted], rtol=1e-9)


def test_products_are_counted_as_often_as_they_run():
    """By hand: 3 times (4 x 5 by 5 x 5), and 4 x 5 by 5 x 2."""

    def function(x, w, v):
        x, _ = jax.lax.scan(lambda x, _: (x @ w, None), x, length=3)
        return x @ v

    program = jax.make_jaxpr(function)(np.ones((4, 5)), np.ones((5, 5)), np.ones((5, 2)))
    wanted = 2e-9 * (3 * 4 * 5 * 5 + 4 * 5 * 2)
    np.testing.assert_allclose(training_jax.products(program.jaxpr), wanted)


def test_bytes_are_those_of_what_cannot_be_fused():
    """By hand: the product reads 80 + 120 and writes 96; the sum reads 96 and writes 4."""

    def function(x, w):
        return jnp.sum(jax.nn.relu(x @ w) * 2)

    counted = ideal_bytes.count(function, np.ones((4, 5), np.float32), np.ones((5, 6), np.float32))
    assert counted.total == (80 + 120 + 96) + (96 + 4)
    assert [each.op for each in counted.moved] == ["dot_general", "reduce_sum"]


def test_bytes_of_a_loops_body_count_as_often_as_it_runs():
    """A step reads a row of `w` and the carry, and writes the carry: 3 x 20 bytes, 7 times."""

    def function(x, w):
        return jax.lax.scan(lambda x, row: (x * row, None), x, w)[0]

    counted = ideal_bytes.count(function, np.ones(5, np.float32), np.ones((7, 5), np.float32))
    assert counted.total == 7 * 3 * 20


HLO = """HloModule made_up

%sliced (p0: f32[8,4], p1: s32[]) -> f32[4] {
  %p0 = f32[8,4]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %c = s32[] constant(0)
  %row = f32[1,4]{1,0} dynamic-slice(%p0, %p1, %c), dynamic_slice_sizes={1,4}
  ROOT %b = f32[4]{0} bitcast(%row)
}

%body (t: (s32[], f32[8,4], f32[4])) -> (s32[], f32[8,4], f32[4]) {
  %t = (s32[], f32[8,4]{1,0}, f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %all = f32[8,4]{1,0} get-tuple-element(%t), index=1
  %one = f32[4]{0} fusion(%all, %i), kind=kLoop, calls=%sliced, metadata={op_name="jit(f)/take"}
  ROOT %r = (s32[], f32[8,4]{1,0}, f32[4]{0}) tuple(%i, %all, %one)
}

ENTRY %main (x: f32[8,4]) -> f32[4] {
  %x = f32[8,4]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %v = f32[4]{0} constant({0, 0, 0, 0})
  %start = (s32[], f32[8,4]{1,0}, f32[4]{0}) tuple(%zero, %x, %v)
  %w = (s32[], f32[8,4]{1,0}, f32[4]{0}) while(%start), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %copied = f32[4]{0} copy(%v)
}
"""


def test_bytes_of_compiled_text_are_counted_by_fusion_and_loop():
    """A slice reads its 16 bytes and its index' 4, and writes 16; three times. The copy: 32."""
    moved = hlo_bytes.traffic(HLO)
    assert [(m.bytes, m.times, m.op) for m in moved] == [(3 * 36, 3, "fusion"), (32, 1, "copy")]
    assert moved[0].where == "jit(f)/take"
    assert hlo_bytes.size("(bf16[3,5]{1,0}, pred[7], s32[])") == 30 + 7 + 4


def test_bytes_of_a_real_programs_text_are_what_it_needs_at_least():
    x = np.ones((64, 64), np.float32)
    compiled = jax.jit(lambda x: jax.nn.relu(x @ x)).lower(x).compile()
    total = sum(m.bytes for m in hlo_bytes.traffic(compiled.as_text()))
    assert 2 * x.nbytes <= total <= 6 * x.nbytes


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "cmarr" else pytest.mark.slow) for n in SYSTEMS],
)
def test_training_and_evaluation_lower_for_a_tpu(name):
    """In a TPU's precision and in float32; nothing in them is another backend's alone."""
    config = tiny.config(name, **SMALL.get(name, {}))
    corpus = training_sweep.corpus_of(make_features(16, 4))
    for precision in (BF16, FLOAT32) if name == "cmarr" else (BF16,):
        for program in training_sweep.programs(config, corpus, 2, precision):
            lowered = jax.export.export(jax.jit(program.function), platforms=("tpu",))(
                *program.shapes
            )
            assert lowered.platforms == ("tpu",)
            assert ("xbf16>" in lowered.mlir_module()) == (precision is BF16), program.name


def rehearse(report, *flags):
    file = os.path.join(ROOT, "benchmarks", "protocol.py")
    line = [sys.executable, file, "--precision=float32", "--utterances=80", "--length=4"]
    line += ["--rounds=1", f"--json={report}", *flags]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(report.read_text())["rows"]


@pytest.mark.slow
def test_the_protocol_is_rehearsed_and_keeps_each_figure(tmp_path):
    trace = tmp_path / "trace"
    small = {
        "train.batch_size": 8,
        "train.eval_batch_size": 16,
        "model.width": 16,
        "model.umc.num_heads": 2,
        "model.flow.num_couplings": 1,
        "model.flow.hidden": 16,
        "model.rec.num_blocks": 1,
        "model.fusion.num_heads": 2,
    }
    argument = ",".join(f"{field}={value}" for field, value in small.items())
    said, rows = rehearse(
        tmp_path / "report.json",
        *("--minutes=20", "--steps=2", "--runs", "1", "2", "--epochs=3"),
        *(f"--trace={trace}", f"--argument={argument}"),
    )
    assert [(row["case"], row["runs"]) for row in rows] == [
        ("ceiling", 0),
        *((case, 1) for case in ("compile", "step", "from cache", "evaluate")),
        *((case, 2) for case in ("compile", "step", "trace", "from cache", "evaluate", "protocol")),
    ]
    for row in rows:
        numbers = [value for value in row.values() if isinstance(value, float)]
        assert numbers and all(value > 0 for value in numbers), row
        assert f"\n{row['case']}" in said
    (traced,) = (row for row in rows if row["case"] == "trace")
    assert traced["megabytes"] < 10 and trace.is_dir()
    assert rows[-1]["epochs"] >= 2


@pytest.mark.slow
def test_the_protocol_says_what_it_leaves_out(tmp_path):
    said, rows = rehearse(tmp_path / "report.json", "--minutes=0.02")
    assert [row["case"] for row in rows] == ["ceiling", *["step", "evaluate"] * 2, "protocol"]
    assert said.count("left out") == 5
