"""What would make a protocol's numbers better than they are: leaks between a fold's parts.

A leak fails the audit: an utterance, speaker, session or dialogue on both sides, or one recording
under two ids. What a person must judge is a warning: recordings that are nearly the same, words
that are said on both sides (people say "Yeah." in every session), features that look normalised
by all utterances. Nothing here trusts the code that made the folds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cmarr_jax.data import duplicates, pipeline
from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.data.protocol import (
    Fold,
    admitted,
    choose_scheme,
    make_folds,
    part_names,
    shared_names,
)
from cmarr_jax.errors import UserError

_PARTS = ("train", "val", "test")
_LONG_TEXT = 5  # words; shorter texts repeat by chance
_SHOWN = 5  # examples of each finding
_POSITIONS = 4  # that the command pools to; any number tells utterances apart


def audit(
    corpus: Corpus,
    folds: Sequence[Fold],
    *,
    scheme: str,
    select_on_test: bool = False,
    chosen: bool = False,
) -> dict[str, Any]:
    """Looks for leaks in folds, however they were made.

    Args:
      corpus: all utterances.
      folds: of `protocol.make_folds`.
      scheme: "session", "speaker" or "split": which names must stay on one side.
      select_on_test: validation is the test part, on request.
      chosen: whether protocol.scheme=auto has chosen `scheme`.

    Returns:
      What was found, for JSON: `failures` and `warnings`, a line each, `scheme` and the ones that
      the corpus also admits, and each fold's counts.
    """
    prints = duplicates.find(corpus)
    failures, warnings = [], []
    if select_on_test:
        warnings.append("the epoch is SELECTED ON TEST: all scores are optimistic")
    if named := part_names(corpus.columns, corpus.labels):
        warnings.append(
            f"sessions are named {', '.join(named)}, as parts of an official split are; they are "
            "refused as sessions"
        )
    warnings += [
        f"{m}: {n} utterances have features of zeros or shared by many; filler is no feature"
        for m, n in prints.filler.items()
    ]
    warnings += [
        f"{m}: mean 0 and deviation 1 over all utterances; if the pack was normalised by them, "
        "test parts took part in it"
        for m in prints.standardised
    ]
    found = []
    for fold in folds:
        name = f"fold {fold.number} ({fold.held_out})"
        parts = {part: getattr(fold, part) for part in _PARTS}
        failed, warned = _shared(corpus.columns, parts, scheme, select_on_test)
        crossing = _crossing(prints, parts, len(corpus.labels))
        if pairs := crossing.pop("identical"):
            failed.append(
                f"{len(pairs)} recordings are in the test part and in the training part, such as "
                f"{' = '.join(_ids(corpus, pairs[0]))}; leave one of each out of utterances.csv"
            )
        for m, pairs in crossing.items():
            if pairs and m != "text":
                warned.append(f"{m}: {len(pairs)} pairs across training and test nearly the same")
        balance, odd = _balance(corpus, parts)
        failures += [f"{name}: {line}" for line in failed]
        warnings += [f"{name}: {line}" for line in warned + odd]
        found.append(
            {
                "fold": fold.number,
                "held_out": fold.held_out,
                "parts": {part: _describe(corpus, rows) for part, rows in parts.items()},
                "near": {
                    m: {"pairs": len(pairs), "examples": [_ids(corpus, p) for p in pairs[:_SHOWN]]}
                    for m, pairs in crossing.items()
                },
                "text": _repeated_text(corpus, prints.text, parts),
                "baseline": balance,
                "normalised_by": {
                    "part": "train",
                    "utterances": {
                        m: int(corpus.learnable[fold.train, k].sum())
                        for k, m in enumerate(corpus.modalities)
                    },
                },
            }
        )
    return {
        "corpus": corpus.name,
        "scheme": scheme,
        "chosen_by": "auto" if chosen else "config",
        "also_admits": [s for s in admitted(corpus.columns, corpus.labels) if s != scheme],
        "utterances": len(corpus.labels),
        "failures": failures,
        "warnings": warnings,
        "folds": found,
    }


def check(found: Mapping[str, Any]) -> None:
    """Raises a UserError with the first of an audit's failures, if it has one."""
    if found["failures"]:
        first, *more = found["failures"]
        raise UserError(
            f"the audit of {found['corpus']} found leaks: {first}"
            + (f" (and {len(more)} more)" if more else "")
            + "; python -m cmarr_jax.data audit PACK shows all"
        )


