import os

import numpy as np

from cmarr_jax.extract.models import mpnet

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(__file__)), "golden")


def test_buckets_are_those_of_the_reference_implementation_at_every_distance():
    wanted = np.load(f"{GOLDEN}/buckets.npz")["mpnet"]  # of keys 511 before to 511 after the query
    table = mpnet.buckets(512)
    for row in (0, 17, 300, 511):
        np.testing.assert_array_equal(table[row], wanted[511 - row : 1023 - row])
    assert table.dtype == np.int32 and {*table.flat} == {*wanted.tolist()} == {*range(32)} - {16}
