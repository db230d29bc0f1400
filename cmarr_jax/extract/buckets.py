"""Padded lengths: so few that a corpus compiles in a minute, so close that padding is little.

Speech lengths grow by a quarter from 2 s: on lengths distributed as IEMOCAP's, 14 shapes and
14 % of padding up to 30 s, where one shape a clip would be 5,387.
"""

import bisect
import math
from collections.abc import Sequence

_TOKENS = (16, 32, 64, 128, 512)
_FIRST_SECONDS = 2.0
_RATIO = 1.25


def tokens(max_length: int) -> tuple[int, ...]:
    """Padded lengths for texts of up to `max_length` tokens, ascending."""
    return (*(t for t in _TOKENS if t < max_length), max_length)


def samples(max_length: int, rate: int, window: int = 1) -> tuple[int, ...]:
    """Padded lengths for clips of up to `max_length` samples at `rate` Hz, ascending.

    Each is a multiple of `window`.
    """
    steps = math.log(max(max_length / (_FIRST_SECONDS * rate), 1), _RATIO)
    rungs = (round(rate * _FIRST_SECONDS * _RATIO**k) for k in range(math.ceil(steps)))
    lengths = (*(r for r in rungs if r < max_length), max_length)
    return tuple(sorted({-(-length // window) * window for length in lengths}))


def smallest(ladder: Sequence[int], length: int) -> int:
    """The smallest padded length of `ladder` that is at least `length`."""
    return ladder[bisect.bisect_left(ladder, length)]


def batch_size(bucket: int, budget: int) -> int:
    """How many rows of length `bucket` fit in `budget`, in the same unit; at least one."""
    return max(1, budget // bucket)
