"""What is lost, against loops over utterances, modalities and frames."""

import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.data import missing
from cmarr_jax.errors import UserError

MODALITIES = ("text", "speech", "video")


def frames(rng, num=300, length=9):
    """Presence `[N, M]` and mask `[N, T]`, every utterance with something."""
    present = rng.random((num, 3)) > 0.2
    present[:, 0] |= ~present.any(axis=1)
    return present, np.arange(length)[None] < rng.integers(1, length + 1, (num, 1))


def naive_keep(luck, there, rates):
    """Lost where the number is below the rate; the closest stays if nothing else does."""
    kept = np.zeros(there.shape, bool)
    for i, has in enumerate(there):
        margins = {k: luck[i, k] - rates[k] for k in np.flatnonzero(has)}
        left = [k for k, margin in margins.items() if margin >= 0]
        for k in left or [max(margins, key=margins.get)] * bool(margins):
            kept[i, k] = True
    return kept


@pytest.mark.parametrize("rates", [(0.3, 0.3, 0.3), (0.1, 0.5, 0.0), (0.9, 0.9, 0.9)])
def test_modalities_are_lost_at_their_rates_and_one_stays(rng, rates):
    present = frames(rng)[0]
    luck, rates = rng.random(present.shape), np.array(rates)
    kept = missing.keep(luck, present, rates)
    np.testing.assert_array_equal(kept, naive_keep(luck, present, rates))
    assert kept.any(axis=1).all() and not (kept & ~present).any()
    on_device = missing.keep(jnp.float32(luck), jnp.array(present), jnp.float32(rates)[None])
    np.testing.assert_array_equal(on_device, kept)
    assert not missing.keep(luck, np.zeros_like(present), rates).any()


def test_missing_rates_nest_spare_the_last_modality_and_hit_their_rate():
    present, mask = np.ones((4000, 3), bool), np.ones((4000, 1), bool)
    present[:100, 1:] = False
    curves = missing.make_curves(
        present, mask, missing_rates=(0, 0.3, 0.7), noise_levels=(0.5,), rates={"0.3": 0.3}
    )
    names = [c.name for c in curves]
    assert names == [
        *("missing=0", "missing=0.3", "missing=0.7", "rates=0.3"),
        *("gaussian=0.5", "impulse=0.5"),
    ]
    none, some, many, same = (c.available for c in curves[:4])
    assert (none & present == present).all()
    assert not (many & present & ~some).any()  # what is missing stays missing
    for available in (some, many):
        assert (available & present).any(axis=1).all()
    # P(lost) = r less the one that is given back where all three would go: r - r^3 / 3.
    np.testing.assert_allclose(1 - some[100:].mean(), 0.3 - 0.3**3 / 3, atol=0.01)
    np.testing.assert_allclose(1 - many[100:].mean(), 0.7 - 0.7**3 / 3, atol=0.01)
    again = missing.make_curves(present, mask, missing_rates=(0.3,))
    np.testing.assert_array_equal(again[0].available, some)
    np.testing.assert_array_equal(same, some)


def test_the_draw_of_missing_rates_is_what_published_results_used(rng):
    """The rule that stood here before rates of each modality's own."""
    present, mask = frames(rng)
    luck = np.where(present, np.random.default_rng(0).random(present.shape), -1.0)
    last = luck == luck.max(axis=1, keepdims=True)
    for condition in missing.make_curves(present, mask, missing_rates=(0.1, 0.5, 0.9)):
        rate = float(condition.name.partition("=")[2])
        np.testing.assert_array_equal(condition.available, ((luck >= rate) | last) & present)


