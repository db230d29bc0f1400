"""What of an utterance is lost: one rule for tests, for training, and for a training set's gaps.

A modality or a frame is lost where its uniform number is below its rate, so that what is lost at
one rate is lost at every higher one. An utterance never loses everything: what came closest stays.
`keep`, `keep_frames` and `span_luck` take arrays of NumPy and of JAX alike.

A lost frame is a position, after `data.length` and `data.align`, whose normalised features are
zero, their mean: systems share one mask over time, which a loss in one modality cannot change.
Zeros are how missing frames are simulated since Yuan et al., Transformer-based Feature
Reconstruction Network for Robust Multimodal Sentiment Analysis, ACM Multimedia 2021.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from cmarr_jax.data.protocol import Condition
from cmarr_jax.errors import UserError

Array: TypeAlias = Any  # jax.Array in a program, np.ndarray on the host

_RATE = re.compile(r"([^\d.+]+)(.+)")


def parse_rates(text: str, modalities: Sequence[str], flag: str) -> np.ndarray:
    """Rates `[M]` from "0.3", for every modality, or "t0.1+s0.5", for those that it names.

    Args:
      text: what the flag holds; a modality that it does not name has rate 0.
      modalities: M names, whose first letters are used.
      flag: which names the error.

    Raises:
      UserError: no number 0 to below 1, another letter, or a letter twice.
    """
    letters = "".join(m[0] for m in modalities)
    rates, named = np.zeros(len(modalities)), set()
    for part in text.split("+"):
        letter, number = found.groups() if (found := _RATE.fullmatch(part)) else ("", part)
        try:
            rate = float(number)
        except ValueError:
            rate = -1.0
        alone = not letter and "+" not in text
        known = len(letter) == 1 and letter in letters and letter not in named
        if not 0 <= rate < 1 or not (alone or known):
            example = "+".join(f"{name}0.{k}" for k, name in enumerate(letters, start=1))
            raise UserError(
                f"--config.{flag}={text}: wanted a rate, 0 to below 1, such as 0.3, or one for "
                f"each modality, such as {example}"
            )
        rates[letters.index(letter) if letter else slice(None)] = rate
        named.add(letter)
    return rates


def rates_text(rates: np.ndarray, modalities: Sequence[str]) -> str:
    """Rates as `parse_rates` reads them, in the corpus' order; what is never lost is left out."""
    pairs = zip(modalities, rates.tolist(), strict=True)
    return "+".join(f"{m[0]}{rate:g}" for m, rate in pairs if rate) or "0"


def keep(luck: Array, there: Array, rates: Array | float) -> Array:
    """What is left `[..., K]` bool of what is `there`; one of it at least.

    Args:
      luck: uniform numbers 0 to 1, `[..., K]`.
      there: `[..., K]` bool.
      rates: one for each of K, or for all.
    """
    margin = (luck - rates) * there - 2 * (1 - there)
    return ((margin >= 0) | (margin == margin.max(-1, keepdims=True))) & there


def keep_frames(luck: Array, there: Array, rate: float) -> Array:
    """`keep` for the frames of all modalities of an utterance together, `[..., M, T]` each."""
    flat = (*luck.shape[:-2], -1)
    return keep(luck.reshape(flat), there.reshape(flat), rate).reshape(luck.shape)


def span_luck(place: Array, rounding: Array, mask: Array) -> Array:
    """Numbers `[..., T]` below r at the frames of one span, of floor(r n + `rounding`) frames.

    The span grows with r about a point at the share `place` of the utterance, in front of it and
    behind it as far as there is room; over uniform `rounding` its mean length is r n.

    Args:
      place, rounding: uniform numbers 0 to 1, `[..., 1]`.
      mask: `[..., T]` bool, the n valid frames first.
    """
    count = mask.sum(-1, keepdims=True).clip(1)
    at = (np.arange(mask.shape[-1]) + 0.5).reshape((1,) * (mask.ndim - 1) + (-1,)) / count
    before = at < place
    # The share of the utterance that a span must have to reach the frame.
    share = before * (1 - at / (place + 1e-9)) + ~before * (at - place) / (1 - place + 1e-9)
    rank = (share + 2 * ~mask).argsort(-1).argsort(-1)
    return (rank + 1 - rounding) / count


def make_curves(
    present: np.ndarray,
    mask: np.ndarray,
    *,
    missing_rates: Sequence[float] = (),
    rates: Mapping[str, np.ndarray] | None = None,
    noise_levels: Sequence[float] = (),
    frame_rates: Sequence[float] = (),
    span_rates: Sequence[float] = (),
) -> list[Condition]:
    """Further test conditions, beyond the paper's: random losses, and noise on everything.

    Draws are fixed, and what is lost at one rate is lost at every higher one.

    Args:
      present: `[N, M]` bool.
      mask: `[N, T]` bool.
      missing_rates: 0 to below 1, the probability that an utterance loses a modality.
      rates: name -> `[M]`, one for each modality.
      noise_levels: above 0, at most 1; each is one condition of Gaussian and one of impulse
        noise.
      frame_rates: share of each modality's frames that is lost, one by one.
      span_rates: the same, as one span.

    Returns:
      Conditions "missing=r", "rates=...", "gaussian=a", "impulse=a", "frames=r" and "spans=r".
      An utterance keeps one modality, and one frame; without frames a modality is missing.

    Raises:
      UserError: a rate or level stands twice.
    """
    numbers = {
        "missing_rates": missing_rates,
        "noise_levels": noise_levels,
        "frame_rates": frame_rates,
        "span_rates": span_rates,
    }
    for name, values in numbers.items():
        if len({f"{x:g}" for x in values}) < len(values):
            raise UserError(f"--config.robustness.{name}={tuple(values)}: has a number twice")
    luck = np.random.default_rng(0).random(present.shape)
    named: dict[str, Array | float] = {f"missing={r:g}": r for r in missing_rates}
    named |= {f"rates={name}": each for name, each in (rates or {}).items()}
    made = [Condition(name, keep(luck, present, each)) for name, each in named.items()]
    everything = np.ones(present.shape[1], bool)
    made += [Condition(f"gaussian={a:g}", everything, gaussian=a) for a in noise_levels]
    made += [Condition(f"impulse={a:g}", everything, impulse=a) for a in noise_levels]
    there = mask[:, None] & present[:, :, None]
    if frame_rates:
        luck = np.random.default_rng([0, 1]).random(there.shape, np.float32)
        made += [_losing(f"frames={r:g}", luck, there, r) for r in frame_rates]
    if span_rates:
        draws = np.random.default_rng([0, 2]).random((*present.shape, 2))
        whole = np.broadcast_to(mask[:, None], there.shape)
        luck = span_luck(draws[..., :1], draws[..., 1:], whole)
        made += [_losing(f"spans={r:g}", luck, there, r) for r in span_rates]
    return made


def _losing(name: str, luck: np.ndarray, there: np.ndarray, rate: float) -> Condition:
    kept = keep_frames(luck, there, rate)
    return Condition(name, kept.any(axis=-1), lost=there & ~kept)


def drop(present: np.ndarray, rates: np.ndarray, seed: int) -> np.ndarray:
    """Which modalities a training set really lacks, `[N, M]` bool, whoever trains on it.

    Args:
      present: `[N, M]` bool.
      rates: `[M]`.
      seed: of the draw.
    """
    luck = np.random.default_rng([seed, 4]).random(present.shape)
    return present & ~keep(luck, present, rates)
