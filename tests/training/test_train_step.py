import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from cmarr_jax.systems import SYSTEMS
from cmarr_jax.systems.system import Batch, Stage, objective
from cmarr_jax.training import train_step
from cmarr_jax.training.normalise import Statistics
from cmarr_jax.training.vector import make_vector as vector_of
from tests import tiny

pytestmark = pytest.mark.device


def test_training_computes_in_float32_whatever_the_pack_holds():
    """float16 features become float32 in the gather; no bfloat16 and no float64 anywhere."""
    config = tiny.config()
    cmarr = SYSTEMS["cmarr"](FrozenConfigDict(config.model), ("text", "speech"), 3).stages[0]
    arrays = train_step.Arrays(
        {m: np.zeros((8, 4, 6), np.float16) for m in ("text", "speech")},
        np.ones((8, 4), bool),
        np.ones((8, 2), bool),
    )
    arrays = jax.tree.map(jnp.asarray, arrays)
    ones = {m: np.ones(6, np.float32) for m in ("text", "speech")}
    labels, weights = jnp.zeros(8, jnp.int32), jnp.ones(3)
    run = train_step.Run(np.zeros(2, np.uint32), Statistics(ones, ones, {}), labels, weights)

    def loss(params, rows):
        batch = train_step.take_batch(arrays, run, rows)
        assert all(x.dtype == jnp.float32 for x in batch.features.values())
        return objective(cmarr)(params, batch, batch.present, jax.random.key(0))[0]

    batch = jax.eval_shape(lambda: train_step.take_batch(arrays, run, jnp.arange(4)))
    params = jax.eval_shape(cmarr.init, jax.random.key(0), batch, None)
    program = str(jax.make_jaxpr(jax.grad(loss))(params, jnp.arange(4)))
    assert "f32" in program and "bf16" not in program and "f64" not in program


def make_masking(per_sample=True):
    patterns = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 1]], bool)
    return train_step.Masking(patterns, np.array([0.5, 0.3, 0.2], np.float32), per_sample)


def test_patterns_are_drawn_with_their_probabilities():
    present = jnp.ones((6000, 3), bool)
    available = train_step.draw_available(jax.random.key(0), make_masking(), present)
    share = [(available == p[None]).all(axis=1).mean() for p in make_masking().patterns]
    np.testing.assert_allclose(share, [0.5, 0.3, 0.2], atol=0.03)


def test_availability_stays_within_what_is_present_and_never_empty():
    present = jnp.array(np.random.default_rng(0).random((500, 3)) > 0.5)
    present = present.at[:, 0].set(present[:, 0] | ~present.any(axis=1))
    available = train_step.draw_available(jax.random.key(0), make_masking(), present)
    assert not (available & ~present).any()
    assert available.any(axis=1).all()


def test_one_pattern_a_batch_on_request():
    available = train_step.draw_available(
        jax.random.key(0), make_masking(per_sample=False), jnp.ones((50, 3), bool)
    )
    assert (available == available[:1]).all()


def test_rates_of_their_own_are_drawn_for_each_modality():
    masking = make_masking()._replace(rates=np.array([0.1, 0.5, 0.0]))
    present = jnp.ones((6000, 3), bool).at[:3000, 2].set(False)
    available = train_step.draw_available(jax.random.key(0), masking, present)
    np.testing.assert_allclose((~available[3000:]).mean(axis=0), [0.1, 0.5, 0], atol=0.02)
    # Of two modalities one stays where both would go.
    assert available.any(axis=1).all() and not (available & ~present).any()
    np.testing.assert_allclose((~available[:3000, :2]).sum(1).mean(), 0.6 - 0.1 * 0.5, atol=0.03)
    one = masking._replace(per_sample=False)
    drawn = train_step.draw_available(jax.random.key(1), one, present[:100, :])
    assert (drawn == drawn[:1]).all()


def make_frames(rng, size=40, length=8):
    mask = np.arange(length)[None] < rng.integers(1, length + 1, (size, 1))
    features = {m: jnp.float32(1 + rng.random((size, length, 2))) for m in ("text", "speech")}
    available = jnp.array(rng.random((size, 2)) > 0.3)
    return Batch(features, jnp.array(mask), jnp.ones((size, 2), bool), None, None), available


