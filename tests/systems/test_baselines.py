"""Every system beside CM-ARR: size, inertness of what is missing, and a life in the one loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from cmarr_jax.data import missing, pipeline, protocol
from cmarr_jax.errors import UserError
from cmarr_jax.nn.dropout import Dropout
from cmarr_jax.nn.flows import RealNVP
from cmarr_jax.nn.mult import MulT
from cmarr_jax.systems import SYSTEMS, mmin, nmer, teacher_student
from cmarr_jax.systems.system import Batch, objective
from configs import common
from tests import tiny
from tests.conftest import DIMS

BASELINES = [name for name in SYSTEMS if name != "cmarr"]
SMALL = {
    "dicmor": {
        "model.num_layers": 1,
        "model.num_heads": 2,
        "model.num_blocks": 1,
        "model.flow.num_couplings": 2,
    },
    "nmer": {"model.num_layers": 1, "model.num_heads": 2},
    "cmarr_plus": {  # CM-ARR's parts are tested beside it; quick to compile
        "model.umc.variant": "mlp",
        "model.flow.num_couplings": 1,
        "model.rec.num_blocks": 0,
        "model.fusion.variant": "concat",
    },
}
KEY = jax.random.key(0)


def make_batch(rng, dims=DIMS, batch=6, length=4):
    present = rng.random((batch, len(dims))) > 0.15
    present[:, 0] = True
    mask = np.arange(length)[None] < rng.integers(1, length + 1, size=(batch, 1))
    features = {
        m: jnp.float32(rng.normal(size=(batch, length, d)) * mask[..., None])
        for m, d in dims.items()
    }
    labels = jnp.array(rng.integers(3, size=batch))
    return Batch(features, jnp.array(mask), jnp.array(present), labels, jnp.ones(batch))


def make_stages(name, batch, num_classes=3, batch_axis=None, **fields):
    """Each stage with parameters away from their start."""
    config = tiny.config(name, **(SMALL.get(name, {}) | fields))
    modalities, model = tuple(batch.features), FrozenConfigDict(config.model)
    system = SYSTEMS[name](model, modalities, num_classes, batch_axis)
    start = SYSTEMS[name](model, modalities, num_classes).stages
    params, made = None, []
    for stage, unmapped in zip(system.stages, start, strict=True):
        params = tiny.random_params(unmapped, batch, params)
        made.append((stage, params))
    return made


def count(tree):
    return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(tree))


# PyTorch's counts, from the published code; its LSTMs have a second bias of 4 x 128.
PUBLISHED = {
    "mmin": [(2_063_620, 2), (5_444_228, 2)],
    "if_mmin": [(2_145_796, 2), (3_782_852, 2)],
    "cif_mmin": [None, (4_723_652, 5)],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    """At the family's features: BERT-large text, ComParE speech, denseface video; 4 classes."""
    batch = make_batch(np.random.default_rng(0), {"text": 1024, "speech": 130, "video": 342})
    config = common.with_variants(common.get_config(), name)
    system = SYSTEMS[name](FrozenConfigDict(config.model), tuple(batch.features), 4)
    shapes = None
    for stage, published in zip(system.stages, PUBLISHED[name], strict=True):
        shapes = jax.eval_shape(stage.init, KEY, batch, shapes)
        own = {k: v for k, v in shapes["params"].items() if k not in stage.frozen}
        if published is not None:
            total, lstms = published
            assert count(own) == total - lstms * 4 * 128


@pytest.mark.parametrize("num_couplings, width, published", [(32, 32, 235_520), (32, 64, 335_872)])
def test_dicmors_flow_has_the_published_number_of_parameters(num_couplings, width, published):
    flow = RealNVP(width, num_couplings, 64, "sigmoid", "none", output_scale=True)
    shapes = jax.eval_shape(
        lambda: flow.init(KEY, jnp.zeros((1, width)), method="forward_and_log_det")
    )
    assert count(shapes) == published


