"""Where bfloat16 is chosen, what adds many numbers up stays float32: looked up in the programs."""

import jax
import jax.numpy as jnp
import pytest

from cmarr_jax.extract.models.densenet import DenseNet
from cmarr_jax.extract.models.whisper import Whisper
from tests.extract.models import test_whisper
from tests.extract.models.test_text_models import MODULES
from tests.extract.models.test_wav2vec2 import KINDS

HALF = jnp.dtype("bfloat16")
ACCUMULATES = {
    "reduce_sum", "reduce_max", "reduce_prod", "cumsum", "exp", "log", "rsqrt", "sqrt", "logistic",
    "argmax", "reduce_window_sum", "reduce_window",
}  # fmt: skip
PRODUCTS = {"dot_general", "conv_general_dilated"}


def equations(jaxpr):
    """Every equation, with what produced each variable beside it."""
    made_by = {v: e.primitive.name for e in jaxpr.eqns for v in e.outvars}
    for equation in jaxpr.eqns:
        yield equation, made_by
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", None)
            if inner is not None:
                yield from equations(inner)


def is_half(variable):
    return getattr(variable.aval, "dtype", None) == HALF


ENCODERS = {
    kind: (make(dtype=HALF), (jnp.zeros((2, 5), jnp.int32), jnp.ones((2, 5), bool)))
    for kind, make in MODULES.items()
} | {
    "whisper": (
        Whisper(dtype=HALF, **test_whisper.SHAPE),
        (jnp.zeros((2, 6400)), jnp.full(2, 6400, jnp.int32)),
    ),
    **{
        f"wav2vec2, {kind}": (
            module.clone(dtype=HALF),
            (jnp.zeros((2, 4000)), jnp.full(2, 4000, jnp.int32)),
        )
        for kind, module in KINDS.items()
    },
}


@pytest.mark.parametrize("name", ENCODERS)
def test_norms_softmax_logits_and_residuals_are_float32(name):
    module, inputs = ENCODERS[name]
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    program = jax.make_jaxpr(module.apply)(variables, *inputs)
    assert {a.dtype for a in program.out_avals} == {jnp.dtype("float32")}
    products = scores = 0
    for equation, made_by in equations(program.jaxpr):
        kind, half = equation.primitive.name, [is_half(v) for v in equation.invars]
        assert not (kind in ACCUMULATES and any(half)), equation
        if kind in PRODUCTS and all(half):
            products += 1
            scores += equation.outvars[0].aval.dtype == jnp.float32
        if kind == "add" and all(half):  # a bias or a constant, never two whole sequences
            arrays = [v for v in equation.invars if not hasattr(v, "val")]
            makers = {made_by.get(v) for v in arrays}
            assert len(arrays) < 2 or makers & {"broadcast_in_dim", "reshape"}, equation
    # Attention's logits, a layer; DeBERTa's are of three products.
    assert products >= 12 and scores == module.num_layers * (3 if "deberta" in name else 1)


def test_densenet_pools_and_averages_in_float32():
    module = DenseNet(layers=2, dtype=HALF)
    inputs = jnp.zeros((1, 64, 64, 1))
    variables = jax.eval_shape(module.init, jax.random.key(0), inputs)
    program = jax.make_jaxpr(module.apply)(variables, inputs)
    for equation, _ in equations(program.jaxpr):
        if equation.primitive.name in ACCUMULATES:
            assert not any(map(is_half, equation.invars)), equation


@pytest.mark.parametrize("kind", ["matrix", "convolution"])
def test_a_product_adds_up_in_float32(kind):
    """In bfloat16 itself, a sum of ones stops at 256."""
    ones = jnp.ones(4096, HALF)
    if kind == "matrix":
        total = jax.jit(jnp.matmul)(ones[None], ones[:, None])[0, 0]
    else:
        total = jax.jit(lambda x, w: jax.lax.conv(x, w, (1,), "VALID"))(
            ones.reshape(1, 8, 512), ones.reshape(1, 8, 512)
        )[0, 0, 0]
    assert total.dtype == HALF and float(total) == 4096