@pytest.mark.parametrize("rates", [(0.4, 0.0), (0.0, 0.4), (0.3, 0.3), (0.9, 0.9)])
def test_frames_are_lost_from_what_is_available_and_nothing_else_changes(rng, rates):
    masking = make_masking()._replace(
        frame_rate=rates[0], span_rate=rates[1], modalities=("text", "speech")
    )
    batch, before = make_frames(rng, size=2000)
    degraded, after = jax.jit(
        lambda batch: train_step.lose_frames(jax.random.key(0), masking, batch, before)
    )(batch)
    assert not (after & ~before).any() and (after.any(axis=1) == before.any(axis=1)).all()
    lost = np.zeros((2, 0))
    for k, m in enumerate(batch.features):
        x, y = np.asarray(batch.features[m]), np.asarray(degraded.features[m])
        gone = (y == 0).all(axis=-1)
        np.testing.assert_array_equal(y[~gone], x[~gone])
        assert not (gone & ~np.asarray(batch.mask)).any()
        assert not gone[~after[:, k]].any()  # the truth of what is missing stays whole
        assert not (gone == np.asarray(batch.mask)).all(axis=1).any()
        every = np.where(np.asarray(before[:, k] & ~after[:, k])[:, None], batch.mask, gone)
        there = np.asarray(batch.mask)[before[:, k]]
        lost = np.append(lost, [[every.sum()], [there.sum()]], axis=1)
    if sum(rates) < 1:  # else what is kept of short utterances shows
        share = lost[0].sum() / lost[1].sum()
        wanted = 1 - (1 - rates[0]) * (1 - rates[1])
        np.testing.assert_allclose(share, wanted, atol=0.04)


@pytest.mark.parametrize("per_sample", [True, False])
def test_a_batch_cut_over_two_devices_loses_the_same(rng, per_sample):
    masking = make_masking(per_sample)._replace(
        rates=np.array([0.3, 0.5]), frame_rate=0.3, span_rate=0.2, modalities=("text", "speech")
    )
    batch, _ = make_frames(rng)
    batch = batch._replace(labels=jnp.arange(40), weights=jnp.ones(40))

    def draw(batch, axis=None):
        available = train_step.draw_available(jax.random.key(0), masking, batch.present, axis)
        return train_step.lose_frames(jax.random.key(1), masking, batch, available, axis)

    halves = jax.tree.map(lambda x: x.reshape(2, 20, *x.shape[1:]), batch)
    cut = jax.pmap(lambda half: draw(half, "devices"), axis_name="devices")(halves)
    for a, b in zip(jax.tree.leaves(cut), jax.tree.leaves(draw(batch)), strict=True):
        np.testing.assert_array_equal(a.reshape(b.shape), b)


def test_what_is_dropped_is_zero_before_it_is_normalised(rng):
    arrays = train_step.Arrays(
        {m: jnp.float32(rng.normal(size=(6, 4, 2))) for m in ("text", "speech")},
        jnp.ones((6, 4), bool),
        jnp.ones((6, 2), bool),
        learnable=jnp.array(rng.random((6, 2)) > 0.5),
    )
    rows = jnp.array([4, 0, 3])
    alone, own = jax.jit(
        lambda arrays: train_step.without_dropped(arrays, rows, ("text", "speech"))
    )(arrays)
    np.testing.assert_array_equal(alone.present[own], arrays.learnable[rows])
    np.testing.assert_array_equal(train_step.utterances(alone, own), rows)
    for k, m in enumerate(arrays.features):
        want = (
            np.asarray(arrays.features[m])[rows] * np.asarray(arrays.learnable)[rows, k, None, None]
        )
        np.testing.assert_array_equal(alone.features[m][own], want)
    plain = arrays._replace(learnable=None)
    assert train_step.without_dropped(plain, rows, ()) == (plain, rows)


@pytest.mark.parametrize("schedule, last", [("constant", 1.0), ("cosine", 0.0)])
def test_learning_rate_warms_up_then_follows_its_schedule(schedule, last):
    def rate(step):
        return float(train_step.learning_rate(step, 100, 1.0, warmup=0.1, schedule=schedule))

    np.testing.assert_allclose(rate(0), 0.1, rtol=0.01)
    assert rate(10) > 0.9
    np.testing.assert_allclose(rate(100), last, atol=1e-6)


def stage(**fields):
    """Nothing but what a vector asks of it."""
    return Stage("train", None, None, None, None, **fields)


