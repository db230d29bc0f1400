"""Who is trained on, chosen on and tested on; under which availability; never on the test fold.

The three schemes and their sources:
  session  leave one session out (CM-ARR, GCNet, MERBench): 5 folds on IEMOCAP, 6 on MSP-IMPROV.
  speaker  leave one speaker out, the other speaker of the session validates (the MMIN family):
           10 folds on IEMOCAP, 12 on MSP-IMPROV.
  split    the corpus' own train / val / test column: one fold.

The default, auto, is the first of split, session and speaker that the corpus admits: an official
split is there to be kept to.

    python -m cmarr_jax.data audit PACK    whether anything leaks, fold by fold

Published code for `session` takes the test fold as validation; here validation always comes
from the training sessions (`validation`), unless `select_on_test` asks for the published way;
without any, the last epoch counts, and all else must have been settled before.
"""

import functools
import itertools
import re
import runpy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from cmarr_jax.data.utterances import SPLITS, canonical_splits, is_part_name
from cmarr_jax.errors import UserError

_PAPER_ORDER = ("t", "s", "v", "vt", "sv", "st", "svt")


class Fold(NamedTuple):
    """Utterance indices of one fold; the three parts share no utterance."""

    number: int  # counted from 1
    held_out: str  # what is tested on: a session, a speaker or "split"
    train: np.ndarray  # [n_train] int32
    val: np.ndarray  # [n_val] int32
    test: np.ndarray  # [n_test] int32


class Condition(NamedTuple):
    """What is available, named by its letters, and how noisy that is."""

    name: str
    # [M] bool in the order of the corpus' modalities, or [N, M]
    available: np.ndarray | tuple[bool, ...]
    gaussian: float = 0.0  # share of the features' variance that is noise, 0 to 1
    impulse: float = 0.0  # the same of impulse noise
    lost: np.ndarray | None = None  # [N, M, T] bool, frames of what is available

    @property
    def is_degraded(self) -> bool:
        """Whether what is available is not as the pack has it, and is encoded anew."""
        return bool(self.gaussian or self.impulse or self.lost is not None)


