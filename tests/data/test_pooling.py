import numpy as np
import pytest

from cmarr_jax.data import pooling

LENGTHS, TARGETS = [1, 2, 7, 8, 9, 31, 100], [1, 8, 32]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("target", TARGETS)
def test_equals_pytorchs_adaptive_average_pooling_formula(rng, length, target):
    x = rng.normal(size=(length, 3)).astype(np.float32)
    want = [
        x[int(np.floor(i * length / target)) : int(np.ceil((i + 1) * length / target))].mean(0)
        for i in range(target)
    ]
    np.testing.assert_allclose(pooling.fix_length(x, target), want, atol=1e-6)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("target", TARGETS)
def test_interpolates_as_numpy_does_at_the_middle_of_equal_parts(rng, length, target):
    x = rng.normal(size=(length, 3)).astype(np.float32)
    places = (np.arange(target) + 0.5) / target * length - 0.5
    want = np.stack([np.interp(places, np.arange(length), column) for column in x.T], axis=1)
    np.testing.assert_allclose(pooling.fix_length(x, target, "interp"), want, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 9])
def test_mean_and_maximum_stand_beside_each_other(rng, length):
    x = rng.normal(size=(length, 3)).astype(np.float32)
    fixed = pooling.fix_length(x, 1, statistics="mean_max")
    np.testing.assert_allclose(fixed, [np.concatenate([x.mean(0), x.max(0)])], atol=1e-6)
    assert (pooling.fix_length(x[:0], 1, statistics="mean_max") == np.zeros((1, 6))).all()


@pytest.mark.parametrize("kind", pooling.KINDS)
def test_an_absent_modality_is_zero(kind):
    fixed = pooling.fix_length(np.zeros((0, 3), np.float32), 4, kind)
    assert fixed.shape == (4, 3) and (fixed == 0).all()
