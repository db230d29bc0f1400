import math
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.extract.models import deberta
from tests.extract.models.test_text_models import SHAPE, V2, V3, variables

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(__file__)), "golden")


def test_buckets_are_those_of_the_reference_implementation_at_every_distance():
    wanted = np.load(f"{GOLDEN}/buckets.npz")["deberta"]
    distances = np.arange(-511, 512)
    np.testing.assert_array_equal(deberta.bucketed(distances, 256, 512), wanted)
    np.testing.assert_array_equal(deberta.bucketed(distances, 0, 512), distances)
    near = np.abs(distances) <= 128
    np.testing.assert_array_equal(wanted[near], distances[near])
    assert wanted.min() == -255 and wanted.max() == 255


@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_what_stands_by_distance_comes_to_stand_by_key(length, rng):
    by_distance = rng.normal(size=(2, length, 2 * length - 1))
    aligned = jax.jit(deberta.align)(jnp.asarray(by_distance, jnp.float32))
    for i in range(length):
        for j in range(length):
            distances = list(range(length - 1, -length, -1))
            wanted = by_distance[:, i, distances.index(i - j)]
            np.testing.assert_allclose(aligned[:, i, j], wanted, rtol=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_attention_is_disentangled_as_the_paper_has_it(shared, rng):
    """The first layer beside naive loops over heads, queries and keys."""
    fields = SHAPE | V3 | ({} if shared else V2 | {"kernel": 0, "absolute": False})
    module = deberta.Deberta(dtype=jnp.dtype("float32"), **fields | {"num_layers": 1})
    ids, mask = jnp.int32(rng.integers(0, 50, (1, 7))), jnp.ones((1, 7), bool)
    params = variables(module, ids, mask)
    first, second = (np.float64(x[0]) for x in module.apply(params, ids, mask))
    p = jax.tree.map(np.float64, params["params"])
    layer = p["layer_0"]

    def dense(name, x):
        return x @ layer[name]["kernel"] + layer[name]["bias"]

    def norm(weights, x):
        x = x - x.mean(-1, keepdims=True)
        return (
            x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12) * weights["scale"] + weights["bias"]
        )

    rows = p["distances"]["embedding"]
    rows = norm(p["distance_norm"], rows) if shared else rows
    key_of, query_of = ("key", "query") if shared else ("distance_key", "distance_query")
    far_keys, far_queries = dense(key_of, rows), dense(query_of, rows)
    half = len(rows) // 2
    place = half + deberta.bucketed(
        np.arange(7)[:, None] - np.arange(7)[None], half if shared else 0, 16
    )
    q, k, v = (dense(name, first) for name in ("query", "key", "value"))
    mixed = np.zeros_like(first)
    for head in (slice(0, 8), slice(8, 16)):
        scores = np.zeros((7, 7))
        for i in range(7):
            for j in range(7):
                r = place[i, j]
                scores[i, j] = q[i, head] @ k[j, head]
                scores[i, j] += q[i, head] @ far_keys[r, head] + k[j, head] @ far_queries[r, head]
        weights = np.exp(scores / np.sqrt(3 * 8))
        mixed[:, head] = weights / weights.sum(-1, keepdims=True) @ v[:, head]
    x = norm(layer["attention_norm"], first + dense("out", mixed))
    erf = np.vectorize(math.erf)
    hidden = dense("expand", x)
    x = norm(
        layer["feed_forward_norm"], x + dense("contract", hidden * (1 + erf(hidden / 2**0.5)) / 2)
    )
    np.testing.assert_allclose(second, x, atol=2e-5)


class Scores(deberta.Deberta):
    """What embeddings of distances 3 to -3 that are all 1 add to the scores of tokens of 1."""

    row = np.array([4, 4, 3, 2, 1, 0, 0])  # in the table

    @nn.compact
    def __call__(self):
        ones = jnp.ones((2, 4, 1, self.features))
        project = dict.fromkeys(("key", "query"), lambda x: x)
        distances = jnp.ones((7, self.features))
        return self._disentangle(distances, self.row)(None, ones, ones, project)


def test_distances_of_one_row_of_the_table_drop_alike_and_in_all_texts():
    """A score counts the features that its distance has left."""
    fields = SHAPE | V3 | {"features": 512, "num_heads": 1, "hidden_dropout": 0.25}
    module = Scores(dtype=jnp.dtype("float32"), **fields)
    plain, dropped = (
        np.asarray(module.apply({}, rngs=rngs)) for rngs in ({}, {"dropout": jax.random.key(0)})
    )
    assert np.unique(plain).size == 1 and dropped.shape == (2, 1, 4, 4)
    np.testing.assert_array_equal(dropped[0], dropped[1])
    row = module.row[3 - np.subtract.outer(np.arange(4), np.arange(4))]
    by_row = [np.unique(dropped[0, 0][row == number]) for number in range(5)]
    assert [x.size for x in by_row] == [1] * 5 and np.unique(by_row).size > 2
    np.testing.assert_allclose(by_row / plain.max(), 1, atol=0.15)