def make_folds(
    columns: Mapping[str, np.ndarray],
    labels: np.ndarray,
    *,
    scheme: str = "session",
    validation: str = "random",
    val_fraction: float = 0.1,
    seed: int = 0,
    select_on_test: bool = False,
) -> list[Fold]:
    """Splits the labelled utterances into folds and asserts that nothing leaks between parts.

    Args:
      columns: `session` and `speaker` `[N]`; `group` and `split` `[N]` where the corpus has them.
      labels: class indices `[N]`; -1 (unlabelled) takes no part.
      scheme: "session", "speaker", "split", or "auto" for what `choose_scheme` says.
      validation: for `session`, "random" carves `val_fraction` of the training sessions, classes
        balanced, groups kept whole; "rotate" takes the next session; "none" learns from all of
        them, and no epoch is chosen. "speaker" carves as "random" does, but whole speakers, with
        all whom they share a dialogue with, and the smallest such set if each is above
        `val_fraction`; an official validation part must already have its own speakers.
      val_fraction: share of the training utterances that validate.
      seed: of the random validation part; does not depend on the run's seed, so that the
        deviation over seeds is that of training alone.
      select_on_test: validation = test, as in some published code. Optimistic.

    Returns:
      The folds in order; sessions and speakers in natural order.

    Raises:
      UserError: the corpus does not admit this scheme, or a fold would leak.
    """
    labelled = np.flatnonzero(labels >= 0).astype(np.int32)
    if (num_classes := len(np.unique(labels[labelled]))) < 2:
        raise UserError(
            f"labels are of {num_classes} class, wanted two or more; "
            "fill in the label column of utterances.csv"
        )
    if validation == "none" and (scheme != "session" or select_on_test):
        raise UserError(
            "protocol.validation=none: wanted with protocol.scheme=session, without select_on_test"
        )
    scheme = choose_scheme(columns, labels) if scheme == "auto" else scheme
    groups = _circles(columns) if validation == "speaker" else columns.get("group")
    carve = functools.partial(_carve, labels=labels, groups=groups, fraction=val_fraction)
    if validation == "speaker":
        carve = functools.partial(carve, at_least_one=True)
    folds = []
    if scheme == "split":
        if "split" not in columns:
            raise UserError(
                "protocol.scheme=split: the pack's utterances.csv has no split column; "
                "use protocol.scheme=session"
            )
        part_of = canonical_splits(columns["split"])[labelled]
        train, val, test = (labelled[part_of == part] for part in SPLITS)
        if not len(val):
            train, val = carve(train, rng=np.random.default_rng([seed, 1]))
        folds.append(Fold(1, "split", train, val, test))
    elif scheme in ("session", "speaker"):
        if named := part_names(columns, labels):
            raise UserError(
                f"protocol.scheme={scheme}: sessions are named {', '.join(named)}, which is an "
                "official split and no session"
                + (
                    "; use protocol.scheme=split"
                    if "split" in columns
                    else "; put these names into a column split of utterances.csv"
                )
            )
        units = sorted(set(columns[scheme][labelled].tolist()), key=natural)
        for number, unit in enumerate(units, start=1):
            of_unit = columns[scheme][labelled] == unit
            test, rest = labelled[of_unit], labelled[~of_unit]
            if scheme == "speaker":
                same_session = columns["session"][rest] == columns["session"][test[0]]
                val, train = rest[same_session], rest[~same_session]
            elif validation == "rotate":
                is_next = columns["session"][rest] == units[number % len(units)]
                val, train = rest[is_next], rest[~is_next]
            elif validation in ("random", "speaker"):
                train, val = carve(rest, rng=np.random.default_rng([seed, number]))
            elif validation == "none":
                train, val = rest, rest[:0]
            else:
                raise UserError(
                    f"protocol.validation={validation}: wanted random, rotate, speaker or none"
                )
            folds.append(Fold(number, f"{scheme} {unit}", train, val, test))
    else:
        raise UserError(f"protocol.scheme={scheme}: wanted session, speaker, split or auto")
    for fold in folds:
        _check_fold(fold, columns, labels, scheme, validated=validation != "none")
        shared = shared_names(columns, "speaker", fold.train, fold.val)
        if validation == "speaker" and shared:
            raise UserError(
                f"protocol.validation=speaker: fold {fold.number} ({fold.held_out}): speaker "
                f"{shared[0]!r} is in its training and its validation part; use "
                "protocol.validation=random, or empty the official val part"
            )
    if select_on_test:
        folds = [fold._replace(val=fold.test) for fold in folds]
    return folds


def choose_scheme(columns: Mapping[str, np.ndarray], labels: np.ndarray) -> str:
    """What the scheme "auto" stands for: the first that the corpus admits, else "session".

    An official split comes first even where it is damaged: then it is refused, and not passed over.
    """
    has_split = "split" in columns and (columns["split"][labels >= 0] != "").any()
    return "split" if has_split else [*admitted(columns, labels), "session"][0]


def admitted(columns: Mapping[str, np.ndarray], labels: np.ndarray) -> list[str]:
    """The schemes that a corpus can be trained under, as far as its columns show, best first.

    Args:
      columns, labels: as of `make_folds`.
    """
    rows = np.flatnonzero(labels >= 0)
    found = []
    if "split" in columns:
        parts = set(canonical_splits(columns["split"][rows]).tolist())
        found += ["split"] if {"train", "test"} <= parts else []
    pairs = set(
        zip(columns["session"][rows].tolist(), columns["speaker"][rows].tolist(), strict=True)
    )
    sessions = [session for session, _ in pairs]
    if len(set(sessions)) > 1 and not part_names(columns, labels):
        found += ["session"] if len({speaker for _, speaker in pairs}) == len(pairs) else []
        found += ["speaker"] if min(map(sessions.count, set(sessions))) > 1 else []
    return found


