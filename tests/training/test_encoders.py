"""Upper layers before a system: what they show, how they are trained, what of them is kept."""

import csv
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.data import pack, pipeline, pooling, protocol
from cmarr_jax.experiment import encoders as opened
from cmarr_jax.extract import __main__ as extraction
from cmarr_jax.predictor import Predictor
from cmarr_jax.systems.teacher_student import teach
from cmarr_jax.training import encoders, evaluation, runs, train_step
from cmarr_jax.training.feed import Feed
from cmarr_jax.training.layout import make_layout
from cmarr_jax.training.vector import init_params
from cmarr_jax.workdir.checkpoints import Resumed
from tests import tiny
from tests.extract import releases, samples
from tests.extract.stand_in import GOLDEN

KINDS = {"text": "bert", "speech": "wav2vec2"}
MODELS = {f"encoders.{m}.model": f"{GOLDEN}/{kind}" for m, kind in KINDS.items()}
FIELDS = {"train.batch_size": 4, "pretrain.batch_size": 4, "train.eval_batch_size": 8}


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """`--layers` -> a pack of text and speech, of the same 24 utterances."""
    root = tmp_path_factory.mktemp("own")
    table = vary(releases.own(str(root)))

    @functools.cache
    def make(layers):
        made = f"{root}/pack-{layers}"
        options = ["--text-model", f"{GOLDEN}/bert", "--speech-model", f"{GOLDEN}/wav2vec2"]
        options += ["--layers", layers, "--keep-special-tokens", "--store-dtype", "float32"]
        command = ["csv", "--root", table, "--out", made, "--quiet", *options]
        assert extraction.main(command) == 0
        return made

    return make


def vary(table):
    """The same table with texts of 1 to 6 words and sounds of 0.1 to 0.4 s."""
    with open(table, newline="") as f:
        rows = list(csv.DictReader(f))
    for k, row in enumerate(rows):
        row["text"] = " ".join(samples.WORDS[13 + (k + w) % 8] for w in range(1 + k % 6))
        row["end"] = f"{float(row['start']) + 0.1 * (1 + k % 4):.2f}"
    with open(table, "w", newline="") as f:
        writer = csv.DictWriter(f, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return table


def experiment(corpus, c):
    return tiny.experiment(corpus, c, folds=(1,), validation="rotate")


def config(argument="full_modality", **fields):
    return tiny.config(argument, **FIELDS | MODELS | fields)


def load(path, c=None, **options):
    whole = opened.own_lengths(c) if c else {}
    return pipeline.load(pack=path, length=4, whole=whole, **{"loader": "numpy"} | options)


@pytest.fixture(scope="module")
def front(packs):
    return load(packs("0"), config())


def train(corpus, memory=None, argument="full_modality", **fields):
    return tiny.train(
        corpus,
        tiny.Memory() if memory is None else memory,
        argument=argument,
        **{"folds": (1,), "validation": "rotate", "train.epochs": 2, **FIELDS, **MODELS} | fields,
    )


def stage_of(corpus, c):
    return experiment(corpus, c).stages[0]


@pytest.mark.parametrize(
    "layers, loader",
    [("0", "numpy"), pytest.param("1", "tfds", marks=pytest.mark.slow)],
)
def test_frozen_layers_show_the_pack_of_the_last_layer(packs, layers, loader):
    c = config()
    front, last = load(packs(layers), c, loader=loader), load(packs("last"), loader=loader)
    assert front.features["text"].shape[1] == max(front.rows["text"])  # at its own length
    shown = encoders.as_published(front, stage_of(front, c))
    for m in KINDS:
        np.testing.assert_allclose(shown.features[m], last.features[m], atol=1e-5)


def test_a_rate_of_zero_leaves_the_system_with_the_last_layer(packs, front):
    """What a trained system is shown equals the normalised pack of the last layer."""
    still = {f"encoders.{m}.learning_rate": 0.0 for m in KINDS}
    memory, c = tiny.Memory(), config(**still)
    train(front, memory, **still)
    made = experiment(front, c)
    state, _ = memory.saved["last"]
    tree = made.vectors[0].unravel(np.asarray(state.params[0]))
    stage = made.stages[0]
    jax.tree.map(
        np.testing.assert_array_equal,
        tree["params"][encoders.UPPER],
        {e.modality: e.params for e in stage.encoders},
    )
    ours = show(front, stage, tree, made, c)
    last = load(packs("last"))
    plain = tiny.config("full_modality", **FIELDS)
    theirs = experiment(last, plain)
    wanted = show(last, theirs.stages[0], None, theirs, plain)
    for m in KINDS:
        np.testing.assert_allclose(ours[m], wanted[m], atol=2e-5)


def show(corpus, stage, tree, made, c, rows=slice(None), change=lambda features: features):
    """Features `[N, T, D]` as the first run's system is given them."""
    every = runs.make_runs(made.seen, made.run_ids, c, "train")
    run = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), every)
    features = change({m: x[rows] for m, x in corpus.features.items()})
    arrays = train_step.Arrays(features, corpus.mask[rows], corpus.present[rows])
    raw = [e.modality for e in stage.encoders]
    number = jnp.arange(len(corpus.mask[rows]))
    batch = train_step.take_batch(jax.tree.map(jnp.asarray, arrays), run, number, encoded=raw)
    own = {m: jnp.asarray(x[rows]) for m, x in corpus.rows.items()}
    return encoders.see(stage, tree, batch, own, run.statistics).features


