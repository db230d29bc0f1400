import dataclasses
import functools
import json
import os
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util

from cmarr_jax.errors import UserError
from cmarr_jax.extract import pretrained, text, upper, weights
from cmarr_jax.extract.upper import open_upper, upper_module
from tests.extract import real
from tests.extract.samples import SENTENCES

pytest.importorskip("safetensors")
GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
TEXT = (
    "bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "deberta-v2", "deberta-v2-xlarge",
)  # fmt: skip
SPEECH = (
    "wav2vec2", "wav2vec2_large", "hubert", "hubert_large", "wavlm", "wavlm_large",
    "data2vec_audio", "whisper",
)  # fmt: skip


@functools.cache
def opened(name, start=0, **options):
    return open_upper(f"{GOLDEN}/{name}", start, dtype="float32", **options)


@functools.cache
def whole(name):
    """The parameters of the whole model, its states of a padded batch, and the mask of them."""
    module, kind = opened(name).module, opened(name).kind
    tensors = upper.FAMILIES[kind].tensors(module)
    params = weights.load(pretrained.weights(f"{GOLDEN}/{name}"), module, tensors)
    rng = np.random.default_rng(0)
    if name in TEXT:
        mask = np.arange(7)[None] < np.array([7, 4, 2])[:, None]
        inputs = rng.integers(2, module.vocab_size, (3, 7)).astype(np.int32), mask
    else:
        # Whisper's silence is seen, unlike padding: whole windows.
        samples = 2 * module.window if name == "whisper" else 3_000
        lengths = np.array([samples] * 3 if name == "whisper" else [3_000, 1_700, 500], np.int32)
        inputs = rng.normal(size=(3, samples)).astype(np.float32), lengths
        frames = module.num_frames(lengths)
        mask = np.arange(module.num_frames(samples))[None] < frames[:, None]
    return params, jax.jit(module.apply)(params, *inputs), mask


@functools.cache
def states(features, seed=0):
    """Of two clips or texts and of one that is absent, `[3, 7, D]`, and the mask."""
    rng = np.random.default_rng(seed)
    mask = jnp.arange(7)[None] < jnp.array([7, 4, 0])[:, None]
    return jnp.float32(rng.normal(size=(3, 7, features))), mask


def flat(params):
    return flax.traverse_util.flatten_dict(params["params"], sep="/")


@pytest.mark.parametrize("name", [*TEXT, *SPEECH])
@pytest.mark.parametrize("start", [0, 1])
def test_from_each_state_on_the_layers_give_what_the_whole_model_gives(name, start):
    _, wanted, mask = whole(name)
    found = opened(name, start)
    got = jax.jit(functools.partial(found.module.apply, start=start))(
        found.params, wanted[start], mask
    )
    assert len(wanted) == 3 and len(got) == 3 - start  # each model here has two layers
    np.testing.assert_array_equal(got[0][mask], wanted[start][mask])
    for a, b in zip(got, wanted[start:], strict=True):
        assert a.dtype == jnp.float32 and a.shape == b.shape
        error = np.linalg.norm((a - b)[mask]) / np.linalg.norm(b[mask])
        assert error <= 1e-6


@pytest.mark.parametrize("name", [*TEXT, *SPEECH])
@pytest.mark.parametrize("start", [0, 1])
def test_the_parameters_are_those_of_the_whole_model_that_the_layers_need(name, start):
    every, found = flat(whole(name)[0]), opened(name, start)
    ours = flat(found.params)
    shared = {
        "mpnet": ["distances"],
        "deberta-v2": ["distances", "distance_norm"],
        "deberta-v2-xlarge": ["distances"] + ["convolution", "convolution_norm"] * (start == 0),
    }.get(name, ["norm"] if "large" in name or name == "whisper" else [])
    if "wavlm" in name:
        shared = [*shared, "attention_bias/buckets"]
        shared += [f"attention_bias/{x}_{k}" for x in ("gate", "scale") for k in range(start, 2)]
    wanted = {
        path
        for path in every
        if path.startswith(tuple(f"layer_{k}/" for k in range(start, 2)))
        or path in shared
        or path.rpartition("/")[0] in shared
    }
    assert ours.keys() == wanted < every.keys()
    for path, value in ours.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, every[path])


def loss_of(found, mask, aim, **rngs):
    """A smooth number that all states of the valid positions enter."""

    def loss(params, x):
        got = found.module.apply(params, x, mask, start=found.start, rngs=rngs)
        return sum(jnp.sum(jnp.where(mask[..., None], jnp.tanh(s) * aim, 0)) for s in got)

    return loss