def part_names(columns: Mapping[str, np.ndarray], labels: np.ndarray) -> list[str]:
    """The sessions of labelled utterances that are named as parts of an official split are."""
    return sorted({s for s in columns["session"][labels >= 0].tolist() if is_part_name(s)})


def shuffle_labels(labels: np.ndarray, fold: Fold, seed: int) -> np.ndarray:
    """The control that must score chance: a fold's learned labels, dealt out anew.

    Training and validation part are shuffled together; the test part keeps its labels. Another
    permutation each fold and seed, so that several seeds are several draws.

    Args:
      labels: `[N]`.
      fold: of the run.
      seed: of the run.

    Returns:
      `[N]`.
    """
    learned = np.concatenate([fold.train, fold.val])
    shuffled = labels.copy()
    rng = np.random.default_rng([seed, fold.number, 3])
    shuffled[learned] = rng.permutation(labels[learned])
    return shuffled


def make_conditions(modalities: Sequence[str]) -> list[Condition]:
    """All non-empty sets of modalities, fewest first, in the paper's order; "full" is the last.

    A modality's letter is its first: text t, speech s, video v.

    Raises:
      UserError: two modalities share a letter.
    """
    letters = [m[0] for m in modalities]
    if len(set(letters)) < len(letters):
        raise UserError(
            f"modalities {list(modalities)}: two begin with the same letter; rename one"
        )
    canonical = sorted(range(len(letters)), key=lambda m: "svt".find(letters[m]))
    conditions = []
    for available in itertools.product((False, True), repeat=len(letters)):
        name = "".join(letters[m] for m in canonical if available[m])
        if name:
            conditions.append(Condition(name, available))

    def rank(condition: Condition) -> tuple:
        name = condition.name
        known = _PAPER_ORDER.index(name) if name in _PAPER_ORDER else len(_PAPER_ORDER)
        return len(name), known, name

    return sorted(conditions, key=rank)


def make_patterns(conditions: Sequence[Condition], names: str) -> np.ndarray:
    """The availability patterns that training draws from, `[P, M]` bool.

    Args:
      conditions: of `make_conditions`.
      names: "all" (missing conditions and full), "missing" (without full, as MMIN trains),
        "full" (complete data only), or condition names joined by commas.

    Raises:
      UserError: an unknown name.
    """
    known = {c.name: c.available for c in conditions}
    everything = list(known)
    presets = {"all": everything, "missing": everything[:-1] or everything, "full": everything[-1:]}
    chosen = presets.get(names, names.split(","))
    if not set(chosen) <= set(known) or len(set(chosen)) < len(chosen):
        raise UserError(
            f"--config.masking.patterns={names}: wanted all, missing, full or some of "
            f"{','.join(everything)}, each once"
        )
    return np.array([known[n] for n in chosen])


def natural(name: str) -> list:
    """Sort key that puts session 10 after session 9."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", name) if p]


def _carve(
    indices: np.ndarray,
    *,
    labels: np.ndarray,
    groups: np.ndarray | None,
    fraction: float,
    rng: np.random.Generator,
    at_least_one: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Takes whole groups, in random order, while they bring each class closer to its share.

    `at_least_one`: where none does, the one that comes closest, unless it is all there is.
    """
    units = groups[indices] if groups is not None and (groups[indices] != "").all() else indices
    num_classes = int(labels.max()) + 1
    names, unit_of = np.unique(units, return_inverse=True)
    counts = np.zeros((len(names), num_classes))
    np.add.at(counts, (unit_of, labels[indices]), 1)
    target = counts.sum(axis=0) * fraction
    taken, chosen = np.zeros(num_classes), np.zeros(len(names), bool)
    for unit in rng.permutation(len(names)):
        if np.square(target - taken - counts[unit]).sum() < np.square(target - taken).sum():
            taken += counts[unit]
            chosen[unit] = True
    if at_least_one and not chosen.any() and len(names) > 1:
        chosen[np.square(target - counts).sum(axis=1).argmin()] = True
    return indices[~chosen[unit_of]], indices[chosen[unit_of]]