def test_neither_padding_nor_the_bucket_matters(front):
    made = experiment(front, config())
    stage, tree = made.stages[0], encoders.published(made.stages[0].encoders)
    before = show(front, stage, tree, made, config())

    def spoil(features):
        past = {
            m: np.arange(x.shape[1])[None, :, None] >= front.rows[m][:, None, None]
            for m, x in features.items()
        }
        return {m: np.where(past[m], 1e3, x) for m, x in features.items()}

    after = show(front, stage, tree, made, config(), change=spoil)
    alone = show(front, stage, tree, made, config(), rows=slice(0, 1))
    for m in KINDS:
        np.testing.assert_array_equal(before[m], after[m])
        np.testing.assert_allclose(alone[m][0], before[m][0], atol=1e-5)


def test_buckets_rise_to_the_length():
    assert encoders.buckets(9) == [9]
    assert encoders.buckets(124) == [16, 24, 40, 64, 96, 124]


def test_pooling_is_that_of_packs():
    x = np.random.default_rng(0).normal(size=(6, 11, 3)).astype(np.float32)
    rows = np.array([11, 7, 4, 3, 1, 0])
    pooled = encoders.pool(jnp.asarray(x), jnp.asarray(rows), 4)
    for k, count in enumerate(rows):
        np.testing.assert_allclose(pooled[k], pooling.fix_length(x[k, :count], 4), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["cmarr", "mmin"])
def test_a_stopped_sweep_resumes_to_the_same_bits(front, argument):
    class Kept(tiny.Memory):
        def resume(self, stage, like):
            return self.point if stage == "" and hasattr(self, "point") else None

    teachers = tiny.NoTeachers()
    fields = {"argument": argument, "teachers": teachers, "train.epochs": 3}
    whole = tiny.Memory()
    train(front, whole, **fields)

    class Stop(Exception):
        pass

    def stop(epoch):
        if not epoch.stage and epoch.number == 3:
            raise Stop

    half = Kept()
    with pytest.raises(Stop):
        train(front, half, report=stop, **fields)
    half.point = Resumed(2, half.saved["last"], [None])
    train(front, half, **fields)
    jax.tree.map(np.testing.assert_array_equal, half.saved["last"], whole.saved["last"])


@pytest.mark.slow
def test_two_devices_equal_one(front, monkeypatch):
    """The batch of one run is cut over both; dropout of the encoders draws the same."""
    losses = []
    for count in (2, 1):
        devices, epochs = jax.devices()[:count], []
        monkeypatch.setattr(jax, "devices", lambda found=devices: list(found))
        assert make_layout(1, (4,)).cuts_batch == (count == 2)
        train(front, report=epochs.append, **{"train.epochs": 3})
        losses.append([[e.terms["loss"], e.terms["gradient_norm"]] for e in epochs])
    np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.slow
