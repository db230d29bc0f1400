"""CM-ARR+: its logits and its loss from its own parts; the rest stands in test_baselines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from ml_collections import FrozenConfigDict

from cmarr_jax.errors import UserError
from cmarr_jax.systems import cmarr, cmarr_plus
from cmarr_jax.systems.system import objective
from tests import tiny
from tests.conftest import DIMS
from tests.systems.test_baselines import SMALL as SMALL_OF
from tests.systems.test_baselines import make_batch

KEY = jax.random.key(0)
SMALL = SMALL_OF["cmarr_plus"]


def make_stage(batch, **fields):
    config = FrozenConfigDict(tiny.config("cmarr_plus", **(SMALL | fields)).model)
    (stage,) = cmarr_plus.make(config, tuple(DIMS), 3).stages
    return stage, tiny.random_params(stage, batch), config


def parts(params, config, batch, available, key=None):
    """CM-ARR and the heads apart, by their own modules."""
    keys = jax.random.split(KEY if key is None else key)
    rngs = [{} if key is None else {"dropout": k} for k in keys]
    own = {name: {"params": params["params"][name]} for name in ("cmarr", "heads")}
    network = cmarr.CMARR(config, tuple(DIMS), 3)
    heads = cmarr_plus.Heads(config.heads, tuple(DIMS), 3)

    @jax.jit
    def apply(batch, available):
        made = network.apply(own["cmarr"], batch, available, rngs=rngs[0])
        return made, heads.apply(own["heads"], batch, rngs=rngs[1])

    return network, own["cmarr"], *apply(batch, available)


@pytest.mark.parametrize("fusion", ["always", "several", "never"])
def test_logits_are_the_sum_of_the_available_experts(rng, fusion):
    heads, fused = (np.float32(rng.normal(size=s)) for s in ((3, 6, 4), (6, 4)))
    available = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [1, 1, 1]], bool)
    want = np.zeros((6, 4))
    for i in range(6):
        want[i] += sum(heads[m, i] for m in range(3) if available[i, m])
        if fusion == "always" or (fusion == "several" and i > 2):
            want[i] += fused[i]
    logits = jnp.array(heads), jnp.array(fused)
    made = cmarr_plus.combine(*logits, jnp.array(available), fusion)
    np.testing.assert_allclose(made, want, atol=1e-6)


def test_each_head_reads_the_mean_of_its_modality(rng):
    batch = make_batch(rng)
    heads = cmarr_plus.Heads(
        FrozenConfigDict(tiny.config("cmarr_plus").model).heads, tuple(DIMS), 3
    )
    shapes = jax.eval_shape(heads.init, KEY, batch)
    params = jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), shapes)
    logits = heads.apply(params, batch)  # not jitted
    for m, name in enumerate(DIMS):
        p = params["params"][name]
        for i in range(6):
            x = np.asarray(batch.features[name])[i, np.asarray(batch.mask[i])].mean(axis=0)
            if name == "text":
                hidden = np.sqrt(2) * np.cos(x @ p["frequencies"] + p["phases"])
            else:
                hidden = np.maximum(x @ p["hidden"]["kernel"] + p["hidden"]["bias"], 0)
            want = hidden @ p["classifier"]["kernel"] + p["classifier"]["bias"]
            np.testing.assert_allclose(logits[m, i], want, rtol=1e-3, atol=1e-3)


def test_it_predicts_the_sum_of_its_parts_and_recovers_as_cmarr(rng):
    batch = make_batch(rng)
    stage, params, config = make_stage(batch)
    available = batch.present.at[3:, 1:].set(False)

    @jax.jit
    def predict(params):
        return stage.predict(params, stage.encode(params, batch), batch.mask, available)

    prediction = predict(params)
    _, _, (encoded, fused), heads = parts(params, config, batch, available)
    logits = cmarr_plus.combine(heads, fused.logits, available, config.heads.fusion)
    np.testing.assert_allclose(prediction.logits, logits, atol=1e-4)
    np.testing.assert_allclose(prediction.recovered, fused.inputs, atol=1e-4)  # X if not missing
    np.testing.assert_allclose(prediction.target, encoded.x, atol=1e-4)


def test_the_loss_is_cmarrs_and_each_heads_cross_entropy_with_what_it_is_taught(rng):
    batch = make_batch(rng)._replace(weights=jnp.float32(rng.uniform(0.5, 2, size=6)))
    fields = {"model.heads.distillation": 0.3, "model.heads.fusion": "always"}
    stage, params, config = make_stage(batch, **fields)
    available = batch.present.at[3:, 1:].set(False)
    total, terms = jax.jit(objective(stage))(params, batch, available, KEY)
    made = parts(params, config, batch, available, KEY)
    network, own, (encoded, fused), heads = made
    has = np.asarray(available).T[:, :, None]
    together = np.asarray(fused.logits) + np.sum(np.where(has, heads, 0), axis=0)
    posterior = scipy.special.softmax(together, axis=-1)
    share, want = 0.3, 0.0
    for m in range(3):
        rows = [i for i in range(6) if batch.present[i, m]]
        errors = []
        for i in rows:
            log_posterior = scipy.special.log_softmax(np.asarray(heads[m, i]))
            error = -log_posterior[batch.labels[i]]
            if available[i, m]:
                error = (1 - share) * error - share * posterior[i] @ log_posterior
            errors.append(error)
        want += np.average(errors, weights=np.asarray(batch.weights)[rows])
    np.testing.assert_allclose(terms["heads"], want, rtol=1e-4)
    fused = fused._replace(logits=jnp.float32(together))
    theirs = jax.jit(lambda *made: cmarr.loss_terms(network, own, *made, batch, available))(
        encoded, fused
    )
    np.testing.assert_allclose(terms["cls"], theirs["cls"], rtol=1e-4)
    weights = cmarr.loss_weights(network.config)
    theirs = sum(weights.get(name, 1) * float(term) for name, term in theirs.items())
    np.testing.assert_allclose(total, theirs + want, rtol=1e-4)


def test_what_teaches_a_head_is_a_constant(rng):
    """Distillation moves no parameter but the heads' own."""
    batch = make_batch(rng)
    stage, params, _ = make_stage(batch)

    def taught(params):
        return stage.loss(params, batch, batch.present, KEY)["heads"]

    gradients = jax.jit(jax.grad(taught))(params)["params"]
    assert all((g == 0).all() for g in jax.tree.leaves(gradients["cmarr"]))
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients["heads"]))


def test_a_meaningless_field_is_named():
    with pytest.raises(UserError, match="fusion=other"):
        make_stage(None, **{"model.heads.fusion": "other"})
