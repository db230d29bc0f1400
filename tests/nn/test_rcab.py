import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.nn.rcab import RCAB, ReconstructionHead

pytestmark = pytest.mark.device


@pytest.mark.parametrize(
    "width, blocks, want", [(128, 4, 1.87e6), (64, 20, 2.08e6), (32, 4, 0.12e6)]
)
def test_parameter_count_equals_dicmors(width, blocks, want):
    x, mask = jnp.zeros((1, 2, width)), jnp.ones((1, 2), bool)
    shapes = jax.eval_shape(ReconstructionHead(blocks).init, jax.random.key(0), x, mask)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert abs(count / want - 1) < 0.03


def test_block_equals_a_loop_over_time(rng):
    x = rng.normal(size=(2, 5, 8))
    mask = np.arange(5)[None] < np.array([[5], [3]])
    x *= mask[..., None]
    block = RCAB(4, 3)
    params = block.init(jax.random.key(0), jnp.float32(x), jnp.array(mask))
    ours, _ = block.apply(params, jnp.float32(x), jnp.array(mask))
    w = params["params"]

    def conv(name, y):
        kernel, bias = np.asarray(w[name]["kernel"]), np.asarray(w[name]["bias"])
        padded = np.pad(y, ((1, 1), (0, 0)))
        return np.stack([sum(padded[t + k] @ kernel[k] for k in range(3)) + bias for t in range(5)])

    for i in range(2):
        valid = mask[i][:, None]
        y = conv("Conv1D_1", np.maximum(conv("Conv1D_0", x[i]), 0) * valid)
        mean = y[mask[i]].mean(axis=0)
        hidden = np.maximum(mean @ w["Dense_0"]["kernel"] + w["Dense_0"]["bias"], 0)
        gate = 1 / (1 + np.exp(-(hidden @ w["Dense_1"]["kernel"] + w["Dense_1"]["bias"])))
        np.testing.assert_allclose(ours[i], (x[i] + y * gate) * valid, atol=1e-5)


def test_padding_is_inert(rng):
    x = rng.normal(size=(2, 6, 16))
    mask = np.arange(6)[None] < np.array([[6], [4]])
    head = ReconstructionHead(2)
    params = head.init(jax.random.key(0), jnp.float32(x), jnp.array(mask))
    whole = head.apply(params, jnp.float32(x * mask[..., None]), jnp.array(mask))
    short = head.apply(params, jnp.float32(x[1:, :4]), jnp.ones((1, 4), bool))
    np.testing.assert_allclose(whole[1:, :4], short, atol=1e-5)
    assert (whole[1, 4:] == 0).all()