def test_a_student_is_taught_by_what_its_teacher_saw(front):
    memory, teachers = tiny.Memory(), tiny.NoTeachers()
    train(front, memory, "mmin", teachers=teachers)
    c = config("mmin")
    made = experiment(front, c)
    first, second = made.stages
    ((teacher),) = teachers.saved.values()
    taught = made.vectors[0].unravel(teacher)
    student = made.vectors[1].unravel(np.asarray(memory.saved["last"][0].params[0]))
    jax.tree.map(np.testing.assert_array_equal, student["params"]["teacher"], taught["params"])
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(),
        student["params"][encoders.UPPER],
        taught["params"][encoders.UPPER],
    )
    assert max(jax.tree.leaves(moved)) > 1e-4  # the student's own goes on learning
    seen_by_teacher = show(front, first, taught, made, c)
    every = runs.make_runs(made.seen, made.run_ids, c, "train")
    run = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), every)
    arrays = train_step.Arrays(dict(front.features), front.mask, front.present)
    number = jnp.arange(len(front.labels))
    batch = train_step.take_batch(jax.tree.map(jnp.asarray, arrays), run, number, encoded=[*KINDS])
    own = {m: jnp.asarray(x) for m, x in front.rows.items()}
    batch = encoders.see(second, student, batch, own, run.statistics)
    for m in KINDS:
        np.testing.assert_allclose(batch.taught[m], seen_by_teacher[m], atol=1e-5)
        assert np.abs(batch.features[m] - batch.taught[m]).max() > 1e-3

    class Spy:
        def apply(self, params, batch, available, method):
            return batch.features

    given = teach(Spy(), student, batch, batch.present)
    np.testing.assert_array_equal(given["text"], batch.taught["text"])


def test_each_layer_has_its_own_rate_and_decay(front):
    c = config(
        **{
            "encoders.text.layer_decay": 0.5,
            "encoders.text.weight_decay": 0.3,
            "encoders.speech.learning_rate": 2e-3,
        }
    )
    (vector,) = experiment(front, c).vectors
    now = {1e-4: jnp.float32(1e-4), 2e-3: jnp.float32(2e-3)}
    rates = vector.unravel(vector.rates(jnp.float32(7.0), lambda peak, warmup: now[peak]))
    decays = vector.unravel(vector.decays(jnp.float32(0.1)))["params"]
    rates = rates["params"]
    upper, head = rates.pop(encoders.UPPER), rates
    assert {float(x.max()) for x in jax.tree.leaves(head)} == {7.0}
    for name, wanted in (("layer_1", 1e-4), ("layer_0", 5e-5)):
        for leaf in jax.tree.leaves(upper["text"][name]):
            np.testing.assert_allclose(leaf, wanted, rtol=1e-6)
    for leaf in jax.tree.leaves(upper["speech"]):
        np.testing.assert_allclose(leaf, 2e-3, rtol=1e-6)
    own = decays[encoders.UPPER]["text"]["layer_0"]["query"]
    assert float(own["kernel"].min()) == pytest.approx(0.3) and not own["bias"].any()


def test_gradients_of_the_layers_are_finite_differences(front):
    made = experiment(front, config("cmarr"))
    stage = made.stages[0]
    c = config("cmarr")
    run = runs.make_runs(made.seen, made.run_ids, c, "train")
    run = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), run)
    arrays = train_step.Arrays(dict(front.features), front.mask, front.present)
    arrays = jax.tree.map(jnp.asarray, arrays)
    batch = train_step.take_batch(arrays, run, jnp.arange(8), encoded=[*KINDS])
    own = {m: jnp.asarray(x[:8]) for m, x in front.rows.items()}
    tree = jax.tree.map(jnp.asarray, made.vectors[0].unravel(start(made, run)))

    @jax.jit
    def loss(upper):
        params = {"params": tree["params"] | {encoders.UPPER: upper}}
        shown = encoders.see(stage, params, batch, own, run.statistics)
        key = jax.random.key(0)
        terms = stage.loss(params, shown, shown.present, key)
        return terms["cls"]

    upper = tree["params"][encoders.UPPER]
    gradient = jax.jit(jax.grad(loss))(upper)
    rng = np.random.default_rng(0)
    along = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), upper)
    slope = sum(map(jnp.vdot, *map(jax.tree.leaves, (gradient, along))))
    step = 2e-4
    ahead, behind = (
        loss(jax.tree.map(lambda x, d, s=s: x + s * step * d, upper, along)) for s in (1, -1)
    )
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=0.03)
    assert all(
        np.abs(g).max() > 0
        for g in jax.tree.leaves(gradient["speech"]["layer_0"]["query"]["kernel"])
    )


