import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.data import missing, pipeline, protocol
from cmarr_jax.systems.system import Output, Stage
from cmarr_jax.training import predict_step, train_step
from cmarr_jax.training.evaluation import Scored, Scorer
from cmarr_jax.training.feed import Feed
from cmarr_jax.training.layout import make_layout
from cmarr_jax.training.normalise import Statistics
from cmarr_jax.training.vector import make_vector
from tests import tiny


def test_recovery_is_judged_by_what_was_missing_and_nothing_else(rng):
    """Against loops over utterances, modalities and valid positions."""
    num, length, dim = 4, 3, 2
    features = {m: rng.normal(size=(num, length, 2)).astype(np.float32) for m in ("text", "speech")}
    mask = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], bool)
    present = np.array([[1, 1], [1, 1], [1, 0], [0, 1]], bool)
    recovered, target = rng.normal(size=(2, 2, num, length, dim)).astype(np.float32)

    def predict(params, encoded, mask, available):
        return Output(jnp.zeros((num, 3)), jnp.array(recovered), jnp.array(target))

    stage = Stage("train", lambda *a: {}, None, lambda p, batch: None, predict)
    vector = make_vector(stage, {"w": jnp.zeros(1)})
    run = train_step.Run(
        np.zeros(2, np.uint32),
        Statistics({m: np.zeros(2) for m in features}, {m: np.ones(2) for m in features}, {}),
        np.zeros(num, np.int32),
        np.ones(3, np.float32),
    )
    arrays = train_step.Arrays(features, mask, present)
    available = np.array([[1, 0], [0, 1], [1, 1]], bool)
    everyone = np.broadcast_to(available[:, None], (3, num, 2))
    probe = predict_step.Probe(everyone, np.float32(0), np.float32(0))
    score = predict_step.make_predict(stage, vector)
    _, recovery, means = score(jnp.zeros(1), run, jnp.arange(num), (arrays, probe))
    scored = Scored(np.arange(num), np.zeros((3, num, 3)), np.asarray(recovery), None)

    for k in range(3):
        for i in range(num):
            sums, shown = np.zeros((2, 2)), []
            for m in range(2):
                if present[i, m] and not available[k, m]:
                    for t in np.flatnonzero(mask[i]):
                        shown.append((recovered[m, i, t], target[m, i, t]))
                        sums[m, 0] += np.square(recovered[m, i, t] - target[m, i, t]).sum()
                        sums[m, 1] += np.square(target[m, i, t]).sum()
            for m in range(2):
                wanted = sums[m, 0] / sums[m, 1] if sums[m, 1] else np.nan
                np.testing.assert_allclose(
                    scored.rec_errors_by_modality[k, i, m], wanted, rtol=1e-5
                )
            wanted = np.mean(shown, axis=0) if shown else np.zeros((2, dim))
            np.testing.assert_allclose(means[k, i], wanted, rtol=1e-5)
            wanted = sums[:, 0].sum() / sums[:, 1].sum() if sums[:, 1].any() else np.nan
            np.testing.assert_allclose(scored.rec_errors[k, i], wanted, rtol=1e-5)


