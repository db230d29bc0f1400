"""What bfloat16 keeps: the flows' way back, each loss, blindness to what is missing, training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from benchmarks.training_jax import products
from cmarr_jax import systems
from cmarr_jax.data import pipeline
from cmarr_jax.errors import UserError
from cmarr_jax.nn.flows import RealNVP
from cmarr_jax.systems import precision
from cmarr_jax.systems.system import objective
from tests import tiny
from tests.conftest import DIMS
from tests.systems.test_baselines import SMALL, make_batch

KEY = jax.random.key(0)
EVERY_SYSTEM = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "augmented" else pytest.mark.slow) for n in systems.SYSTEMS],
)


@pytest.mark.parametrize(
    "backend, wanted", [("cpu", "float32"), ("gpu", "tf32"), ("tpu", "bf16"), ("new", "float32")]
)
def test_auto_is_the_backends_default(monkeypatch, backend, wanted):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert precision.choose("auto").name == wanted


def test_an_unknown_precision_and_one_that_the_device_lacks_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(UserError, match="wanted auto, float32, tf32, bf16"):
        precision.choose("float16")
    with pytest.raises(
        UserError, match="GPUs alone have it, this is a TPU; wanted float32 or bf16"
    ):
        precision.choose("tf32")
    assert precision.choose("bf16") == precision.BF16


@pytest.mark.parametrize(
    "name, wanted",
    [("float32", jax.lax.Precision.HIGHEST), ("tf32", jax.lax.Precision.HIGH), ("bf16", None)],
)
def test_products_are_asked_for_as_the_precision_says(name, wanted):
    chosen = precision.PRECISIONS[name]
    a = jnp.ones((2, 2), chosen.dtype)
    with chosen.multiplying():
        (product,) = jax.make_jaxpr(jnp.matmul)(a, a).jaxpr.eqns
    assert product.params["precision"] == (wanted and (wanted, wanted))
    assert product.outvars[0].aval.dtype == chosen.dtype


def make_stages(name, batch):
    """Of each stage: it in float32, it in bf16, and parameters away from their start."""
    config = FrozenConfigDict(tiny.config(name, **SMALL.get(name, {})).model)
    made = [
        systems.make(name, config, tuple(batch.features), 3, None, each).stages
        for each in (precision.FLOAT32, precision.BF16)
    ]
    params = None
    for exact, rounded in zip(*made, strict=True):
        params = tiny.random_params(exact, batch, params)
        yield exact, rounded, params


def rounded_features(batch):
    return batch._replace(features={m: x.astype(jnp.bfloat16) for m, x in batch.features.items()})


# Bounds over max(1, |x|): the round trip of all inputs and of 99 in 100; forward and log
# determinant beside float32's, of 99 in 100.
@pytest.mark.parametrize(
    "scale, permute, most, nearly_all, forward",
    [
        ("tanh", "swap", 0.05, 1e-3, 0.1),
        ("sigmoid", "swap", 0.01, 1e-3, 0.02),
        ("tanh", "glow", np.inf, np.inf, 1e-6),  # nets in float32: its round trip is float32's
    ],
)
def test_a_flows_round_trip_and_values_are_within_their_bounds(
    rng, scale, permute, most, nearly_all, forward
):
    width = 16
    kinds = jnp.bfloat16, jnp.float32
    flow, exact = (RealNVP(width, 8, 32, scale, permute, dtype=kind) for kind in kinds)
    x = jnp.float32(rng.normal(size=(2000, width)) * 10.0 ** rng.uniform(-2, 0.5, (2000, 1)))
    params = exact.init(KEY, x[:1], method="forward_and_log_det")
    params = jax.tree.map(lambda p: jnp.float32(p + 0.1 * rng.normal(size=p.shape)), params)
    z, log_det = flow.apply(params, x, method="forward_and_log_det")
    back = flow.apply(params, z, method="inverse")
    wanted, wanted_log_det = exact.apply(params, x, method="forward_and_log_det")
    assert {a.dtype for a in (z, log_det, back)} == {jnp.dtype("float32")}

    def error(ours, theirs):
        return np.abs(ours - theirs).max(-1) / np.maximum(np.abs(theirs).max(-1), 1)

    assert error(back, x).max() <= most
    assert np.quantile(error(back, x), 0.99) <= nearly_all
    assert np.quantile(error(z, wanted), 0.99) <= forward
    assert np.quantile(error(log_det[:, None], wanted_log_det[:, None]), 0.99) <= forward


@EVERY_SYSTEM
def test_losses_stay_near_gradients_are_finite_and_what_is_missing_is_inert(rng, name):
    """Each term within 3 % of 1 + its float32 value; the values of what is missing change no bit."""
    batch = make_batch(rng)
    low = rounded_features(batch)
    for exact, stage, params in make_stages(name, batch):
        available = batch.present if stage.complete else batch.present.at[:, 0].set(False)
        available = jnp.where(available.any(1, keepdims=True), available, batch.present)

        def terms(stage, batch, params=params, available=available):
            step = jax.jit(jax.value_and_grad(objective(stage), has_aux=True))
            return step(params, batch, available, KEY)

        (_, wanted), _ = terms(exact, batch)
        (total, ours), gradients = terms(stage, low)
        assert total.dtype == jnp.float32
        for term, value in ours.items():
            assert abs(value - wanted[term]) <= 0.03 * (1 + abs(wanted[term])), term
        for gradient in jax.tree.leaves(gradients):
            assert gradient.dtype == jnp.float32 and np.isfinite(gradient).all()

    @jax.jit
    def predict(batch, available):
        encoded = stage.encode(params, batch)
        return stage.predict(params, encoded, batch.mask, available).logits

    for hidden, modality in enumerate(DIMS):
        available = batch.present.at[:, hidden].set(False).at[:, (hidden + 1) % 3].set(True)
        poisoned = low.features | {modality: low.features[modality] + 1000}
        clean = predict(low, available)
        assert clean.dtype == jnp.float32
        np.testing.assert_array_equal(clean, predict(low._replace(features=poisoned), available))


def test_nearly_all_of_a_steps_products_are_of_bfloat16(rng):
    batch = make_batch(rng, batch=8)
    ((_, stage, params),) = make_stages("cmarr", batch)
    step = jax.grad(objective(stage), has_aux=True)
    program = jax.make_jaxpr(step)(params, rounded_features(batch), batch.present, KEY)
    everything = products(program.jaxpr)
    assert products(program.jaxpr, "bfloat16") > 0.9 * everything > 0


@EVERY_SYSTEM
def test_every_system_trains_in_bf16_in_the_one_loop(tiny_pack, name):
    corpus = pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)
    fields = {"precision": "bf16", "train.epochs": 2, "pretrain.epochs": 1}
    memory, losses = tiny.Memory(), []
    _, best, scored = tiny.train(
        corpus,
        memory,
        folds=(1, 2),
        argument=name,
        report=lambda epoch: losses.append(epoch.terms["loss"]),
        **(SMALL.get(name, {}) | fields),
    )
    assert best.params.dtype == np.float32 and np.isfinite(losses).all()
    state, _ = memory.saved["last"]
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {
        np.dtype("float32"),
        np.dtype("int32"),
    }
    assert all(np.isfinite(each.posteriors).all() for each in scored)
