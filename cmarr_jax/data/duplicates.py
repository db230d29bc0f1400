"""Utterances that are the same, or nearly so, under two ids."""

import hashlib
import itertools
import re
from collections import Counter
from typing import NamedTuple

import numpy as np

from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.data.rows_on_disk import RowsOnDisk, blocks, zeros_beside

_NEAR = 0.01  # root mean square difference over dimensions, in standard deviations


class Prints(NamedTuple):
    """What tells utterances apart."""

    text: np.ndarray | None  # [N] str, words alone; None where the corpus has no texts
    same: list[tuple[int, int]]  # pairs that are identical in all that both have
    near: dict[str, list[tuple[int, int]]]  # modality -> further pairs, within _NEAR
    filler: dict[str, int]  # modality -> utterances whose features stand for nothing
    standardised: list[str]  # modalities with mean 0 and deviation 1 over all utterances


def find(corpus: Corpus) -> Prints:
    """Compares all utterances, once for every fold.

    Two utterances are the same recording if they are identical, bit for bit, in every modality
    that both have, one of which is not text: the same words are said twice, the same sound is
    not heard twice. Filler tells nothing: zeros, or one vector that many utterances share.
    """
    hashes, means, filler, standardised = {}, {}, {}, []
    for k, (m, values) in enumerate(corpus.features.items()):
        present = corpus.present[:, k]
        means[m], digests, filled = _scan(values, corpus.mask)
        digests[~present] = 0
        shared_by = Counter(digests.tolist())
        many = max(3, 0.005 * present.sum())
        empty = ~filled | [shared_by[d] > many for d in digests.tolist()]
        empty &= present if m != "text" else False
        if empty.any():
            filler[m] = int(empty.sum())
        hashes[m] = np.where(empty, 0, digests)
        if present.sum() > 2 and _is_standardised(*_moments(means[m], np.flatnonzero(present))):
            standardised.append(m)
    same = {
        pair
        for m, digests in hashes.items()
        if m != "text"
        for pair in _equal_pairs(digests)
        if all(d[pair[0]] == d[pair[1]] for d in hashes.values() if d[pair[0]] and d[pair[1]])
    }
    near = {m: sorted(set(_near_pairs(means[m], hashes[m])) - same) for m in hashes}
    text = corpus.columns.get("text")
    if text is not None:
        text = np.array([" ".join(re.findall(r"\w+", t.casefold())) for t in text.tolist()])
    return Prints(text, sorted(same), near, filler, standardised)


def _scan(
    values: np.ndarray | RowsOnDisk, mask: np.ndarray
) -> tuple[np.ndarray | RowsOnDisk, np.ndarray, np.ndarray]:
    """Goes through one modality's features once.

    Returns:
      Each utterance's mean over time `[N, D]`; its digest `[N]`; whether it holds anything but
      zeros `[N]`.
    """
    means = zeros_beside(values, (len(values), values.shape[-1]), np.float32)
    digests, filled = np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    for block in blocks(len(values)):
        rows, count = values[block], mask[block].sum(axis=1, dtype=np.float32)[:, None]
        means[block] = rows.sum(axis=1, dtype=np.float32) / np.maximum(count, 1)
        filled[block] = rows.any(axis=(1, 2))
        for i, row in enumerate(rows, block.start):
            digest = hashlib.blake2b(np.ascontiguousarray(row), digest_size=7).digest()
            digests[i] = int.from_bytes(digest, "big") + 1
    return means, digests, filled


def _moments(means: np.ndarray | RowsOnDisk, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of some rows of `[N, D]`, `[D]` each."""
    centre = sum(means[rows[b]].sum(0, dtype=np.float64) for b in blocks(len(rows))) / len(rows)
    squares = sum(((means[rows[b]] - centre) ** 2).sum(0) for b in blocks(len(rows)))
    return centre, np.sqrt(squares / len(rows))


def _equal_pairs(digests: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of equal digests; 0 equals nothing."""
    same: dict[int, list[int]] = {}
    for i, digest in enumerate(digests.tolist()):
        if digest:
            same.setdefault(digest, []).append(i)
    return [pair for members in same.values() for pair in itertools.combinations(members, 2)]


def _near_pairs(means: np.ndarray | RowsOnDisk, digests: np.ndarray) -> list[tuple[int, int]]:
    """Pairs whose means differ by at most _NEAR deviations a dimension; exact duplicates' too.

    Projections on unit vectors never move two points apart, so what lies farther apart than the
    radius on one of a few random lines needs no look at all dimensions.
    """
    rows = np.flatnonzero(digests)
    # Of equal ones the first stands for all.
    _, first = np.unique(digests[rows], return_index=True)
    pairs = [] if len(first) == len(rows) else _equal_pairs(digests)
    rows = rows[np.sort(first)]
    if len(rows) < 2:
        return pairs
    centre, deviation = _moments(means, rows)
    scale = 1 / np.where(deviation > 0, deviation, 1)
    radius = _NEAR * np.sqrt((deviation > 0).sum())
    lines = np.random.default_rng(0).normal(size=(len(centre), 8))
    lines = scale[:, None] * lines / np.linalg.norm(lines, axis=0)
    places = np.concatenate([(means[rows[b]] - centre) @ lines for b in blocks(len(rows))])
    order = np.argsort(places[:, 0], kind="stable")
    places, rows = places[order], rows[order]
    for shift in range(1, len(rows)):
        close = places[shift:, 0] - places[:-shift, 0] <= radius
        if not close.any():
            break
        i = np.flatnonzero(close)
        i = i[(np.abs(places[i + shift] - places[i]) <= radius).all(axis=1)]
        for a in (i[b] for b in blocks(len(i))):
            apart = (means[rows[a + shift]] - means[rows[a]]) * scale
            near = a[np.linalg.norm(apart, axis=1) <= radius]
            ends = zip(rows[near].tolist(), rows[near + shift].tolist(), strict=True)
            pairs += [(min(pair), max(pair)) for pair in ends]
    return pairs


def _is_standardised(centre: np.ndarray, deviation: np.ndarray) -> bool:
    moves = deviation > 0
    if not moves.any():
        return False
    ours = (np.abs(centre) < 1e-3) & (np.abs(deviation - 1) < 1e-2)
    return bool(ours[moves].mean() > 0.95)