@pytest.mark.parametrize("system", ["cmarr", "full_modality"])
def test_what_is_shown_is_each_modality_recovered_while_it_alone_is_missing(
    tiny_pack, tmp_path, system
):
    """Against the system's own prediction for those utterances, a modality at a time."""
    corpus = pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)
    params, runs, made, vector = tiny.export_model(
        str(tmp_path / "model"), corpus, tiny.config(system), folds=3
    )
    layout, (stage,) = make_layout(3, (16,)), made.stages
    scorer = Scorer(stage, vector, layout, layout.deal(runs), Feed(corpus, layout), corpus, 16)
    conditions = protocol.make_conditions(corpus.modalities)
    rows, stopped = [np.arange(k, len(corpus.labels)) for k in range(3)], ["stopped", None, None]
    shown = scorer.represent(params, rows, conditions, stopped, slice(0, 3))
    if system == "full_modality":
        assert shown == ()
        return
    chosen = rows[1][corpus.present[rows[1]].all(axis=1)][:16]
    run = jax.tree.map(lambda leaf: leaf[1], runs)
    arrays = train_step.Arrays(corpus.features, corpus.mask, corpus.present)
    batch = train_step.take_batch(jax.tree.map(jnp.asarray, arrays), run, chosen)
    tree = vector.unravel(jnp.asarray(params[1]))
    said = jax.jit(lambda a: stage.predict(tree, stage.encode(tree, batch), batch.mask, a))
    for m in range(3):
        prediction = said(np.arange(3)[None] != np.full((len(chosen), 1), m))
        for ours, theirs in zip(shown, (prediction.recovered, prediction.target), strict=True):
            valid = zip(np.asarray(theirs[m]), corpus.mask[chosen], strict=True)
            wanted = [x[of].mean(axis=0) for x, of in valid]
            np.testing.assert_allclose(ours[m], wanted, rtol=1e-3, atol=1e-3)


def test_lost_frames_are_zeros_to_the_model_whatever_the_batch(tiny_pack, tmp_path):
    """Against the system's own prediction for normalised features with zeros at those frames."""
    corpus = pipeline.load(pack=tiny_pack.path, loader="numpy", length=4)
    params, runs, made, vector = tiny.export_model(
        str(tmp_path / "model"), corpus, tiny.config("augmented"), folds=1
    )
    (stage,), rows = made.stages, [np.arange(50)]
    curves = missing.make_curves(
        corpus.present,
        corpus.mask,
        missing_rates=(0.5,),
        noise_levels=(0.5,),
        frame_rates=(0.0, 0.6),
        span_rates=(0.9,),
    )
    plain = protocol.make_conditions(corpus.modalities)
    scored = []
    for size in (16, 7):
        layout = make_layout(1, ())._replace(devices=tuple(jax.devices()[:1]))
        feed = Feed(corpus, layout)
        scorer = Scorer(stage, vector, layout, layout.deal(runs), feed, corpus, size)
        scored += scorer.score_best(params, rows, plain, curves)
    np.testing.assert_array_equal(scored[0].predictable, scored[1].predictable)
    np.testing.assert_allclose(scored[0].posteriors, scored[1].posteriors, atol=1e-5)
    of = dict(zip([c.name for c in (*plain, *curves)], scored[0].posteriors, strict=True))
    assert list(of) == [
        *("t", "s", "v", "vt", "sv", "st", "svt", "missing=0.5", "gaussian=0.5", "impulse=0.5"),
        *("frames=0", "frames=0.6", "spans=0.9"),
    ]
    np.testing.assert_allclose(of["frames=0"], of["svt"], atol=1e-6)

    run = jax.tree.map(lambda leaf: leaf[0], runs)
    arrays = train_step.Arrays(corpus.features, corpus.mask, corpus.present)
    batch = train_step.take_batch(jax.tree.map(jnp.asarray, arrays), run, rows[0])
    tree = vector.unravel(jnp.asarray(params[0]))
    for condition in curves[-2:]:
        features = {m: np.array(x) for m, x in batch.features.items()}
        available = np.array(corpus.present[:50])
        for i, m in np.ndindex(50, 3):
            lost = condition.lost[i, m]
            features[corpus.modalities[m]][i, lost] = 0
            available[i, m] &= bool((corpus.mask[i] & ~lost).any())
        assert (available != corpus.present[:50]).any()
        zeroed = batch._replace(features=jax.tree.map(jnp.asarray, features))
        encoded = stage.encode(tree, zeroed)
        logits = stage.predict(tree, encoded, batch.mask, jnp.array(available)).logits
        np.testing.assert_allclose(of[condition.name], jax.nn.softmax(logits), atol=1e-5)
        assert np.abs(of[condition.name] - of["svt"]).max() > 0.01
