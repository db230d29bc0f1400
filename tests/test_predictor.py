"""The exported model says what the sweep's own test says, and nothing of what it was not given."""

import json
import os
import shutil

import jax
import numpy as np
import pytest

from cmarr_jax.data import dialogue, pipeline, protocol, provenance
from cmarr_jax.errors import UserError
from cmarr_jax.predictor import Predictor
from cmarr_jax.systems import SYSTEMS
from cmarr_jax.systems.system import Batch
from cmarr_jax.training import evaluation
from cmarr_jax.training.feed import Feed
from cmarr_jax.training.layout import make_layout
from cmarr_jax.workdir import model_folder
from tests import tiny


@pytest.fixture(scope="module")
def corpus(tiny_pack):
    return pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory, corpus):
    """(folder, conditions, the sweep's own scores of every utterance)."""
    folder = tmp_path_factory.mktemp("model") / "model"
    params, runs, system, vector = tiny.export_model(
        str(folder), corpus, tiny.config("full_modality"), folds=3
    )
    layout = make_layout(3, (16,))
    scorer = evaluation.Scorer(
        system.stages[-1], vector, layout, layout.deal(runs), Feed(corpus, layout), corpus, 16
    )
    conditions = protocol.make_conditions(corpus.modalities)
    rows = [np.arange(len(corpus.labels))] * 3
    return str(folder), conditions, scorer.score_best(params, rows, conditions)


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor(model[0])


def sequences(pack, modalities, rows):
    return {m: [pack.sequence(m, i) for i in rows] for m in modalities}


def probabilities(predictions):
    return np.array([list(p.posterior.values()) for p in predictions])


def test_each_condition_scores_as_in_the_sweep(tiny_pack, model, predictor):
    _, conditions, scored = model
    posteriors = np.stack([run.posteriors for run in scored])  # [R, K, N, C]
    ids = tiny_pack.columns["id"]
    for k, condition in enumerate(conditions):
        rows = np.flatnonzero(scored[0].predictable[k])
        names = [m for m, has in zip(tiny_pack.modalities, condition.available, strict=True) if has]
        made = list(
            predictor.of_features(ids[rows], sequences(tiny_pack, names, rows), batch_size=16)
        )
        np.testing.assert_allclose(
            probabilities(made), posteriors[:, k, rows].mean(axis=0), atol=1e-5
        )
        spread = np.array([list(p.spread.values()) for p in made])
        np.testing.assert_allclose(spread, posteriors[:, k, rows].std(axis=0), atol=1e-5)
        for prediction, row in zip(made, rows, strict=True):
            has = [m for m in names if len(tiny_pack.sequence(m, row))]
            assert list(prediction.present) == has
            assert prediction.reconstructed == ()
            assert prediction.predicted == max(prediction.posterior, key=prediction.posterior.get)


def test_neither_the_batch_nor_its_neighbours_matter(tiny_pack, predictor):
    alone = [
        next(
            predictor.of_features([i], sequences(tiny_pack, ["text", "video"], [k]), batch_size=16)
        )
        for k, i in enumerate(tiny_pack.columns["id"][:3])
    ]
    together = list(
        predictor.of_features(
            tiny_pack.columns["id"][:20],
            sequences(tiny_pack, ["text", "video"], range(20)),
            batch_size=16,
        )
    )
    np.testing.assert_allclose(probabilities(alone), probabilities(together[:3]), atol=1e-6)
    assert [p.id for p in together] == [f"u{i:03d}" for i in range(20)]


def test_cmarr_recovers_what_is_missing_and_says_how_wide_its_embeddings_are(
    corpus, tiny_pack, tmp_path
):
    tiny.export_model(str(tmp_path / "model"), corpus, tiny.config(), folds=2)
    (made,) = Predictor(str(tmp_path)).of_features(
        ["u"], sequences(tiny_pack, ["speech"], [5]), batch_size=1
    )
    assert list(made.variance) == ["speech"] and made.reconstructed == ("text", "video")
    read = model_folder.read(str(tmp_path))
    stage = SYSTEMS["cmarr"](read.config, corpus.modalities, 3).stages[-1]
    features = {
        m: (corpus.features[m][None, 5] - read.mean[m][:, None]) * read.scale[m][:, None]
        for m in corpus.modalities
    }  # [R, T, D_m]

    def log_sigma(params, features):
        batch = Batch({m: x[None] for m, x in features.items()}, np.ones((1, 4), bool), *[None] * 3)
        return stage.encode(params, batch).utterance.log_sigma[1, 0]

    found = np.asarray(jax.jit(jax.vmap(log_sigma))(read.params, features))
    variance = np.mean([np.exp(x) ** 2 for x in found.ravel().tolist()])
    np.testing.assert_allclose(made.variance["speech"], variance, rtol=1e-4)


