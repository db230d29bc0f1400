import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.nn.cascade import Cascade

pytestmark = pytest.mark.device


@pytest.mark.parametrize(
    "wiring, output", [("sum", "sum"), ("context", "last"), ("context", "sum")]
)
def test_recurrence_equals_a_loop(rng, wiring, output):
    """MMIN, IF-MMIN and CIF-MMIN differ in what a block receives and what leaves the last."""
    cascade = Cascade(3, widths=(6, 4), wiring=wiring, output=output)
    x, context = (jnp.float32(rng.normal(size=(5, 8))) for _ in range(2))
    params = cascade.init(jax.random.key(0), x, context)
    result, code = cascade.apply(params, x, context)

    w = jax.tree.map(np.asarray, params["params"])
    blocks = next(v for k, v in w.items() if "Autoencoder" in k)

    def dense(y, layer, k=None):
        kernel, bias = layer["kernel"], layer["bias"]
        return y @ (kernel if k is None else kernel[k]) + (bias if k is None else bias[k])

    received, out = (np.asarray(x), np.zeros((5, 8))) if wiring == "sum" else (None, np.asarray(x))
    codes = []
    for k in range(3):
        received = (received if wiring == "sum" else np.asarray(context)) + out
        hidden = dense(received, blocks["Dense_0"], k)
        hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
        codes.append(dense(hidden, blocks["Dense_1"], k))
        hidden = np.maximum(dense(codes[-1], blocks["Dense_2"], k), 0)
        out = dense(hidden, blocks["Dense_3"], k)
    hidden = np.maximum(dense(received + out if output == "sum" else out, w["Dense_0"]), 0)
    np.testing.assert_allclose(result, dense(hidden, w["Dense_1"]), atol=1e-5)
    np.testing.assert_allclose(code, np.concatenate(codes, axis=1), atol=1e-5)