@pytest.mark.parametrize("name", BASELINES)
def test_what_is_missing_is_inert_and_gradients_are_finite(rng, name):
    batch = make_batch(rng)
    stage, params = make_stages(name, batch)[-1]

    @jax.jit
    def predict(batch, available):
        encoded = stage.encode(params, batch)
        return stage.predict(params, encoded, batch.mask, available).logits

    for hidden, modality in enumerate(DIMS):
        available = batch.present.at[:, hidden].set(False).at[:, (hidden + 1) % 3].set(True)
        poisoned = batch.features | {modality: batch.features[modality] + 1e3}
        dirty = predict(batch._replace(features=poisoned), available)
        np.testing.assert_array_equal(predict(batch, available), dirty)
    padded = {m: jnp.where(batch.mask[..., None], x, 1e3) for m, x in batch.features.items()}
    dirty = predict(batch._replace(features=padded), batch.present)
    np.testing.assert_array_equal(predict(batch, batch.present), dirty)

    available = batch.present if stage.complete else batch.present.at[:, 0].set(False)
    step = jax.jit(jax.value_and_grad(objective(stage), has_aux=True))
    (total, terms), gradients = step(params, batch, available, KEY)
    assert np.isfinite(total) and "cls" in terms
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    frozen = [
        leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(gradients)[0]
        if {part.key for part in path} & set(stage.frozen)
    ]
    assert bool(frozen) == bool(stage.frozen) and all((leaf == 0).all() for leaf in frozen)


@pytest.mark.parametrize("modalities", [("text",), ("video",), ("speech", "video")])
@pytest.mark.parametrize("name", BASELINES)
def test_any_set_of_modalities_and_a_single_position_will_do(rng, name, modalities):
    batch = make_batch(rng, {m: DIMS[m] for m in modalities}, length=1)
    for stage, params in make_stages(name, batch):
        jax.eval_shape(objective(stage), params, batch, batch.present, KEY)
        encoded = jax.eval_shape(stage.encode, params, batch)
        made = jax.eval_shape(stage.predict, params, encoded, batch.mask, batch.present)
        assert made.logits.shape == (6, 3)


def test_dicmors_mixing_learns_and_its_flows_learn_by_likelihood_alone(rng):
    batch = make_batch(rng)._replace(present=jnp.ones((6, 3), bool))
    fields = {"model.faithful_to": "code", "model.recovery_weight": 0.0}
    stage, params = make_stages("dicmor", batch, **fields)[-1]
    available = batch.present.at[:, 0].set(False)
    gradients = jax.jit(jax.grad(objective(stage), has_aux=True))(params, batch, available, KEY)[0]
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients["params"]["mix"]))
    assert all((g == 0).all() for g in jax.tree.leaves(gradients["params"]["flow"]))