@pytest.mark.parametrize("name", [*TEXT, *SPEECH])
def test_padding_is_inert_in_values_and_gradients(name):
    found = opened(name)
    x, mask = states(found.module.features)
    loss = jax.jit(jax.value_and_grad(loss_of(found, mask, states(16, 1)[0]), (0, 1)))
    value, gradients = loss(found.params, x)
    other, others = loss(found.params, jnp.where(mask[..., None], x, 99.0))
    assert value == other
    jax.tree.map(np.testing.assert_array_equal, gradients, others)
    assert not np.any(gradients[1][~mask]) and np.all(np.any(gradients[1][mask], axis=-1))
    for path, gradient in flat(gradients[0]).items():
        assert np.isfinite(gradient).all() and np.any(gradient), path


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("name", ["bert", "wav2vec2", "wav2vec2_large"])
def test_gradients_are_those_of_differences(name, drops):
    found = opened(name)
    x, mask = states(16)
    rngs = {"dropout": jax.random.key(0)} if drops else {}
    loss = jax.jit(loss_of(found, mask, states(16, 1)[0], **rngs))
    test_util.check_grads(loss, (found.params, x), 1, ["rev"], atol=0.02, rtol=0.005, eps=1e-3)


@pytest.mark.parametrize("name", ["mpnet", "deberta-v2-xlarge", "wavlm_large"])
def test_recomputed_layers_drop_the_same_and_have_the_same_gradients(name):
    found = opened(name)
    rates = {"hidden_dropout": 0.25, "attention_dropout": 0.25}
    found = found._replace(module=found.module.clone(**rates))
    x, mask = states(16)
    again = found._replace(module=found.module.clone(recompute=True))
    key = jax.random.key(0)
    values = []
    for each, layers in ((found, 0), (again, 2)):
        loss = loss_of(each, mask, states(16, 1)[0], dropout=key)
        values.append(jax.jit(jax.value_and_grad(loss, (0, 1)))(found.params, x))
        program = jax.make_jaxpr(loss)(found.params, x)
        assert sum(e.primitive.name in ("checkpoint", "remat2") for e in program.eqns) == layers
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), *values)
    shapes = [
        jax.eval_shape(functools.partial(each.module.init, start=0), key, x, mask)
        for each in (found, again)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["deberta-v2-xlarge", "whisper"])
def test_a_batch_cut_over_two_devices_gives_the_same_states(name):
    """Whisper's clips here are of more than a window, so that a row is several."""
    found = opened(name)
    rates = {"hidden_dropout": 0.25, "attention_dropout": 0.25}
    frames = 2 * found.module.num_positions + 3 if name == "whisper" else 7
    rng = np.random.default_rng(0)
    x = jnp.float32(rng.normal(size=(4, frames, 16)))
    mask = jnp.arange(frames)[None] < jnp.array([frames, 4, 2, frames - 1])[:, None]

    def run(x, mask, axis=None, seed=0):
        module = found.module.clone(**rates, batch_axis=axis)
        rngs = {"dropout": jax.random.key(seed)}
        return module.apply(found.params, x, mask, start=0, rngs=rngs)

    cut = jax.pmap(functools.partial(run, axis="d"), axis_name="d")
    halves = cut(x.reshape(2, 2, frames, 16), mask.reshape(2, 2, frames))
    one = jax.jit(run)(x, mask)
    for half, state in zip(halves, one, strict=True):
        np.testing.assert_allclose(half.reshape(state.shape)[mask], state[mask], atol=2e-5)
    other = jax.jit(functools.partial(run, seed=1))(x, mask)
    assert not np.allclose(one[-1][mask], other[-1][mask], atol=0.1)


def test_whispers_clips_of_more_than_a_window_are_encoded_window_by_window():
    """And of the last window the frames of the clip alone, whatever pads them."""
    found = opened("whisper")
    window = found.module.num_positions
    rng = np.random.default_rng(0)
    x = jnp.float32(rng.normal(size=(2, 2 * window + 5, 16)))
    lengths = jnp.array([2 * window + 5, window + 3])
    run = jax.jit(functools.partial(found.module.apply, found.params, start=0))
    got = run(x, jnp.arange(x.shape[1])[None] < lengths[:, None])
    assert {s.shape for s in got} == {x.shape}
    for row, first, last in (
        (0, 0, window),
        (0, 2 * window, 2 * window + 5),
        (1, window, window + 3),
    ):
        alone = run(x[row : row + 1, first:last], jnp.ones((1, last - first), bool))
        for a, b in zip(got, alone, strict=True):
            np.testing.assert_allclose(a[row, first:last], b[0], atol=5e-6)


def test_what_goes_into_the_first_layer_is_dropped_and_into_another_not():
    """As published, after the embeddings; layers whose branches give 0 pass it on."""
    found = opened("wav2vec2_large")
    module = found.module.clone(hidden_dropout=0.25)
    params = jax.tree.map(jnp.zeros_like, found.params)
    x, mask = jnp.ones((8, 100, 16)), jnp.ones((8, 100), bool)
    rngs = {"dropout": jax.random.key(0)}
    first, second, _ = module.apply(params, x, mask, start=0, rngs=rngs)
    np.testing.assert_array_equal(first, x)
    assert (second == 0).mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(second[second != 0], 1 / 0.75, rtol=1e-6)
    params["params"]["norm"]["bias"] += 1
    np.testing.assert_array_equal(module.apply(params, x, mask, start=1, rngs=rngs)[1], x)


