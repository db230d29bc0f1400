import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmarr_jax.extract import buckets

RATE = 16_000


def test_text_and_speech_of_any_corpus_need_fewer_than_20_shapes():
    assert len(buckets.tokens(512)) + len(buckets.samples(30 * RATE, RATE)) < 20


def test_a_corpus_of_iemocaps_lengths_is_padded_by_less_than_a_fifth(rng):
    seconds = np.clip(rng.lognormal(np.log(3.7), 0.65, 5_531), 0.58, 30)
    ladder = buckets.samples(30 * RATE, RATE)
    padded = [buckets.smallest(ladder, round(s * RATE)) for s in seconds]
    assert 1 < sum(padded) / sum(seconds * RATE) < 1.2


@given(length=st.integers(1, 512), most=st.integers(3, 512))
def test_a_text_gets_the_least_length_that_holds_it(length, most):
    ladder = buckets.tokens(most)
    length = min(length, most)
    bucket = buckets.smallest(ladder, length)
    assert bucket == min(t for t in (16, 32, 64, 128, 512, most) if length <= t <= most)


@given(length=st.integers(400, 60 * RATE), seconds=st.floats(1, 60))
def test_a_clip_is_padded_by_a_quarter_at_most_beyond_two_seconds(length, seconds):
    ladder = buckets.samples(round(seconds * RATE), RATE)
    length = min(length, ladder[-1])
    assert ladder[-1] == round(seconds * RATE) and list(ladder) == sorted(set(ladder))
    bucket = buckets.smallest(ladder, length)
    assert length <= bucket <= max(2 * RATE, 1.25 * length + 1)


@pytest.mark.parametrize("bucket, rows", [(16, 32), (128, 4), (512, 1), (1_000, 1)])
def test_a_batch_fills_its_budget_and_is_never_empty(bucket, rows):
    assert buckets.batch_size(bucket, 512) == rows


def test_lengths_of_a_windowed_model_are_whole_windows():
    assert buckets.samples(560_000, 16_000, 480_000) == (480_000, 960_000)
    assert buckets.samples(480_000, 16_000, 480_000) == (480_000,)
    assert buckets.samples(560_000, 16_000, 1) == buckets.samples(560_000, 16_000)
