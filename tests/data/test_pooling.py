import numpy as np
import pytest

from cmarr_jax.data import pooling


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 31, 100])
@pytest.mark.parametrize("target", [1, 8, 32])
def test_equals_pytorchs_adaptive_average_pooling_formula(rng, length, target):
    x = rng.normal(size=(length, 3)).astype(np.float32)
    want = [
        x[int(np.floor(i * length / target)) : int(np.ceil((i + 1) * length / target))].mean(0)
        for i in range(target)
    ]
    np.testing.assert_allclose(pooling.pool(x, target), want, atol=1e-6)


def test_an_absent_modality_is_zero():
    assert (pooling.pool(np.zeros((0, 3), np.float32), 4) == 0).all()