def start(made, run):
    stage, vector = made.stages[0], made.vectors[0]
    return np.asarray(init_params(stage, vector, np.asarray(run.key)[None], made.corpus))[0]


def test_batches_hold_utterances_of_like_length():
    rows = np.random.default_rng(0).integers(1, 100, size=640)
    fold = type("Fold", (), {"train": np.arange(640), "number": 1})
    ids = [runs.RunId(fold, 0)]
    plain, alike = (runs.epoch_order(ids, 1, 8, rows=r)[0] for r in (None, rows))
    assert sorted(alike.ravel()) == list(range(640))
    spread = [np.ptp(rows[order], axis=1).mean() for order in (plain, alike)]
    assert spread[1] < spread[0] / 4
    assert not (alike == runs.epoch_order(ids, 2, 8, rows=rows)[0]).all()
    # Steps do not go from short to long.
    assert abs(np.corrcoef(np.arange(80), rows[alike].mean(axis=1))[0, 1]) < 0.3


@pytest.mark.slow
def test_a_batch_in_parts_has_the_same_gradient(packs):
    """Without dropout, and with losses that are means over utterances."""
    corpus = load(packs("last"))
    fields = {"model.fusion.dropout": 0.0, "model.classifier.dropout": 0.0, "train.batch_size": 8}
    ends = []
    for parts in (1, 4):
        epochs = []
        tiny.train(
            corpus,
            tiny.Memory(),
            report=epochs.append,
            argument="full_modality",
            folds=(1,),
            validation="rotate",
            **{"train.epochs": 2, "train.accumulate": parts, "layout": "map", **fields},
        )
        ends.append([epochs[0].terms[name] for name in ("loss", "gradient_norm")])
    np.testing.assert_allclose(*ends, rtol=1e-3)


def test_a_mix_of_layers_starts_as_their_mean_and_learns(packs):
    c = tiny.config("full_modality", **FIELDS, **{"encoders.text.mix": True})
    corpus = load(packs("all"), c)
    stage = stage_of(corpus, c)
    shown = encoders.as_published(corpus, stage).features["text"]
    states = corpus.features["text"].reshape(*corpus.mask.shape, 3, -1)
    np.testing.assert_allclose(shown, states.mean(axis=2), atol=1e-6)
    memory = tiny.Memory()
    tiny.train(
        corpus,
        memory,
        argument="full_modality",
        folds=(1,),
        validation="rotate",
        **FIELDS | {"encoders.text.mix": True, "train.epochs": 3},
    )
    (vector,) = experiment(corpus, c).vectors
    tree = vector.unravel(np.asarray(memory.saved["last"][0].params[0]))
    weights = tree["params"][encoders.UPPER]["text"]["weights"]
    assert weights.shape == (3,) and np.ptp(weights) > 1e-3


@pytest.mark.parametrize("kind", ["upper", pytest.param("mix", marks=pytest.mark.slow)])
def test_the_exported_model_scores_as_the_sweep(packs, tmp_path, kind):
    c = (
        config()
        if kind == "upper"
        else tiny.config(
            "full_modality", **FIELDS, **{"encoders.text.mix": True, "encoders.speech.mix": True}
        )
    )
    path = packs("0" if kind == "upper" else "all")
    corpus = load(path, c)
    params, every, system, vector = tiny.export_model(str(tmp_path / "model"), corpus, c, folds=2)
    layout = make_layout(2, (8,), "map")
    scorer = evaluation.Scorer(
        system.stages[-1], vector, layout, layout.deal(every), Feed(corpus, layout), corpus, 8
    )
    rows = [np.arange(len(corpus.labels))] * 2
    scored = scorer.score_best(params, rows, protocol.make_conditions(corpus.modalities))
    wanted = np.mean([run.posteriors[-1] for run in scored], axis=0)
    made = list(Predictor(str(tmp_path / "model")).of_pack(path, batch_size=8))
    ours = np.array([list(p.posterior.values()) for p in made])
    np.testing.assert_allclose(ours, wanted, atol=1e-5)
    assert len(pack.read(path).labels) == len(ours)