@pytest.fixture(scope="module")
def corpus(tiny_pack):
    return pipeline.load(pack=tiny_pack.path, loader="numpy", length=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_it_learns_in_the_one_loop_and_no_run_feels_another(corpus, name):
    fields = {"train.epochs": 6, "train.learning_rate": 5e-3} | SMALL.get(name, {})
    results = {}
    for folds in ((1, 2), (2, 3)):
        teachers = tiny.NoTeachers()
        results[folds] = (
            tiny.train(
                corpus, tiny.Memory(), folds=folds, argument=name, teachers=teachers, **fields
            )[1:],
            teachers.saved,
        )
    (best, scored), saved = results[1, 2]
    full = np.mean([s.posteriors[-1].argmax(-1) == corpus.labels[s.rows] for s in scored])
    assert full > 0.6  # chance is a third
    (other, _), other_saved = results[2, 3]
    np.testing.assert_array_equal(other.params[0], best.params[1])
    for file in set(saved) & set(other_saved):
        np.testing.assert_array_equal(saved[file], other_saved[file])


def test_attention_over_each_modality_has_its_own_dropout(rng):
    """DiCMoR's three rates: here none over the first of two modalities, much over the second."""

    def dropout(rate):
        return functools.partial(Dropout, rate)

    x, mask = jnp.float32(rng.normal(size=(2, 3, 5, 8))), jnp.ones((3, 5), bool)
    fusion = MulT(2, 1, 2, dropout(0.0), dropout(0.0), ((0.0, 0.5), 0.0))
    params = jax.jit(fusion.init)(KEY, x, mask)
    params = jax.tree.map(lambda p: p + np.float32(0.3 * rng.normal(size=p.shape)), params)
    tested = jax.jit(fusion.apply)(params, x, mask)
    trained = jax.jit(fusion.apply)(params, x, mask, rngs={"dropout": KEY})
    # Of two modalities, the first half of the result attends to the second modality alone.
    assert np.abs(trained - tested)[:, :8].max() > 1e-2
    np.testing.assert_allclose(trained[:, 8:], tested[:, 8:], atol=1e-6)
    every = MulT(2, 1, 2, dropout(0.0), dropout(0.5), ((0.0, 0.0), 0.0))
    noisy = jax.jit(every.apply)(params, x, mask, rngs={"dropout": KEY})
    assert (np.abs(noisy - tested).max(axis=0) > 1e-4).all()
    np.testing.assert_array_equal(jax.jit(every.apply)(params, x, mask), tested)


@pytest.mark.parametrize("name", BASELINES)
def test_a_batch_cut_over_two_devices_has_the_same_loss_and_gradients(rng, name):
    """The last stage, or the one before where its loss is the one that is no plain mean."""
    batch = make_batch(rng)
    number = {"if_mmin": 0, "cif_mmin": 0}.get(name, -1)
    fields = {"model.kl_reduce": "sum"} if name == "nmer" else {}
    stage, params = make_stages(name, batch, **fields)[number]
    cut_stage, _ = make_stages(name, batch, batch_axis="devices", **fields)[number]
    seen = batch.present if stage.complete else batch.present.at[:, 1].set(False)
    whole = jax.jit(jax.value_and_grad(objective(stage), has_aux=True))(params, batch, seen, KEY)

    def shard(params, batch, seen):
        made = jax.value_and_grad(objective(cut_stage), has_aux=True)(params, batch, seen, KEY)
        return jax.lax.pmean(made, "devices")

    halves = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), (batch, seen))
    cut = jax.pmap(shard, axis_name="devices", in_axes=(None, 0, 0))(params, *halves)
    for a, b in zip(jax.tree.leaves(cut), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize(
    "name, copied",
    [
        ("mmin", ("encoders",)),
        ("if_mmin", ("encoders", "shared")),
        ("cif_mmin", ("encoders", "invariant")),
        ("nmer", ("encoders",)),
    ],
)
def test_a_student_starts_from_its_teacher_and_keeps_it(rng, name, copied):
    (_, before), (student, _) = make_stages(name, make_batch(rng))
    params = jax.jit(student.init)(KEY, make_batch(rng), before)["params"]
    for leaf, want in zip(*map(jax.tree.leaves, (params["teacher"], before)), strict=True):
        np.testing.assert_array_equal(leaf, want)
    for module in copied:
        pairs = map(jax.tree.leaves, (params[module], before["params"][module]))
        for leaf, want in zip(*pairs, strict=True):
            np.testing.assert_array_equal(leaf, want)
    assert student.frozen == ("teacher",)


@pytest.mark.slow
def test_a_kept_teacher_is_not_trained_again(corpus):
    teachers, seen = tiny.NoTeachers(), []
    for _ in range(2):
        tiny.train(
            corpus,
            tiny.Memory(),
            folds=(1, 2),
            argument="mmin",
            teachers=teachers,
            report=lambda e: seen.append(e.stage),
            **{"train.epochs": 1},
        )
    assert seen == ["teacher"] * 3 + [""] * 2
    teachers.saved.pop(("teacher", 2, 0))  # killed between two files, or one deleted
    kept = teachers.saved["teacher", 1, 0]
    tiny.train(
        corpus,
        tiny.Memory(),
        folds=(1, 2),
        argument="mmin",
        teachers=teachers,
        **{"train.epochs": 1},
    )
    assert len(teachers.saved) == 2 and teachers.saved["teacher", 1, 0] is kept


def trained(corpus, name):
    """Teachers, chosen models and test posteriors of fold 1."""
    fields = {"train.epochs": 2, "pretrain.epochs": 1} | SMALL.get(name, {})
    teachers = tiny.NoTeachers()
    _, best, (scored,) = tiny.train(
        corpus, tiny.Memory(), folds=(1,), argument=name, teachers=teachers, **fields
    )
    return [*teachers.saved.values(), best.params, scored.posteriors]


def are_equal(ones, others):
    return all(np.array_equal(a, b) for a, b in zip(ones, others, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_no_system_sees_what_is_dropped_from_the_training_set(corpus, rng, name):
    """Teachers, students, statistics, the chosen epoch and the test are the same bit for bit."""
    (fold, *_) = protocol.make_folds(corpus.columns, corpus.labels)
    dropped = missing.drop(corpus.present, np.full(3, 0.2), 0)
    learned = np.concatenate([fold.train, fold.val])
    changed = {m: x.copy() for m, x in corpus.features.items()}
    for k, values in enumerate(changed.values()):
        rows = learned[dropped[learned, k]]
        assert len(rows)
        values[rows] = 100 * rng.normal(size=values[rows].shape)
    lacking = corpus._replace(dropped=dropped)
    made = trained(lacking, name)
    assert are_equal(made, trained(lacking._replace(features=changed), name))
    if name != "mmin":
        return
    # Both differences show where nothing is dropped.
    whole = trained(corpus, name)
    assert not are_equal(made, whole)
    assert not are_equal(whole, trained(corpus._replace(features=changed), name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cra", "cmarr"])
def test_what_is_dropped_is_as_if_the_pack_lacked_it(corpus, name):
    (fold, *_) = protocol.make_folds(corpus.columns, corpus.labels)
    dropped = missing.drop(corpus.present, np.array([0.1, 0.5, 0.2]), 0)
    dropped[fold.test] = False
    really = {m: x * ~dropped[:, k, None, None] for k, (m, x) in enumerate(corpus.features.items())}
    pack = corpus._replace(features=really, present=corpus.present & ~dropped)
    assert are_equal(trained(corpus._replace(dropped=dropped), name), trained(pack, name))


def test_cras_loss_is_over_the_missing_mean_inputs(rng):
    """Also what `predict` shows as recovered and true, filled up to the widest modality."""
    batch = make_batch(rng)
    ((stage, params),) = make_stages("cra", batch, **{"model.dropout": 0.0})
    available = batch.present.at[:, 1].set(False)
    _, terms = jax.jit(objective(stage))(params, batch, available, KEY)
    encoded = jax.jit(stage.encode)(params, batch)
    prediction = jax.jit(stage.predict)(params, encoded, batch.mask, available)
    errors = []
    for i, m in np.argwhere(np.asarray(batch.present & ~available)):
        x = np.asarray(batch.features[tuple(DIMS)[m]])[i, np.asarray(batch.mask[i])].mean(axis=0)
        np.testing.assert_allclose(prediction.target[m, i, 0, : len(x)], x, atol=1e-5)
        errors.append(np.mean((prediction.recovered[m, i, 0, : len(x)] - x) ** 2))
        assert (prediction.recovered[m, i, 0, len(x) :] == 0).all()
    np.testing.assert_allclose(terms["rec"], np.sum(errors) / len(batch.labels), rtol=1e-4)


def test_mmins_loss_is_its_parts(rng):
    """Targets are the teacher's vectors of exactly what is missing, without dropout."""
    batch = make_batch(rng)
    fields = {"model.dropout": 0.0, "model.forward_weight": 3.0, "model.backward_weight": 0.5}
    (_, _), (stage, params) = make_stages("mmin", batch, **fields)
    available = batch.present.at[:, 1].set(False)
    total, terms = jax.jit(objective(stage))(params, batch, available, KEY)
    config = FrozenConfigDict(tiny.config("mmin", **fields).model)
    student = mmin.Student(config, tuple(DIMS), 3)
    teacher = teacher_student.teacher_network(config, tuple(DIMS), 3)
    h, forward, back, logits = jax.jit(student.apply)(params, batch, available)
    missing = np.asarray(batch.present & ~available)
    only_missing = {
        m: x * missing[:, k, None, None] for k, (m, x) in enumerate(batch.features.items())
    }
    target = teacher.apply(
        {"params": params["params"]["teacher"]},
        batch._replace(features=only_missing),
        jnp.ones_like(batch.present),
        method="embed",
    )
    posterior = np.asarray(jax.nn.softmax(logits))[np.arange(6), batch.labels]
    want = -np.log(posterior).mean()
    has_truth = np.asarray(batch.present)
    want += 3 * np.mean(((forward - target) ** 2)[has_truth]) + 0.5 * np.mean((back - h) ** 2)
    np.testing.assert_allclose(total, want, rtol=1e-5)
    assert set(terms) == {"cls", "forward", "backward"}


def test_nmers_noise_schedule_is_the_published_one():
    left = nmer.noise_schedule()
    want = {4: 0.94, 9: 0.85, 14: 0.73, 19: 0.59, 29: 0.31, 49: 0.024}
    for t, share in want.items():
        np.testing.assert_allclose(left[t], share, rtol=0.02)
    assert left[99] < 1e-10


def test_nmers_noise_spares_what_is_available(rng):
    batch = make_batch(rng)
    available = batch.present.at[:, 1].set(False)
    # In a program, where dictionaries are sorted.
    noisy = jax.jit(lambda batch: nmer.corrupt(batch, tuple(DIMS), available, KEY))(batch)
    np.testing.assert_array_equal(noisy.features["text"], batch.features["text"])
    assert np.abs(noisy.features["speech"] - batch.features["speech"]).max() > 0.1


def test_nmers_published_divergence_is_a_sum_over_the_batch(rng):
    batch, terms = make_batch(rng), {}
    for reduce in ("mean", "sum"):
        stage, params = make_stages("nmer", batch, **{"model.kl_reduce": reduce})[-1]
        terms[reduce] = jax.jit(stage.loss)(params, batch, batch.present, KEY)
    moments = [np.asarray(x) for x in (terms["sum"]["kl"], terms["mean"]["kl"])]
    np.testing.assert_allclose(moments[0], len(batch.labels) * moments[1], rtol=1e-5)
    for other in ("cls", "rec", "invariance"):
        np.testing.assert_allclose(terms["sum"][other], terms["mean"][other], rtol=1e-6)
    with pytest.raises(UserError, match="kl_reduce=other: wanted one of mean, sum"):
        make_stages("nmer", batch, **{"model.kl_reduce": "other"})


@pytest.mark.parametrize("name", ["if_mmin", "cif_mmin", "dicmor"])
def test_code_and_paper_differ_and_nothing_else_is_known(rng, name):
    batch = make_batch(rng)
    available = batch.present.at[:, 1].set(False)
    values = []
    for faithful_to in ("code", "paper"):
        stage, params = make_stages(name, batch, **{"model.faithful_to": faithful_to})[-1]
        values.append(float(jax.jit(objective(stage))(params, batch, available, KEY)[0]))
    assert abs(values[0] - values[1]) > 1e-6
    with pytest.raises(UserError, match="faithful_to=memory"):
        make_stages(name, batch, **{"model.faithful_to": "memory"})