RATES = {  # fields of a config: of the branches, of attention's weights, after the activation
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "distilbert": ("dropout", "attention_dropout"),
    "whisper": ("dropout", "attention_dropout", "activation_dropout"),
    "wav2vec2": ("hidden_dropout", "attention_dropout", "activation_dropout"),
}


@pytest.mark.parametrize("name", [*TEXT, *SPEECH])
def test_rates_of_dropout_are_as_published(name):
    found = opened(name)
    like = name if name in RATES else "bert" if name in TEXT else "wav2vec2"
    rates = dict(zip(RATES[like], (0.25, 0.5, 0.125), strict=False))
    assert rates.keys() <= found.config.keys()
    module = upper_module(found.kind, found.config | rates, dtype="float32")
    assert (module.hidden_dropout, module.attention_dropout) == (0.25, 0.5)
    assert getattr(module, "activation_dropout", 0.125) == 0.125
    assert getattr(module, "drop_attended", True) == (name != "distilbert")
    for wrong in (1, -0.1, "0.1", None, True):
        with pytest.raises(UserError, match=rf"config.json: {RATES[like][0]} is .* wanted a rate"):
            upper_module(found.kind, found.config | {RATES[like][0]: wrong}, dtype="float32")


@pytest.mark.parametrize("name", [*TEXT, *SPEECH])
def test_the_module_is_made_again_from_its_config_in_json(name):
    found = opened(name, recompute=True, batch_axis="d")
    config = json.loads(json.dumps(found.config))
    again = upper_module(found.kind, config, dtype="float32", recompute=True, batch_axis="d")
    assert again == found.module and again.recompute and again.batch_axis == "d"
    assert again != upper_module(found.kind, config, dtype="bfloat16")
    assert found.sha256 == pretrained.hashes(f"{GOLDEN}/{name}")
    assert dataclasses.is_dataclass(again) and found.start == 0


def test_in_bfloat16_the_states_are_float32_and_near():
    exact, half = opened("bert"), open_upper(f"{GOLDEN}/bert", 0, dtype="bfloat16")
    x, mask = states(16)
    a, b = (m.module.apply(exact.params, x, mask, start=0)[-1][mask] for m in (exact, half))
    assert b.dtype == jnp.float32 and jax.tree.leaves(half.params)[0].dtype == np.float32
    assert 1e-4 < np.linalg.norm(a - b) / np.linalg.norm(a) < 5e-2


@pytest.mark.parametrize("start", [-1, 2, 12])
def test_a_state_that_no_layer_follows_is_refused(start):
    wanted = rf"^from_layer={start}: wanted 0 to 1, .*golden/bert's layers$"
    with pytest.raises(UserError, match=wanted):
        open_upper(f"{GOLDEN}/bert", start, dtype="float32")
    x, mask = states(16)
    with pytest.raises(ValueError, match=re.escape(f"start is {start}, wanted 0 to 1")):
        opened("bert").module.apply(opened("bert").params, x, mask, start=start)


@pytest.mark.parametrize("name", ["vit", "clip", "dinov2"])
def test_a_vision_model_is_refused(name):
    with pytest.raises(UserError, match=rf"{name}/config.json: model_type is '{name}'.* patches "):
        open_upper(f"{GOLDEN}/{name}", 0, dtype="float32")


def test_a_published_models_upper_half_goes_on_where_its_lower_half_ends(tmp_path):
    """MiniLM on sentences, as extraction gives states 3 and 6, padded to one length."""
    model = real.minilm(tmp_path)
    found = open_upper(model, 3, dtype="float32")
    packs = []
    for layers in ("3", "6"):
        source = text.source(
            model, keep_special_tokens=True, max_length=None, dtype="float32", layers=layers
        )
        items = [source.load(_utterance(t)).item for t in SENTENCES]
        packs.append([source.encode(source.bucket(i), [i])[0] for i in items])
    length = max(map(len, packs[0]))
    x = np.zeros((len(items), length, 384), np.float32)
    mask = np.zeros(x.shape[:2], bool)
    for row, vectors in enumerate(packs[0]):
        x[row, : len(vectors)], mask[row, : len(vectors)] = vectors, True
    got = jax.jit(functools.partial(found.module.apply, start=3))(found.params, x, mask)
    assert len(got) == 4
    for row, vectors in enumerate(packs[1]):
        np.testing.assert_allclose(got[-1][row, : len(vectors)], vectors, atol=1e-5)


def _utterance(transcript):
    return text.Utterance("u", "1", "1F", "", "g", transcript, None, None, None, None, None)
