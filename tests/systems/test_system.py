"""What every system's stages have without asking for it: decay by name, and a loss for a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from cmarr_jax.systems import SYSTEMS, cmarr
from cmarr_jax.systems.system import for_cpu, whole_squared_error
from tests import tiny
from tests.conftest import DIMS
from tests.systems.test_baselines import make_batch

# By the last two names of a leaf: which ones decay, and which ones do not.
DECAYED = {
    "cmarr": (
        {
            "project_text/kernel", "project_speech/kernel", "project_video/kernel",
            "conv/kernel", "Conv1D_0/kernel", "Conv1D_1/kernel",
            "flow/kernel_0", "flow/kernel_1", "flow/kernel_2",
            "query/kernel", "key/kernel", "value/kernel", "out/kernel",
            "Dense_0/kernel", "Dense_1/kernel", "Dense_2/kernel", "Dense_3/kernel",
            "classifier/kernel",
        },
        {
            "params/log_temperature", "project_norm/scale", "project_norm/bias",
            "LayerNorm_0/scale", "LayerNorm_1/scale", "LayerNorm_2/scale",
            "LayerNorm_0/bias", "LayerNorm_1/bias", "LayerNorm_2/bias",
            "project_text/bias", "project_speech/bias", "project_video/bias",
            "conv/bias", "Conv1D_0/bias", "Conv1D_1/bias",
            "flow/bias_0", "flow/bias_1", "flow/bias_2",
            "query/bias", "key/bias", "value/bias", "out/bias",
            "Dense_0/bias", "Dense_1/bias", "Dense_2/bias", "Dense_3/bias",
            "classifier/bias",
        },
    ),
    "mmin": (
        {
            "Dense_0/kernel", "Dense_1/kernel", "Dense_2/kernel",
            "text/kernel_3", "text/kernel_4", "text/kernel_5",
            "speech/kernel", "speech/recurrent_kernel", "video/kernel", "video/recurrent_kernel",
        },
        {
            "Dense_0/bias", "Dense_1/bias", "Dense_2/bias",
            "text/bias_3", "text/bias_4", "text/bias_5", "speech/bias", "video/bias",
        },
    ),
}  # fmt: skip


def first_stage(name):
    config = FrozenConfigDict(tiny.config(name).model)
    stage = SYSTEMS[name](config, tuple(DIMS), 3).stages[0]
    batch = make_batch(np.random.default_rng(0))
    return stage, jax.eval_shape(stage.init, jax.random.key(0), batch, None)


@pytest.mark.parametrize("name", DECAYED)
def test_weight_decay_acts_on_kernels_alone(name):
    stage, shapes = first_stage(name)
    marks = stage.decayed(shapes)
    assert jax.tree.structure(marks) == jax.tree.structure(shapes)
    found = {True: set(), False: set()}
    for path, mark in jax.tree_util.tree_flatten_with_path(marks)[0]:
        found[mark].add("/".join(part.key for part in path[-2:]))
    assert (found[True], found[False]) == DECAYED[name]


def test_a_periodic_heads_frequencies_do_not_decay():
    stage, shapes = first_stage("cmarr_plus")
    heads = stage.decayed(shapes)["params"]["heads"]
    assert heads["text"] == {
        "frequencies": False,
        "phases": False,
        "classifier": {"kernel": True, "bias": False},
    }


def test_a_cpu_trains_a_large_batch_by_chunks_and_nothing_else_otherwise():
    config = tiny.model_config()
    chunks = [cmarr.training_chunk(config, jnp.ones((size, 8), bool)) for size in (32, 64, 256)]
    assert chunks == [0, 32, 64]  # 256 positions a chunk at least
    all_rebuilt = tiny.model_config(**{"spcl.on": "recovered"})
    assert cmarr.training_chunk(all_rebuilt, jnp.ones((64, 8), bool)) == 0
    for name in SYSTEMS:
        stage, _ = first_stage(name)
        own = name in ("cmarr", "cmarr_plus")
        assert (for_cpu(stage).loss is not stage.loss) == own


def test_squared_errors_count_where_there_is_a_truth(rng):
    batch = make_batch(rng)
    x, y = np.float32(rng.normal(size=(2, 6, 3, 5)))
    here = np.argwhere(np.asarray(batch.present))
    want = np.mean([np.square(x[i, m] - y[i, m]) for i, m in here])
    assert len(here) < batch.present.size
    np.testing.assert_allclose(whole_squared_error(x, y, batch, None), want, rtol=1e-6)
    complete = batch._replace(present=jnp.ones((6, 3), bool))
    error = jax.jit(lambda x: whole_squared_error(x, y, complete, None))
    plain = jax.jit(lambda x: jnp.mean(jnp.square(x - y)))
    np.testing.assert_array_equal(error(x), plain(x))  # to the last bit
    np.testing.assert_array_equal(jax.grad(error)(x), jax.grad(plain)(x))
