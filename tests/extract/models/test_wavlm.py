import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.extract.models.wavlm import GatedPositions, bucket_of_distance

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(__file__)), "golden", "wavlm")


def test_the_published_models_buckets_are_torchs_at_every_distance_of_a_minute():
    """Distances from -1,500 to 1,499 frames; one on the edge of two buckets would show."""
    wanted = np.load(os.path.join(GOLDEN, "expected.npz"))["buckets"]
    np.testing.assert_array_equal(bucket_of_distance(1_501, 320, 800)[1:-1], wanted[1:])
    assert len(set(wanted)) == 319  # a half's distance 0 is in the other half


def test_the_bias_is_the_gate_times_the_number_of_the_distances_bucket(rng):
    module = GatedPositions(num_heads=2, num_buckets=8, max_distance=6)
    x = jnp.float32(rng.normal(size=(3, 9, 10)))
    params = jax.eval_shape(lambda key: module.init(key, 1, x), jax.random.key(0))
    params = jax.tree.map(lambda s: jnp.float32(rng.normal(size=s.shape)), params)
    bias = module.apply(params, 1, x)
    p = params["params"]
    number = bucket_of_distance(9, 8, 6)
    for b, h, q, k in ((0, 0, 0, 0), (1, 1, 8, 0), (2, 0, 3, 5), (2, 1, 0, 8)):
        features = x[b, q].reshape(2, 5)[h]
        pieces = features @ p["gate_1"]["kernel"] + p["gate_1"]["bias"]
        first, second = 1 / (1 + np.exp(-pieces.reshape(2, 4).sum(axis=1)))
        gate = first * (second * p["scale_1"][0, h, 0, 0] - 1) + 2
        wanted = gate * p["buckets"]["embedding"][number[k - q + 8], h]
        assert bias[b, h, q, k] == pytest.approx(float(wanted), rel=1e-5)