def test_nothing_given_is_nothing_said(predictor):
    (made,) = predictor.of_features(["u"], {"text": [np.zeros((0, 12), np.float32)]}, batch_size=16)
    assert made == ("u", None, None, None, None, (), ())


@pytest.mark.parametrize(
    "given, message",
    [
        (
            {"text": np.zeros((3, 11), np.float32)},
            r"text has the shape \(3, 11\), wanted \(rows, 12\)",
        ),
        ({"text": np.array([["a"] * 12])}, "u: text: dtype is <U1, wanted numbers"),
        ({"smell": np.zeros((3, 12))}, "smell: the model knows text, speech, video"),
    ],
)
def test_features_of_another_kind_are_refused(predictor, given, message):
    with pytest.raises(UserError, match=message):
        list(predictor.of_features(["u"], {m: [x] for m, x in given.items()}))


@pytest.mark.parametrize("given", [None, np.nan, np.full((3, 12), np.nan), np.zeros((0, 5))[:, :0]])
@pytest.mark.filterwarnings("ignore:text. 3 rows without a finite number")
def test_no_number_is_no_modality(predictor, given):
    (made,) = predictor.of_features(["u"], {"text": [given]}, batch_size=16)
    assert made.posterior is None and made.present == ()


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300, None])
def test_what_float32_cannot_hold_counts_as_0_with_a_warning(predictor, rng, value):
    plain = rng.normal(size=(3, 12)).astype("f4")
    odd = plain.astype(object if value is None else float)
    plain[1, 2], odd[1, 2] = 0, value
    (wanted,) = predictor.of_features(["u"], {"text": [plain]}, batch_size=16)
    with pytest.warns(UserWarning, match=r"text: 1 numbers .* count as 0 \(u first\)"):
        (made,) = predictor.of_features(["u"], {"text": [odd]}, batch_size=16)
    assert made == wanted


@pytest.mark.parametrize("dtype", [">f4", "f8", "g", "O"])
def test_any_dtype_predicts_alike(predictor, rng, dtype):
    plain = rng.normal(size=(3, 12)).astype("f4")
    (wanted,) = predictor.of_features(["u"], {"text": [plain]}, batch_size=16)
    (made,) = predictor.of_features(["u"], {"text": [plain.astype(dtype)]}, batch_size=16)
    assert made == wanted


def test_a_pack_of_another_width_is_refused_with_what_makes_it_fit(
    tiny_pack, predictor, tmp_path, monkeypatch
):
    wide = dialogue.make(tiny_pack.path, str(tmp_path / "wide"))
    with pytest.raises(
        UserError, match="text features are 24-d, the model's 12-d; wanted features"
    ):
        next(predictor.of_read_pack(wide))
    monkeypatch.setitem(predictor.facts, "corpus", wide.name)
    monkeypatch.setitem(predictor.facts, "dims", dict.fromkeys(predictor.facts["dims"], 24))
    with pytest.raises(UserError, match="12-d, the model's 24-d; add the context of dialogues"):
        next(predictor.of_read_pack(tiny_pack))


def test_a_pack_of_another_encoder_is_refused(tiny_pack, predictor, monkeypatch):
    """Recipes are compared where both are known: one option apart."""

    def by(dtype):
        facts = {"fingerprint": "f", "source": {"dtype": dtype}, "stored_as": "float16"}
        modalities = dict.fromkeys(tiny_pack.modalities, facts)
        return {"made_by": provenance.EXTRACTED_BY, "modalities": modalities}

    known = provenance.encoders(by("float32"), tiny_pack.modalities)
    monkeypatch.setitem(predictor.facts, "encoders", known)
    assert next(
        predictor.of_read_pack(tiny_pack._replace(provenance=by("float32")), batch_size=16)
    ).predicted
    with pytest.raises(UserError, match="dtype is bfloat16, wanted float32"):
        next(predictor.of_read_pack(tiny_pack._replace(provenance=by("bfloat16"))))


def _edit(**changes):
    def edit(folder):
        facts = json.loads((folder / "model.json").read_text()) | changes
        (folder / "model.json").write_text(json.dumps(facts))

    return edit


def _edit_weights(change):
    def edit(folder):
        arrays = dict(np.load(folder / "weights.npz"))
        change(arrays)
        np.savez(folder / "weights.npz", **arrays)

    return edit


