import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from cmarr_jax.nn.attention import AttentionBlock
from cmarr_jax.nn.dropout import Dropout
from cmarr_jax.nn.fusion import Fusion, parse_pairs
from cmarr_jax.nn.umc import masked_mean

pytestmark = pytest.mark.device

CONFIG = FrozenConfigDict(
    {
        "fusion": {
            "variant": "attention",
            "cross_layers": 2,
            "self_layers": 1,
            "num_heads": 2,
            "dropout": 0.1,
        },
        "classifier": {"layers": 1, "hidden": 6, "dropout": 0.3},
    }
)


@pytest.mark.parametrize(
    "modalities, pairs",
    [
        (("text", "speech"), (("text", "speech"),)),
        (("text", "speech", "video"), (("video", "text"), ("text", "speech"), ("text", "video"))),
    ],
)
def test_each_pair_has_blocks_of_its_own(rng, modalities, pairs):
    inputs = jnp.float32(rng.normal(size=(len(modalities), 3, 5, 8)))
    mask = jnp.arange(5)[None] < jnp.array([5, 3, 1])[:, None]
    fusion = Fusion(CONFIG, modalities, pairs, 4, lambda rate: functools.partial(Dropout, rate))
    params = jax.jit(fusion.init)(jax.random.key(0), inputs, mask)["params"]
    params = jax.tree.map(lambda p: p + np.float32(0.1 * rng.normal(size=p.shape)), params)

    alone = jax.jit(AttentionBlock(2, functools.partial(Dropout, 0.0)).apply)

    def block(weights, *given):
        return alone({"params": weights}, *given)

    named, streams = dict(zip(modalities, inputs, strict=True)), []
    for k, (query, key) in enumerate(pairs):
        stream = named[query]
        for n in range(2):
            if len(pairs) == 1:
                weights = params[f"cross_{query}_{key}_{n}"]
            else:
                weights = jax.tree.map(lambda leaf, k=k: leaf[k], params[f"cross_{n}"])
            stream = block(weights, stream, mask, named[key])
        streams.append(stream)
    mixed = block(params["self_0"], jnp.concatenate(streams, axis=-1), mask)
    hidden = np.asarray(masked_mean(mixed, mask))
    for name in ("Dense_0", "classifier"):
        weights = jax.tree.map(np.asarray, params[name])
        hidden = hidden @ weights["kernel"] + weights["bias"]
        hidden = np.maximum(hidden, 0) if name == "Dense_0" else hidden
    logits = jax.jit(fusion.apply)({"params": params}, inputs, mask)
    np.testing.assert_allclose(logits, hidden, atol=1e-5)
    assert np.abs(np.diff(logits, axis=0)).max() > 0.1


def test_each_is_every_two_modalities_once_and_text_queries():
    assert parse_pairs(("each",), ("text", "speech", "video")) == (
        ("text", "speech"),
        ("text", "video"),
        ("speech", "video"),
    )
    assert parse_pairs(("each",), ("speech", "text")) == (("text", "speech"),)
    assert parse_pairs(("each",), ("video",)) == parse_pairs((), ("video",)) == ()


def test_over_one_key_queries_and_keys_learn_nothing(rng):
    """Why "w/o attention" is refused where each modality is one vector."""
    modalities = ("text", "speech", "video")
    pairs = parse_pairs((), modalities)
    fusion = Fusion(CONFIG, modalities, pairs, 4, lambda rate: functools.partial(Dropout, rate))
    for length, learns in ((1, False), (3, True)):
        inputs = jnp.float32(rng.normal(size=(3, 2, length, 8)))
        mask = jnp.ones((2, length), bool)
        params = jax.jit(fusion.init)(jax.random.key(0), inputs, mask)
        weights = jnp.float32(rng.normal(size=(2, 4)))

        def score(params, inputs=inputs, mask=mask, weights=weights):
            return jnp.sum(weights * fusion.apply(params, inputs, mask))

        gradients = jax.jit(jax.grad(score))(params)["params"]
        for block in ("cross_0", "cross_1", "self_0"):
            for name in ("query", "key"):
                assert (gradients[block][name]["kernel"] != 0).any() == learns, (block, name)
            assert (gradients[block]["value"]["kernel"] != 0).any()