def make_vector(rng):
    params = {
        "dense": {"kernel": jnp.float32(rng.normal(size=(2, 3))), "bias": jnp.ones(3)},
        "scale": jnp.zeros(()),
    }
    tree = {"params": params}
    return vector_of(stage(), jax.eval_shape(lambda: tree)), tree


def test_vector_round_trip_and_decay(rng):
    vector, tree = make_vector(rng)
    flat = vector.ravel(tree)
    back = vector.unravel(flat)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        np.testing.assert_array_equal(a, b)
    decayed = vector.unravel(vector.decays(1.0))
    dense = decayed["params"]["dense"]
    assert (dense["kernel"] == 1).all() and (dense["bias"] == 0).all()
    assert decayed["params"]["scale"] == 0


def test_the_digest_tells_names_and_shapes_that_lie_alike():
    def digest(tree):
        return vector_of(stage(), jax.eval_shape(lambda: tree)).digest

    tree = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(6)}
    assert digest(tree) == digest({name: value + 1 for name, value in tree.items()})
    others = {"a": tree["b"], "b": tree["a"]}, {"c": tree["a"], "d": tree["b"]}
    assert len({digest(t) for t in (tree, *others)}) == 3


def test_frozen_parameters_stay_and_the_others_move(rng):
    """They have no gradient and no decay, so the optimizer leaves them as they are."""
    _, tree = make_vector(rng)
    vector = vector_of(stage(frozen=("dense",)), jax.eval_shape(lambda: tree))
    optimizer = train_step.make_optimizer(clip_norm=1.0)
    params = vector.ravel(tree)
    gradient = jax.grad(lambda flat: vector.ravel(vector.unravel(flat)).sum())(params)
    decay = vector.decays(0.1)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params, weight_decay=decay)
    moved = vector.unravel(updates)["params"]
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(moved["dense"]))
    assert abs(float(moved["scale"])) > 0.9


def test_the_linear_schedule_is_constant_to_the_middle_and_ends_at_zero():
    fields = {"warmup": 0.0, "schedule": "linear"}
    rates = [
        float(train_step.learning_rate(jnp.int32(s), 100, 2.0, **fields)) for s in (0, 50, 75, 100)
    ]
    np.testing.assert_allclose(rates, [2, 2, 1, 0], atol=1e-6)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.75])
def test_the_linear_schedule_falls_from_the_share_it_is_given(share):
    """MMIN's rule at the start of each epoch: 1 - max(0, e + 1 - niter) / (decay + 1), e from 0."""
    niter = round(40 * share)
    for epoch in range(40):
        made = train_step.learning_rate(
            jnp.int32(epoch), 40, 2.0, warmup=0.0, schedule="linear", linear_from=share
        )
        published = 2.0 * (1 - max(0, epoch + 1 - niter) / (40 - niter + 1))
        # There a step an epoch, that never reaches 0; here at every step, to 0 at the end.
        assert abs(made - published) <= 2.0 / (40 - niter + 1) + 1e-6
        assert epoch > niter or made == 2.0


def test_optimizer_equals_pytorchs_adamw_formula(rng):
    """p -= lr * (m^ / (sqrt(v^) + eps) + wd * p), decay on kernels only."""
    vector, tree = make_vector(rng)
    optimizer = train_step.make_optimizer(clip_norm=0.0)
    params = vector.ravel(tree)
    state = optimizer.init(params)
    decayed = vector.decays(1.0)
    want, m, v = np.asarray(params, np.float64), np.zeros(10), np.zeros(10)
    for t in range(1, 4):
        gradient = rng.normal(size=10)
        updates, state = optimizer.update(
            jnp.float32(gradient), state, params, weight_decay=0.1 * decayed
        )
        params = params - 0.01 * updates
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        want = want - 0.01 * (step + 0.1 * np.asarray(decayed) * want)
    np.testing.assert_allclose(params, want, rtol=1e-5)


def test_optimizer_clips_the_global_norm(rng):
    vector, tree = make_vector(rng)
    params = vector.ravel(tree)
    clipped = train_step.make_optimizer(clip_norm=1.0)
    free = train_step.make_optimizer(clip_norm=0.0)
    gradient = jnp.full(10, 5.0)

    def first_moment(optimizer, gradient):
        _, (_, adam, _) = optimizer.update(
            gradient, optimizer.init(params), params, weight_decay=0.0
        )
        return adam.mu

    ours = first_moment(clipped, gradient)
    want = first_moment(free, gradient / jnp.sqrt(250.0))
    np.testing.assert_allclose(ours, want, rtol=1e-6)
