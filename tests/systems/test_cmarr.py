"""CM-ARR as a whole: shapes, inertness of what is not there, losses from its own parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from ml_collections import FrozenConfigDict

from cmarr_jax import losses
from cmarr_jax.errors import UserError
from cmarr_jax.systems import cmarr
from cmarr_jax.systems.system import Batch, objective
from tests import tiny
from tests.tiny import MODALITIES, model_config

pytestmark = pytest.mark.device

KEY = jax.random.key(0)
DIMS = {"text": 12, "speech": 10, "video": 6}


def make_batch(rng, modalities=MODALITIES, batch=6, length=4):
    present = rng.random((batch, len(modalities))) > 0.15
    present[:, 0] = True
    mask = np.arange(length)[None] < rng.integers(1, length + 1, size=(batch, 1))
    features = {
        m: jnp.float32(rng.normal(size=(batch, length, DIMS[m])) * mask[..., None])
        for m in modalities
    }
    labels = jnp.array(rng.integers(3, size=batch))
    return Batch(features, jnp.array(mask), jnp.array(present), labels, jnp.ones(batch))


def make_system(rng, modalities=MODALITIES, **fields):
    (system,) = cmarr.make(model_config(**fields), modalities, 3).stages
    batch = make_batch(rng, modalities)
    params = tiny.random_params(system, batch)
    system = system._replace(
        loss=jax.jit(system.loss), encode=jax.jit(system.encode), predict=jax.jit(system.predict)
    )
    return system, params, batch


@pytest.mark.parametrize("modalities", [MODALITIES, ("text", "speech"), ("video",)])
def test_any_set_of_modalities_predicts_and_learns(rng, modalities):
    system, params, batch = make_system(rng, modalities)
    prediction = system.predict(params, system.encode(params, batch), batch.mask, batch.present)
    assert prediction.logits.shape == (6, 3)
    assert prediction.recovered.shape == prediction.target.shape == (len(modalities), 6, 4, 16)
    gradients = jax.jit(jax.grad(objective(system), has_aux=True))(
        params, batch, batch.present, KEY
    )[0]
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("hidden", [0, 1, 2])
def test_values_of_a_masked_modality_are_inert_bit_for_bit(rng, hidden):
    system, params, batch = make_system(rng)
    available = batch.present.at[:, hidden].set(False).at[:, (hidden + 1) % 3].set(True)
    name = MODALITIES[hidden]
    poisoned = batch._replace(features=batch.features | {name: 1e3 + batch.features[name]})

    @jax.jit
    def predict(batch):
        prediction = system.predict(params, system.encode(params, batch), batch.mask, available)
        return prediction.logits, prediction.recovered

    for clean, dirty in zip(predict(batch), predict(poisoned), strict=True):
        np.testing.assert_array_equal(clean, dirty)


def test_padding_is_inert_bit_for_bit(rng):
    system, params, batch = make_system(rng)
    poisoned = {m: jnp.where(batch.mask[..., None], x, 1e3) for m, x in batch.features.items()}

    @jax.jit
    def predict(batch):
        encoded = system.encode(params, batch)
        return system.predict(params, encoded, batch.mask, batch.present).logits

    np.testing.assert_array_equal(predict(batch), predict(batch._replace(features=poisoned)))


def test_an_utterance_does_not_see_its_batch(rng):
    system, params, batch = make_system(rng)
    whole = system.predict(params, system.encode(params, batch), batch.mask, batch.present)
    first = jax.tree.map(lambda x: x[:1], batch)
    alone = system.predict(params, system.encode(params, first), first.mask, first.present)
    np.testing.assert_allclose(whole.logits[:1], alone.logits, atol=1e-5)


def test_the_latent_of_what_is_missing_is_the_mean_of_the_available(rng):
    """Eq. 7: with one modality available, the missing one's latent is that modality's."""
    system, params, batch = make_system(rng)
    network = cmarr.CMARR(model_config(), MODALITIES, 3)
    encoded = system.encode(params, batch)
    masks = jnp.broadcast_to(batch.mask, encoded.x.shape[:3])
    for available, latent in (
        ((True, False, False), encoded.z[0]),
        ((True, True, False), (encoded.z[0] + encoded.z[1]) / 2),
    ):
        available = jnp.broadcast_to(jnp.array([available]), (6, 3))
        recovered = system.predict(params, encoded, batch.mask, available).recovered
        want = network.apply(
            params,
            method=lambda net, z=latent: net.reconstruct(
                net.flow.inverse(jnp.broadcast_to(z, encoded.z.shape)) * masks[..., None], masks
            ),
        )
        missing = ~np.asarray(available).T
        np.testing.assert_allclose(recovered[missing], want[missing], atol=1e-5)


def test_evaluation_decides_as_training_does_under_every_condition(rng):
    """What is missing alone is recovered, by chunks of a batch; two runs, ragged presence."""
    _, params, batch = make_system(rng)
    network = cmarr.CMARR(model_config(), MODALITIES, 3)
    both = jax.tree.map(lambda p: jnp.stack([p, 1.1 * p]), params)
    conditions = np.array([[k & 1, k & 2, k & 4] for k in range(8)], bool)
    available = jnp.array(conditions[:, None]) & batch.present[None]

    def compare(params):
        encoded = network.apply(params, batch, method="encode")

        def under(available):
            want = network.apply(params, encoded, batch.mask, available, method="decide")
            chunk = cmarr.evaluation_chunk(available)
            made = network.apply(params, encoded, batch.mask, available, chunk, method="decide")
            return made, want._replace(recovered=want.inputs)

        return jax.lax.map(under, available)

    for made, want in zip(*jax.jit(jax.vmap(compare))(both), strict=True):
        assert np.isfinite(made).all()
        np.testing.assert_allclose(made, want, atol=1e-6, rtol=1e-6)


def test_training_by_chunks_is_training_at_once(rng, monkeypatch):
    """Loss and gradient under dropout, ragged presence, an utterance without any modality."""
    fields = {"umc.dropout": 0.3, "fusion.dropout": 0.3, "classifier.dropout": 0.3}
    network = cmarr.CMARR(model_config(**fields), MODALITIES, 3)
    _, params, batch = make_system(rng, **fields)
    present = batch.present.at[3].set(False)
    batch = batch._replace(present=present)
    available = present.at[1:3, 1].set(False).at[4:, 0].set(False)
    rngs = {"dropout": KEY}

    def by_chunks(params):
        chunk = cmarr.training_chunk(network.config, batch.mask)
        assert chunk == 2
        return losses_of(params, *network.apply(params, batch, available, chunk, rngs=rngs))

    def at_once(params):
        return losses_of(params, *network.apply(params, batch, available, rngs=rngs))

    def losses_of(params, encoded, fused):
        terms = cmarr.loss_terms(network, params, encoded, fused, batch, available)
        return sum(terms.values()), terms

    monkeypatch.setattr(cmarr, "_LEAST_POSITIONS", 1)
    made, want = (
        jax.jit(jax.value_and_grad(f, has_aux=True))(params) for f in (by_chunks, at_once)
    )
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(want), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1, np.abs(b).max()))


def test_a_detached_inverse_has_no_gradient_by_chunks_either(rng):
    _, params, batch = make_system(rng)
    network = cmarr.CMARR(model_config(**{"flow.detach_inverse": True}), MODALITIES, 3)
    encoded = jax.jit(lambda p: network.apply(p, batch, method="encode"))(params)
    available = batch.present.at[:, 1].set(False)

    @jax.jit
    @jax.grad
    def gradient(params):
        chunk = cmarr.evaluation_chunk(available)
        fused = network.apply(params, encoded, batch.mask, available, chunk, method="decide")
        return jnp.sum(fused.recovered[1] ** 2)

    gradients = gradient(params)["params"]
    moves = {n: any((g != 0).any() for g in jax.tree.leaves(gradients[n])) for n in gradients}
    assert moves["reconstruct"] and not moves["flow"]


def test_available_modalities_enter_the_fusion_as_they_are(rng):
    system, params, batch = make_system(rng)
    network = cmarr.CMARR(model_config(), MODALITIES, 3)
    encoded = system.encode(params, batch)
    available = batch.present.at[:, 1].set(False)
    fused = network.apply(params, encoded, batch.mask, available, method="decide")
    for m in range(3):
        source = np.where(available[:, m, None, None], encoded.x[m], fused.recovered[m])
        np.testing.assert_array_equal(fused.inputs[m], source)


def test_loss_is_the_papers_sum_of_its_terms(rng):
    """Eq. 14, each term computed again from what the network returns."""
    fields = {"spcl.weight": 0.3, "udcl.weight": 0.7, "rec.weight": 5.0}
    system, params, batch = make_system(rng, **fields)
    network = cmarr.CMARR(model_config(**fields), MODALITIES, 3)
    available = batch.present.at[:, 2].set(False)
    key = jax.random.key(3)
    total, terms = objective(system)(params, batch, available, key)
    encoded, fused = network.apply(params, batch, available, rngs={"dropout": key})

    errors, missing = [], np.asarray(batch.present & ~available)
    for i, m in np.argwhere(missing):
        valid = np.asarray(batch.mask[i])
        errors.append(np.mean((fused.recovered[m, i, valid] - encoded.x[m, i, valid]) ** 2))
    np.testing.assert_allclose(terms["rec"], np.mean(errors), rtol=1e-4)
    udcl = losses.distribution_contrast(
        encoded.utterance.mu,
        jnp.exp(encoded.utterance.log_sigma),
        batch.present.T,
        jnp.clip(jnp.exp(params["params"]["log_temperature"]), 0.01, 1.0),
        scale=-768 / 200 / 16,
        shift=4.0,
    )
    np.testing.assert_allclose(terms["udcl"], udcl, rtol=1e-3)
    want = terms["cls"] + 0.7 * terms["udcl"] + 0.3 * terms["spcl"] + 5.0 * terms["rec"]
    np.testing.assert_allclose(total, want, rtol=1e-6)


def test_printed_is_every_equation_to_the_letter(rng):
    """Eq. 1 to 5, 9, 10 to 12 and 14, each by loops from what the network returns."""
    config = tiny.config("printed")
    assert config.train.clip_norm == 0
    model = FrozenConfigDict(config.model)
    (system,) = cmarr.make(model, MODALITIES, 3).stages
    network, batch = cmarr.CMARR(model, MODALITIES, 3), make_batch(rng)
    params = tiny.random_params(system, batch)
    params["params"]["log_temperature"] = jnp.float32(np.log(1.7))  # beyond the default's bounds
    available = batch.present.at[:, 2].set(False)
    key = jax.random.key(3)
    total, terms = objective(system)(params, batch, available, key)
    encoded, fused = network.apply(params, batch, available, rngs={"dropout": key})

    mu = np.asarray(encoded.utterance.mu, np.float64)
    sigma = np.exp(2 * np.asarray(encoded.utterance.log_sigma, np.float64))  # the variance
    present, udcl = np.asarray(batch.present), 0.0
    for n, m in ((0, 1), (0, 2), (1, 2)):
        both = np.flatnonzero(present[:, n] & present[:, m])
        for here, there in ((n, m), (m, n)):  # Eq. 2
            errors = []
            for i in both:
                similar = {}  # Eq. 5, over tau
                for k in both:
                    distance = np.sum((mu[here, i] - mu[there, k]) ** 2)
                    distance += np.sum((sigma[here, i] - sigma[there, k]) ** 2)  # Eq. 1
                    similar[k] = (-distance / 200 + 4) / 1.7
                whole = scipy.special.logsumexp(list(similar.values()))
                errors.append(whole - similar[i])  # Eq. 3 and 4
            udcl += np.mean(errors)
    np.testing.assert_allclose(terms["udcl"], udcl, rtol=1e-4)

    frobenius = []
    missing = np.asarray(batch.present & ~available)
    for i, m in np.argwhere(missing):
        valid = np.asarray(batch.mask[i])
        frobenius.append(np.sum((fused.recovered[m, i, valid] - encoded.x[m, i, valid]) ** 2))
    np.testing.assert_allclose(terms["rec"], np.mean(frobenius), rtol=1e-4)

    def rec(x):  # X alone moves, as nothing stops the gradient into it
        moved = encoded._replace(x=x)
        return cmarr.loss_terms(network, params, moved, fused, batch, available)["rec"]

    gradient = jax.grad(rec)(encoded.x)
    want = 2 * (encoded.x - fused.recovered) * batch.mask[None, :, :, None] / len(frobenius)
    want = np.where(missing.T[:, :, None, None], want, 0)
    np.testing.assert_allclose(gradient, want, atol=1e-6 * max(1, np.abs(want).max()))

    cross = params["params"]["fusion"]["cross_0"]["query"]["kernel"]
    assert cross.shape == (3, 16, 16)  # three blocks, not the two of Eq. 10 and 11
    assert params["params"]["fusion"]["classifier"]["kernel"].shape[0] == 16
    want = terms["cls"] + 1.0 * terms["udcl"] + 0.1 * terms["spcl"] + 10.0 * terms["rec"]
    np.testing.assert_allclose(total, want, rtol=1e-6)


def test_jit_changes_nothing(rng):
    system, params, batch = make_system(rng, modalities=("text", "speech"))

    def predict():
        encoded = system.encode(params, batch)
        return system.predict(params, encoded, batch.mask, batch.present).logits

    compiled = predict()
    with jax.disable_jit():
        np.testing.assert_allclose(predict(), compiled, atol=1e-5)


SWITCHES = {
    "umc.variant": "mlp",
    "umc.pool": "attn",
    "umc.entropy_weight": 0.01,
    "udcl.on": "point",
    "udcl.respect_mask": True,
    "udcl.reduce": "sum",
    "udcl.normalise_by_dim": False,
    "flow.input": "sample",
    "flow.scale": "sigmoid",
    "flow.permute": "none",
    "flow.nll_weight": 0.1,
    "rec.reduce": "sum",
    "spcl.on": "recovered",
    "fusion.variant": "concat",
    "fusion.pairs": ("text<-video", "speech<-video"),
}


def test_a_class_prior_shifts_the_likelihood_of_its_class_only(rng):
    """Open point 12: the latent's Gaussian may hang on the class; it is the likelihood's alone."""
    fields = {"flow.nll_weight": 0.1, "flow.prior": "class"}
    system, params, batch = make_system(rng, **fields)
    network = cmarr.CMARR(model_config(**fields), MODALITIES, 3)
    encoded = system.encode(params, batch)
    mu, log_sigma = (np.asarray(params["params"][f"prior_{n}"]) for n in ("mu", "log_sigma"))
    assert mu.shape == log_sigma.shape == (3, 16)
    nats = []
    for m, i in np.argwhere(np.asarray(batch.present.T)):
        y, valid = int(batch.labels[i]), np.asarray(batch.mask[i])
        z, log_det = np.asarray(encoded.z[m, i])[valid], np.asarray(encoded.log_det[m, i])[valid]
        density = scipy.stats.norm.logpdf(z, mu[y], np.exp(log_sigma[y])).sum(axis=-1)
        nats.append(-(density + log_det).mean() / 16)
    # Dropout moves the latents, so the terms are compared on the encoding without it.
    prior = network.apply(params, batch.labels, method="class_prior")
    masks = jnp.broadcast_to(batch.mask, encoded.x.shape[:3])
    ours = losses.gaussian_nll(encoded.z, encoded.log_det, masks, *prior)
    np.testing.assert_allclose(np.mean(ours[batch.present.T]), np.mean(nats), rtol=1e-4)
    unit = losses.gaussian_nll(encoded.z, encoded.log_det, masks)
    assert abs(np.mean(ours[batch.present.T]) - np.mean(unit[batch.present.T])) > 1e-4


@pytest.fixture(scope="module")
def base():
    system, params, batch = make_system(np.random.default_rng(0))
    return float(objective(system)(params, batch, batch.present.at[:, 1].set(False), KEY)[0])


@pytest.mark.parametrize("permute", ["swap", "glow"])
def test_class_prior_and_glow_run_in_the_loss(rng, permute):
    fields = {"flow.nll_weight": 0.1, "flow.prior": "class", "flow.permute": permute}
    system, params, batch = make_system(rng, **fields)
    step = jax.jit(jax.value_and_grad(objective(system), has_aux=True))
    (total, terms), gradients = step(params, batch, batch.present, KEY)
    assert np.isfinite(total) and "nll" in terms
    used = [np.abs(gradients["params"][f"prior_{n}"]).max() for n in ("mu", "log_sigma")]
    assert min(used) > 0 and all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("field", SWITCHES)
def test_every_open_points_switch_changes_the_loss(rng, base, field):
    system, params, batch = make_system(rng, **{field: SWITCHES[field]})
    loss = objective(system)(params, batch, batch.present.at[:, 1].set(False), KEY)[0]
    assert np.isfinite(loss) and abs(loss - base) > 1e-6


def test_gradients_are_finite_with_every_switch_thrown(rng):
    system, params, batch = make_system(rng, **SWITCHES)
    gradients = jax.jit(jax.grad(objective(system), has_aux=True))(
        params, batch, batch.present, KEY
    )[0]
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_gradient_stops_change_gradients_but_not_the_loss(rng):
    switches = {"flow.detach_inverse": True, "rec.stop_gradient_target": False}
    system, params, batch = make_system(rng)
    others = [
        make_system(np.random.default_rng(0), **{field: value})[0]
        for field, value in switches.items()
    ]
    args = (batch, batch.present.at[:, 1].set(False), jax.random.key(0))

    def step(system):
        value, gradient = jax.jit(jax.value_and_grad(objective(system), has_aux=True))(
            params, *args
        )
        return value[0], np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradient)])

    value, gradient = step(system)
    for other in others:
        same, changed = step(other)
        np.testing.assert_allclose(value, same, rtol=1e-6)
        assert np.abs(gradient - changed).max() > 1e-6


@pytest.mark.parametrize(
    "field, value",
    [
        ("umc.variant", "other"),
        ("width", 18),
        ("conv_kernel", 2),
        ("fusion.pairs", ("text-video",)),
    ],
)
def test_a_meaningless_field_is_named(field, value):
    with pytest.raises(UserError, match=field.split(".")[-1]):
        cmarr.make(model_config(**{field: value}), MODALITIES, 3)
