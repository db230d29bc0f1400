"""From the labels of other toolkits, numbers without names, to class names."""

import math
from collections.abc import Sequence

import numpy as np

from cmarr_jax.data.values import is_missing
from cmarr_jax.errors import UserError

# Utterances a class, all different within a corpus, so that counts alone name the classes.
_KNOWN = (
    {"ang": 1103, "hap": 1636, "neu": 1708, "sad": 1084},  # IEMOCAP, hap with exc
    {"hap": 648, "sad": 1084, "neu": 1708, "ang": 1103, "exc": 1041, "fru": 1849},  # the same, six
    {"ang": 470, "hap": 1048, "neu": 1789, "sad": 633},  # MSP-IMPROV, scenario S
    {"ang": 460, "hap": 999, "neu": 1733, "sad": 627},  # the same, turns with all modalities
    {"ang": 792, "hap": 2644, "neu": 3477, "sad": 885},  # MSP-IMPROV, all scenarios
)
_MOST_CLASSES = 10_000  # a larger number is no index; it would only take memory
POLARITIES = {"has0": ("negative", "nonnegative"), "non0": ("negative", "positive")}


def to_classes(
    values: Sequence | np.ndarray, where: str, *, classes: Sequence[str] = (), polarity: str = ""
) -> tuple[list[str], tuple[str, ...]]:
    """Names the class of each of N labels.

    Args:
      values: N integers (negative = unlabelled), N class names, or N scores of sentiment (below
        zero = negative). What is missing, see `values.is_missing`, is unlabelled.
      where: the file that they come from, for errors.
      classes: names in the order of the integers, or in the order wanted for names. If empty,
        integers are named by their counts where these are a known corpus', and names sort.
      polarity: for scores: "has0" sets the negative against the rest; "non0" leaves zero
        unlabelled. Both are in use. "" = values are classes.

    Returns:
      N class names, "" = unlabelled; the class names in order.

    Raises:
      UserError: an unknown label, or classes that nobody names.
    """
    flat = _one_each(values, where)
    if polarity:
        return _from_scores(flat, where, polarity)
    there = [v for v in flat if not is_missing(v) or v in classes]
    if all(isinstance(v, str) for v in there):
        return _from_names(flat, where, classes)
    if any(isinstance(v, str) for v in there):
        raise UserError(f"{where}: labels are neither names nor one number each")
    return _from_indices(flat, where, classes)


def _one_each(values: Sequence | np.ndarray, where: str) -> list:
    """N Python values; bytes are text, and an array or list of one value is that value."""
    flat = []
    for value in values:
        while isinstance(value, list | tuple | np.ndarray):
            if np.size(value) != 1:
                raise UserError(
                    f"{where}: found {value!r:.60}; labels are neither names nor one number each"
                )
            value = value.item() if isinstance(value, np.ndarray) else value[0]
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bytes):
            value = value.decode("utf-8", "backslashreplace")
        if not isinstance(value, str | bool | int | float) and not is_missing(value):
            raise UserError(
                f"{where}: found {value!r:.60}; labels are neither names nor one number each"
            )
        flat.append(value)
    return flat


def _from_scores(values: list, where: str, rule: str) -> tuple[list[str], tuple[str, ...]]:
    if rule not in POLARITIES:
        raise UserError(f"--polarity={rule}: wanted one of {', '.join(POLARITIES)}")
    try:
        scores = np.array([math.nan if is_missing(v) else _as_float(v) for v in values])
    except ValueError:
        raise UserError(f"{where}: wanted a number an utterance for --polarity={rule}") from None
    negative, positive = POLARITIES[rule]
    labels = np.where(scores < 0, negative, positive)
    labels[np.isnan(scores) | ((scores == 0) & (rule == "non0"))] = ""
    return labels.tolist(), (negative, positive)


def _from_names(
    values: list, where: str, given: Sequence[str]
) -> tuple[list[str], tuple[str, ...]]:
    names = ["" if is_missing(v) and v not in given else v for v in values]
    classes = tuple(given) or tuple(sorted(set(names) - {""}))
    if unknown := sorted(set(names) - set(classes) - {""}):
        raise UserError(f"{where}: label {unknown[0]!r} is none of --classes={','.join(given)}")
    if not classes:
        raise UserError(f"{where}: no utterance has a label")
    return names, classes


def _from_indices(
    values: list, where: str, given: Sequence[str]
) -> tuple[list[str], tuple[str, ...]]:
    numbers = np.array([-1.0 if is_missing(v) else _as_float(v) for v in values])
    fractional = ~np.isfinite(numbers) | (np.trunc(numbers) != numbers)
    if fractional.any():
        raise UserError(
            f"{where}: label {numbers[np.argmax(fractional)]:g} is no class index; for a score of "
            "sentiment give --polarity=has0 or non0"
        )
    if (most := numbers.max(initial=-1)) >= _MOST_CLASSES:
        raise UserError(
            f"{where}: label {most:g} is no class index; wanted 0 to {_MOST_CLASSES - 1}"
        )
    indices = np.maximum(numbers, -1).astype(int)
    counts = np.bincount(indices[indices >= 0]).tolist()
    classes = tuple(given) or _named_by_counts(counts, where)
    if len(counts) > len(classes):
        raise UserError(
            f"{where}: label {len(counts) - 1} found, but --classes names {len(classes)}: "
            f"{','.join(classes)}"
        )
    return [classes[k] if k >= 0 else "" for k in indices], classes


def _as_float(value: str | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _named_by_counts(counts: list[int], where: str) -> tuple[str, ...]:
    for known in _KNOWN:
        if sorted(counts) == sorted(known.values()):
            return tuple({n: name for name, n in known.items()}[n] for n in counts)
    listed = ", ".join(f"{k}: {n}" for k, n in enumerate(counts))
    raise UserError(
        f"{where}: its classes have no names (utterances a class: {listed}); "
        "name them in this order with --classes=a,b,..."
    )