DAMAGES = {
    "cut weights": (lambda f: (f / "weights.npz").write_bytes(b"PK"), "weights.npz: damaged"),
    "no weights": (lambda f: os.remove(f / "weights.npz"), "weights.npz: missing"),
    "no config": (lambda f: os.remove(f / "config.json"), "config.json: missing"),
    "empty config": (lambda f: (f / "config.json").write_text("{}"), "has no part 'model'"),
    "other config": (lambda f: (f / "config.json").write_text('{"model": {}}'), "another version"),
    "json": (lambda f: (f / "model.json").write_text("[1"), "model.json: damaged"),
    "version": (_edit(format_version=9), "format_version is 9"),
    "field": (_edit(classes="abc"), "'classes' is 'abc', wanted a list"),
    "system": (_edit(system="mine"), "system 'mine' is not among"),
    "dims": (_edit(dims={"text": 12, "speech": 10, "video": 7}), "mean/video is"),
    "runs": (_edit(runs=[]), "wanted float32 of 0 runs"),
    "statistics": (_edit_weights(lambda a: a.pop("scale/text")), "scale/text is missing"),
    "parameter": (
        _edit_weights(lambda a: a.pop("params/project_text/bias")),
        "does not fit this library's full_modality",
    ),
    "kernel": (
        _edit_weights(
            lambda a: a.update({"params/project_text/kernel": np.zeros((3, 9, 16), "f4")})
        ),
        "does not fit this library's full_modality",
    ),
}


def test_a_pack_that_names_a_modality_otherwise_is_refused(tiny_pack, model):
    names = {"text": "text", "speech": "audio", "video": "video"}
    features = {names[m]: x for m, x in tiny_pack.features.items()}
    offsets = {names[m]: x for m, x in tiny_pack.offsets.items()}
    other = tiny_pack._replace(features=features, offsets=offsets)
    with pytest.raises(UserError, match="does not know audio, and speech is not there"):
        next(Predictor(os.path.dirname(model[0])).of_read_pack(other))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_one_line(tmp_path, tiny_pack, model, damage):
    change, message = DAMAGES[damage]
    shutil.copytree(model[0], tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises(UserError, match=message) as caught:
        next(Predictor(str(tmp_path)).of_pack(tiny_pack.path, batch_size=16))
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_says_what_it_is(tmp_path):
    def refused(match):
        with pytest.raises(UserError, match=match):
            Predictor(str(tmp_path))

    refused("neither a model .* nor a sweep")
    (tmp_path / "status.json").write_text('{"complete": false}')
    refused("not complete, so there is no model yet")
    (tmp_path / "status.json").write_text('{"complete": true}')
    refused("trained by a version that did not export")
    (tmp_path / "status.json").write_text('{"complete": true, "sweeps": 2}')
    (tmp_path / "cra" / "model").mkdir(parents=True)
    refused(r"several sweeps \(cra\); name one, such as --workdir=.*cra")
    with pytest.raises(UserError, match="no such folder"):
        Predictor(str(tmp_path / "nowhere"))


def test_no_such_fold(model):
    with pytest.raises(UserError, match="the model has the folds 1, 2, 3"):
        Predictor(model[0], fold=4)


def test_an_aligned_model_of_a_system_that_recovers_nothing(tmp_path, rng):
    """`align` = "none": sequences as they are, one length in all modalities of an utterance."""
    arrays = {m: rng.normal(size=(6, 4, 5)).astype(np.float32) for m in ("text", "speech")}
    whole, nothing = np.ones((6, 4), bool), np.zeros(6, np.int32)
    corpus = pipeline.Corpus("c", ("a", "b"), {}, nothing, arrays, whole, whole[:, :2], {})
    fields = {"data.align": "none", "data.length": 4, "data.normalise": False}
    config = tiny.config("full_modality", **fields)
    params, _, system, vector = tiny.export_model(str(tmp_path / "model"), corpus, config, folds=1)
    predictor = Predictor(str(tmp_path))
    both = {m: [x[0][:3], x[1]] for m, x in arrays.items()}
    made = list(predictor.of_features(["u", "v"], both, batch_size=2))
    alone = list(predictor.of_features(["u"], {"text": both["text"][:1]}, batch_size=2))
    mask = np.array([[True] * 3 + [False], [True] * 4])
    has = np.array([[True, True], [True, True], [True, False]])
    batch = Batch(
        {m: np.stack([x[0] * mask[0, :, None], x[1], x[0]]) for m, x in arrays.items()},
        np.stack([*mask, mask[0]]),
        has,
        None,
        None,
    )
    tree = vector.unravel(params[0])
    stage = system.stages[-1]
    logits = jax.jit(lambda b: stage.predict(tree, stage.encode(tree, b), b.mask, b.present).logits)
    wanted = np.exp(np.asarray(logits(batch), np.float64))
    wanted /= wanted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities([*made, *alone]), wanted, atol=1e-5)
    for prediction in (*made, *alone):  # one model deviates from nothing
        assert prediction[3:5] == (None, None) and prediction.reconstructed == ()
    assert alone[0].present == ("text",)
    with pytest.raises(UserError, match="has 5 rows; raise the length"):
        next(predictor.of_features(["u"], {"text": [np.zeros((5, 5), "f4")]}, batch_size=2))
    with pytest.raises(UserError, match="wanted one length"):
        next(
            predictor.of_features(
                ["u"], {m: [x[0][: 2 + (m == "text")]] for m, x in arrays.items()}, batch_size=2
            )
        )
