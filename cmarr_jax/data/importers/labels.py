"""From the labels of other toolkits, numbers without names, to class names."""

from collections.abc import Sequence

import numpy as np

from cmarr_jax.errors import UserError

# Utterances a class, all different within a corpus, so that counts alone name the classes.
_KNOWN = (
    {"ang": 1103, "hap": 1636, "neu": 1708, "sad": 1084},  # IEMOCAP, hap with exc
    {"hap": 648, "sad": 1084, "neu": 1708, "ang": 1103, "exc": 1041, "fru": 1849},  # the same, six
    {"ang": 470, "hap": 1048, "neu": 1789, "sad": 633},  # MSP-IMPROV, scenario S
    {"ang": 460, "hap": 999, "neu": 1733, "sad": 627},  # the same, turns with all modalities
    {"ang": 792, "hap": 2644, "neu": 3477, "sad": 885},  # MSP-IMPROV, all scenarios
)
POLARITIES = {"has0": ("negative", "nonnegative"), "non0": ("negative", "positive")}


def to_classes(
    values: Sequence | np.ndarray, where: str, *, classes: Sequence[str] = (), polarity: str = ""
) -> tuple[list[str], tuple[str, ...]]:
    """Names the class of each of N labels.

    Args:
      values: N integers (negative = unlabelled), N class names (empty = unlabelled), or N
        scores of sentiment (below zero = negative, NaN = unlabelled).
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
    if polarity:
        return _from_scores(values, where, polarity)
    array = np.asarray(values)
    if array.dtype.kind in "SUO" and all(isinstance(v, str | bytes) for v in array.tolist()):
        return _from_names(array.tolist(), where, classes)
    return _from_indices(array, where, classes)


def _from_scores(
    values: Sequence | np.ndarray, where: str, rule: str
) -> tuple[list[str], tuple[str, ...]]:
    if rule not in POLARITIES:
        raise UserError(f"--polarity={rule}: wanted one of {', '.join(POLARITIES)}")
    try:
        scores = np.asarray(values).astype(np.float64).reshape(len(values))
    except (ValueError, TypeError):
        raise UserError(f"{where}: wanted a number an utterance for --polarity={rule}") from None
    negative, positive = POLARITIES[rule]
    labels = np.where(scores < 0, negative, positive)
    labels[np.isnan(scores) | ((scores == 0) & (rule == "non0"))] = ""
    return labels.tolist(), (negative, positive)


def _from_names(
    values: Sequence[str | bytes], where: str, given: Sequence[str]
) -> tuple[list[str], tuple[str, ...]]:
    names = [v.decode() if isinstance(v, bytes) else v for v in values]
    classes = tuple(given) or tuple(sorted(set(names) - {""}))
    if unknown := sorted(set(names) - set(classes) - {""}):
        raise UserError(f"{where}: label {unknown[0]!r} is none of --classes={','.join(given)}")
    if not classes:
        raise UserError(f"{where}: no utterance has a label")
    return names, classes


def _from_indices(
    array: np.ndarray, where: str, given: Sequence[str]
) -> tuple[list[str], tuple[str, ...]]:
    try:
        numbers = array.astype(np.float64).reshape(len(array))
    except (ValueError, TypeError):
        raise UserError(f"{where}: labels are neither names nor one number each") from None
    fractional = ~np.isfinite(numbers) | (numbers % 1 != 0)
    if fractional.any():
        raise UserError(
            f"{where}: label {numbers[np.argmax(fractional)]:g} is no class index; for a score of "
            "sentiment give --polarity=has0 or non0"
        )
    indices = numbers.astype(int)
    counts = np.bincount(indices[indices >= 0]).tolist()
    classes = tuple(given) or _named_by_counts(counts, where)
    if len(counts) > len(classes):
        raise UserError(
            f"{where}: label {len(counts) - 1} found, but --classes names {len(classes)}: "
            f"{','.join(classes)}"
        )
    return [classes[k] if k >= 0 else "" for k in indices], classes


def _named_by_counts(counts: list[int], where: str) -> tuple[str, ...]:
    for known in _KNOWN:
        if sorted(counts) == sorted(known.values()):
            return tuple({n: name for name, n in known.items()}[n] for n in counts)
    listed = ", ".join(f"{k}: {n}" for k, n in enumerate(counts))
    raise UserError(
        f"{where}: its classes have no names (utterances a class: {listed}); "
        "name them in this order with --classes=a,b,..."
    )