def scheme_text(found: Mapping[str, Any]) -> str:
    """Which scheme the folds are of, who chose it, and what else the corpus admits."""
    also = found["also_admits"]
    facts = ["auto"] * (found["chosen_by"] == "auto")
    facts += [f"the pack also admits {' and '.join(also)}"] * bool(also)
    return f"protocol.scheme={found['scheme']}" + (f" ({'; '.join(facts)})" if facts else "")


def render(found: Mapping[str, Any]) -> str:
    """An audit as text."""
    lines = [f"{found['corpus']}: {found['utterances']} utterances, {scheme_text(found)}"]
    for fold in found["folds"]:
        parts, base = fold["parts"], fold["baseline"]
        lines.append(f"\nfold {fold['fold']} ({fold['held_out']})")
        for part, facts in parts.items():
            names = ", ".join(f"{n} {k}" for k, n in facts["classes"].items())
            groups = f", {facts['dialogues']} dialogues" if "dialogues" in facts else ""
            lines.append(
                f"  {part:<6}{facts['utterances']} utterances, {facts['sessions']} sessions, "
                f"{facts['speakers']} speakers{groups}: {names}"
            )
        lines.append(
            "  majority (always the training part's largest class): "
            f"WAR {100 * base['war']:.1f} %, UAR {100 * base['uar']:.1f} %"
        )
        near = ", ".join(f"{m} {x['pairs']}" for m, x in fold["near"].items())
        lines.append(f"  pairs of training and test nearly the same: {near}")
        if text := fold["text"]:
            lines.append(
                f"  test utterances whose words are in training too: {text['utterances']} "
                f"({text['share']:.1%}), of {_LONG_TEXT} words or more: {text['long']}"
                + (f", such as {text['examples'][0]!r}" if text["examples"] else "")
            )
        used = ", ".join(f"{m} {n}" for m, n in fold["normalised_by"]["utterances"].items())
        lines.append(f"  normalised by training utterances alone: {used}")
    lines.append("")
    lines += [f"warning  {line}" for line in found["warnings"]]
    lines += [f"LEAK     {line}" for line in found["failures"]]
    lines.append("leaks found" if found["failures"] else "no leak found")
    return "\n".join(lines)


def _shared(
    columns: Mapping[str, np.ndarray],
    parts: Mapping[str, np.ndarray],
    scheme: str,
    select_on_test: bool,
) -> tuple[list[str], list[str]]:
    """Failures and warnings: what stands on both sides."""
    failed, warned = [], []
    pairs = [("train", "test"), ("train", "val")] + [("val", "test")] * (not select_on_test)
    for one, other in pairs:
        if common := np.intersect1d(parts[one], parts[other]).size:
            failed.append(f"{common} utterances are in the {one} and the {other} part")
        for column, kind in (("speaker", "speaker"), ("session", "session"), ("group", "dialogue")):
            names = shared_names(columns, column, parts[one], parts[other])
            if not names:
                continue
            line = f"{kind} {names[0]!r}" + (f" and {len(names) - 1} more" if names[1:] else "")
            line = f"{line} in the {one} and the {other} part"
            if other == "test" and _must_differ(scheme, column, one):
                failed.append(line)
            elif (scheme == "split" and column == "speaker" and other == "test") or (
                column == "group" and other == "val"
            ):
                warned.append(line)
    return failed, warned