def _circles(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """`[N]` str: for each utterance, the circle of speakers whom dialogues join."""
    speakers, speaker = np.unique(columns["speaker"], return_inverse=True)
    groups, group = np.unique(columns.get("group", np.full(len(speaker), "")), return_inverse=True)
    named = groups[group] != ""
    ends = speaker[named], len(speakers) + group[named]
    size = len(speakers) + len(groups)
    links = scipy.sparse.coo_matrix((np.ones(named.sum()), ends), shape=(size, size))
    return scipy.sparse.csgraph.connected_components(links, directed=False)[1][speaker].astype(str)


def shared_names(
    columns: Mapping[str, np.ndarray], column: str, some: np.ndarray, others: np.ndarray
) -> list[str]:
    """Values of `column` that both sets of utterances have, empty ones aside, in natural order."""
    if column not in columns:
        return []
    shared = set(columns[column][some].tolist()) & set(columns[column][others].tolist())
    return sorted(shared - {""}, key=natural)


# Columns of which the learned parts, training and validation, share no name with the test part.
_NEVER_SHARED = {"split": ("group",), "session": ("session", "speaker"), "speaker": ("speaker",)}
_ELSE = {
    "session": "",
    "speaker": ", or use protocol.scheme=speaker for speakers of several sessions",
    "group": "; names of groups must differ from session to session",
}
_REMEDIES = {
    ("session", "val"): "raise protocol.val_fraction or use protocol.validation=rotate",
    ("session", "train"): "wanted two sessions or more, three with protocol.validation=rotate",
    ("speaker", "train"): "wanted two sessions or more",
    ("speaker", "val"): "wanted another speaker in its session; use protocol.scheme=session",
    ("split", "val"): "raise protocol.val_fraction",
    ("split", "train"): "wanted labelled rows with split=train",
    ("split", "test"): "wanted labelled rows with split=test",
}


def _check_fold(
    fold: Fold, columns: Mapping[str, np.ndarray], labels: np.ndarray, scheme: str, validated: bool
) -> None:
    for part in SPLITS:
        if not len(getattr(fold, part)) and (part != "val" or validated):
            raise UserError(
                f"fold {fold.number} ({fold.held_out}): its {part} part is empty; "
                f"{_REMEDIES.get((scheme, part), 'use another protocol.scheme')}"
            )
    missing = set(labels[fold.test].tolist()) - set(labels[fold.train].tolist())
    if missing:
        tested = fold.test[labels[fold.test] == min(missing)][0]
        name = (
            f"{str(columns['label'][tested])!r}" if "label" in columns else f"index {min(missing)}"
        )
        raise UserError(
            f"fold {fold.number} ({fold.held_out}): class {name} is tested but never trained on; "
            "merge or drop the class"
        )
    learned = np.concatenate([fold.train, fold.val])
    for column, known in (*((c, learned) for c in _NEVER_SHARED[scheme]), ("group", fold.train)):
        if shared := shared_names(columns, column, known, fold.test):
            raise UserError(
                f"fold {fold.number} ({fold.held_out}): {column} {shared[0]!r} is in the test part "
                f"and in the training part; mend utterances.csv{_ELSE[column]}"
            )
    if shared := shared_names(columns, "group", fold.train, fold.val):
        raise UserError(
            f"fold {fold.number} ({fold.held_out}): group {shared[0]!r} is cut by the validation "
            "part; mend utterances.csv"
        )
    everything = np.concatenate([fold.train, fold.val, fold.test])
    if len(np.unique(everything)) < len(everything):
        raise UserError(f"fold {fold.number} ({fold.held_out}): its parts share utterances")


if __name__ == "__main__":  # the older name of the command
    runpy.run_module("cmarr_jax.data", run_name="__main__", alter_sys=True)