@pytest.mark.parametrize("kind", ["frames", "spans"])
def test_frames_are_lost_at_their_rate_nest_and_leave_one(rng, kind):
    present, mask = frames(rng, num=3000, length=16)
    rates = (0, 0.2, 0.5, 0.9)
    curves = missing.make_curves(present, mask, **{f"{kind[:-1]}_rates": rates})
    assert [c.name for c in curves] == [f"{kind}={r:g}" for r in rates]
    there = mask[:, None] & present[:, :, None]
    assert not curves[0].lost.any() and (curves[0].available == present).all()
    for before, after, rate in zip(curves, curves[1:], rates[1:], strict=False):
        assert not (before.lost & ~after.lost).any() and not (after.lost & ~there).any()
        left = there & ~after.lost
        assert left.any(axis=(1, 2)).all()
        np.testing.assert_array_equal(after.available, left.any(axis=2))  # all lost = missing
        many = mask.sum(axis=1) > 2
        share = after.lost[many].sum() / there[many].sum()
        np.testing.assert_allclose(share, rate, atol=0.02)
    again = missing.make_curves(present[:7], mask[:7], **{f"{kind[:-1]}_rates": (0.5,)})
    np.testing.assert_array_equal(again[0].lost.shape, (7, 3, 16))


def test_frames_against_a_loop(rng):
    present, mask = frames(rng)
    (condition,) = missing.make_curves(present, mask, frame_rates=(0.7,))
    luck = np.random.default_rng([0, 1]).random((len(mask), 3, 9), np.float32)
    for i in range(len(mask)):
        valid = [(m, t) for m in range(3) for t in range(9) if present[i, m] and mask[i, t]]
        left = [at for at in valid if luck[i][at] >= np.float32(0.7)]
        left = left or [max(valid, key=lambda at: luck[i][at])]
        for at in valid:
            assert condition.lost[i][at] == (at not in left)


def test_a_span_is_one_block_of_its_length_and_grows_both_ways(rng):
    """Against the block that a loop cuts at the same place: as long, and about the same point."""
    mask = np.arange(12)[None] < rng.integers(1, 13, (200, 1))
    place, rounding = rng.random((2, 200, 1))
    luck = missing.span_luck(place, rounding, mask)
    on_device = missing.span_luck(jnp.float32(place), jnp.float32(rounding), jnp.array(mask))
    for rate in (0.0, 0.25, 0.5, 0.9):
        for i in range(200):
            count = mask[i].sum()
            length = int(np.floor(rate * count + rounding[i, 0]))
            lost = np.flatnonzero((luck[i] < rate) & mask[i])
            assert len(lost) == length
            if length:
                assert lost[-1] - lost[0] == length - 1
                # Shares of what is left in front and behind are as the place says, to a frame.
                assert abs(lost[0] - place[i, 0] * (count - length)) <= 1
            assert (
                abs(len(np.flatnonzero((np.asarray(on_device)[i] < rate) & mask[i])) - length) < 2
            )


def test_what_is_dropped_is_drawn_once_from_its_seed(rng):
    present = np.ones((4000, 3), bool)
    present[:50, 2] = False
    rates = np.array([0.1, 0.5, 0.0])
    dropped = missing.drop(present, rates, 0)
    np.testing.assert_array_equal(missing.drop(present, rates, 0), dropped)
    assert (missing.drop(present, rates, 1) != dropped).any()
    np.testing.assert_allclose(dropped.mean(axis=0), rates, atol=0.03)
    assert (present & ~dropped).any(axis=1).all() and not (dropped & ~present).any()
    luck = np.random.default_rng([0, 4]).random(present.shape)
    np.testing.assert_array_equal(present & ~dropped, naive_keep(luck, present, rates))


@pytest.mark.parametrize(
    "text, want, shown",
    [
        ("0.3", (0.3, 0.3, 0.3), "t0.3+s0.3+v0.3"),
        ("s0.5+t0.1", (0.1, 0.5, 0), "t0.1+s0.5"),
        ("v0", (0, 0, 0), "0"),
    ],
)
def test_rates_are_read_and_shown(text, want, shown):
    rates = missing.parse_rates(text, MODALITIES, "masking.rates")
    np.testing.assert_allclose(rates, want)
    assert missing.rates_text(rates, MODALITIES) == shown


@pytest.mark.parametrize(
    "text",
    ["1.0", "-0.1", "nan", "x0.5", "t0.1+t0.2", "t", "t0.1+", "0.1+0.2", "t0.1,s0.5", "t1.5"],
)
def test_odd_rates_are_one_line(text):
    with pytest.raises(UserError) as error:
        missing.parse_rates(text, MODALITIES, "masking.rates")
    said = str(error.value)
    assert said.startswith(f"--config.masking.rates={text}: wanted") and "t0.1+s0.2+v0.3" in said