def _must_differ(scheme: str, column: str, part: str) -> bool:
    """Whether `part` may share no name of `column` with the test part, by the scheme's promise.

    Under "speaker" the test speaker's partner validates, in the same dialogues; an official split
    promises dialogues alone.
    """
    if scheme == "split":
        return column == "group"
    return scheme == "session" or column == "speaker" or part == "train"


def _crossing(
    prints: duplicates.Prints, parts: Mapping[str, np.ndarray], num: int
) -> dict[str, list[tuple[int, int]]]:
    """Pairs, "identical" or by modality, with one utterance learned from and the other tested."""
    side = np.zeros(num, int)
    side[parts["train"]] = 1
    side[parts["val"]] = 1
    side[parts["test"]] = 2
    every = {"identical": prints.same} | prints.near
    return {
        kind: [(i, j) for i, j in pairs if {side[i], side[j]} == {1, 2}]
        for kind, pairs in every.items()
    }


def _describe(corpus: Corpus, rows: np.ndarray) -> dict[str, Any]:
    labels = np.bincount(corpus.labels[rows], minlength=len(corpus.class_names)).tolist()
    facts = {
        "utterances": len(rows),
        "classes": dict(zip(corpus.class_names, labels, strict=True)),
        "sessions": len(set(corpus.columns["session"][rows].tolist())),
        "speakers": len(set(corpus.columns["speaker"][rows].tolist())),
    }
    if "group" in corpus.columns:
        facts["dialogues"] = len(set(corpus.columns["group"][rows].tolist()) - {""})
    return facts


def _balance(corpus: Corpus, parts: Mapping[str, np.ndarray]) -> tuple[dict[str, float], list[str]]:
    """What always naming the training part's largest class scores; warnings."""
    num = len(corpus.class_names)
    counts = {p: np.bincount(corpus.labels[rows], minlength=num) for p, rows in parts.items()}
    learned, tested = counts["train"], counts["test"]
    occurring = int((tested > 0).sum())
    largest = int(learned.argmax())
    baseline = {
        "war": float(tested[largest] / max(tested.sum(), 1)),
        "uar": float((tested[largest] > 0) / max(occurring, 1)),
    }
    odd = [
        f"class {corpus.class_names[k]!r} is learned but not in the {part} part; UAR is over fewer "
        "classes there"
        for part in ("val", "test")
        if len(parts[part])
        for k in np.flatnonzero((learned > 0) & (counts[part] == 0))
    ]
    return baseline, odd


def _repeated_text(
    corpus: Corpus, text: np.ndarray | None, parts: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """How many test utterances say what a training utterance says, word for word."""
    if text is None:
        return {}
    learned = set(text[parts["train"]].tolist()) - {""}
    repeated = [i for i in parts["test"].tolist() if text[i] in learned]
    long = [i for i in repeated if text[i].count(" ") >= _LONG_TEXT - 1]
    return {
        "utterances": len(repeated),
        "share": len(repeated) / max(len(parts["test"]), 1),
        "long": len(long),
        "examples": [str(text[i])[:80] for i in long[:_SHOWN]],
        "example_ids": [str(corpus.columns["id"][i]) for i in long[:_SHOWN]],
    }


def _ids(corpus: Corpus, pair: tuple[int, int]) -> list[str]:
    return [str(corpus.columns["id"][i]) for i in pair]


def audit_pack(path: str, scheme: str = "") -> dict[str, Any]:
    """`audit` of a pack; `scheme` as of `protocol.make_folds`, "" = auto."""
    corpus = pipeline.load(pack=path, loader="numpy", align="pool", length=_POSITIONS)
    chosen = scheme in ("", "auto")
    scheme = choose_scheme(corpus.columns, corpus.labels) if chosen else scheme
    folds = make_folds(corpus.columns, corpus.labels, scheme=scheme)
    return audit(corpus, folds, scheme=scheme, chosen=chosen)
