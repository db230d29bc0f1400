"""What a feature pack holds, and whether it can be trained."""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cmarr_jax.data import pack as pack_lib
from cmarr_jax.data import protocol, utterances
from cmarr_jax.errors import UserError

_WIDTH = 100
_CHUNK_ROWS = 65_536


def describe(pack: pack_lib.Pack) -> str:
    """What a pack holds, in a few tables of plain text."""
    label = pack.columns["label"]
    facts = [f"{len(label)} utterances", _count(pack, "session"), _count(pack, "speaker")]
    facts += [_count(pack, column) for column in ("group", "split") if column in pack.columns]
    facts += [f"{n} unlabelled"] if (n := int((label == "").sum())) else []
    sections = [
        f"{pack.path}: {pack.name}\n{', '.join(facts)}\nfingerprint {pack_lib.fingerprint(pack)}",
        _utterance_table(pack),
        _feature_table(pack),
        "has     " + ", ".join(f"{name} {n}" for name, n in _availability(pack)),
        *_problems(pack.path),
        "\n".join(["made by", *_provenance(pack.provenance)]),
    ]
    return "\n\n".join(sections)


def validate(pack: pack_lib.Pack) -> tuple[list[str], list[str]]:
    """Looks at a pack that `pack.read` accepted for what it cannot know to be wrong.

    Returns:
      What is sound, one line each; warnings, one line each.
    """
    possible, impossible = _protocols(pack)
    checked = f"{len(pack.labels)} utterances: ids unique, labels known, all numbers finite"
    if unlabelled := int(np.sum(pack.labels < 0)):
        checked += f"; {unlabelled} have no label and are in no part"
    return [checked, *possible], [*impossible, *_suspicions(pack)]


def _count(pack: pack_lib.Pack, column: str) -> str:
    number = len(set(pack.columns[column].tolist()) - {""})
    return f"{number} {column}{'s' if number != 1 else ''}"


def _utterance_table(pack: pack_lib.Pack) -> str:
    """Sessions (and splits) by class, with their speakers and how many have each modality."""
    classes = [*pack.class_names, *([""] if (pack.labels < 0).any() else [])]
    present = {m: np.diff(pack.offsets[m]) > 0 for m in pack.modalities}
    rows = [["", "all", *(name or "none" for name in classes), *pack.modalities, "speakers"]]

    def add(name: str, chosen: np.ndarray) -> None:
        counts = Counter(pack.columns["label"][chosen].tolist())
        speakers = sorted(set(pack.columns["speaker"][chosen].tolist()), key=protocol.natural)
        listed = " ".join(speakers) if len(speakers) <= 4 else str(len(speakers))
        rows.append(
            [name, chosen.sum(), *(counts[c] for c in classes)]
            + [present[m][chosen].sum() for m in pack.modalities]
            + [listed]
        )

    for column in ("session", "split"):
        if column in pack.columns:
            values = pack.columns[column]
            order = (*utterances.SPLITS, "").index if column == "split" else protocol.natural
            for value in sorted(set(values.tolist()), key=order):
                add(f"{column} {value or 'none'}", values == value)
    add("all", np.ones(len(pack.labels), bool))
    return _table(rows, left=(0, len(rows[0]) - 1))


def _feature_table(pack: pack_lib.Pack) -> str:
    rows: list[list[Any]] = [
        ["modality", "dim", "dtype", "have it", "rows", "min", "median", "max", "MB"]
    ]
    for m, features in pack.features.items():
        lengths = np.diff(pack.offsets[m])
        lengths = lengths[lengths > 0]
        shown = [lengths.min(), f"{np.median(lengths):g}", lengths.max()] if len(lengths) else []
        share = f"{len(lengths) / len(pack.labels):.1%}"
        size = f"{features.nbytes / 1e6:.1f}"
        shown = [share, len(features), *(shown or ["-"] * 3), size]
        rows.append([m, features.shape[1], features.dtype, *shown])
    return _table(rows, left=(0,))


def _availability(pack: pack_lib.Pack) -> list[tuple[str, int]]:
    """How many utterances have exactly these modalities, most first."""
    sets = zip(*(np.diff(pack.offsets[m]) > 0 for m in pack.modalities), strict=True)
    names = (
        "+".join(m for m, has in zip(pack.modalities, row, strict=True) if has) for row in sets
    )
    return Counter(names).most_common()


def _problems(path: str) -> Iterator[str]:
    """A summary of problems.csv (id,modality,status,detail), where an extraction left one."""
    try:
        with open(os.path.join(path, "problems.csv"), newline="", encoding="utf-8") as f:
            rows = list(csv.DictReader(f))
    except (FileNotFoundError, UnicodeDecodeError, csv.Error):
        return
    counts = Counter((r.get("modality") or "?", r.get("status") or "?") for r in rows)
    shown = ", ".join(f"{m} {s} {n}" for (m, s), n in sorted(counts.items()))
    yield f"problems.csv     {shown or 'none'}"


def _provenance(tree: dict[str, Any], indent: int = 2) -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield f"{' ' * indent}{key}"
            yield from _provenance(value, indent + 2)
            continue
        if key == "changed" and isinstance(value, list):  # counted where it was done: all of it
            yield f"{' ' * indent}{key}"
            yield from (f"{' ' * (indent + 2)}{line}" for line in value)
            continue
        text = f"{len(value)} entries" if isinstance(value, list) and len(value) > 6 else str(value)
        line = f"{' ' * indent}{key}: {' '.join(text.split())}"
        yield line if len(line) <= _WIDTH else f"{line[: _WIDTH - 4]} ..."


def _protocols(pack: pack_lib.Pack) -> tuple[list[str], list[str]]:
    """Which protocols this pack admits, and why it does not admit the others."""
    possible, impossible = [], []
    for scheme in ("session", "speaker", *(["split"] if "split" in pack.columns else [])):
        try:
            folds = protocol.make_folds(pack.columns, pack.labels, scheme=scheme)
        except UserError as e:
            impossible.append(f"protocol.scheme={scheme} cannot be used: {e}")
            continue
        sizes = [f"{len(f.train)}/{len(f.val)}/{len(f.test)}" for f in folds]
        shown = ", ".join(sizes[:5]) + (", ..." if len(sizes) > 5 else "")
        plural = "s" if len(folds) > 1 else ""
        possible.append(
            f"protocol.scheme={scheme}: {len(folds)} fold{plural}, train/val/test {shown}"
        )
    return possible, impossible


def _suspicions(pack: pack_lib.Pack) -> Iterator[str]:
    try:
        protocol.make_conditions(pack.modalities)
    except UserError as e:
        yield f"train.py cannot use this pack: {e}"
    for name in pack.class_names:
        if not (pack.columns["label"] == name).any():
            yield f"class {name!r} has no utterance"
    # Not "-": ids of YouTube's videos begin with it.
    formulas = [i for i in pack.columns["id"].tolist() if i.startswith(("=", "+", "@"))]
    if formulas:
        yield (
            f"{len(formulas)} ids begin as {formulas[0]!r:.60} does, which a spreadsheet takes "
            "for a formula; results hold ids as they are: open them as text"
        )
    for session in sorted(set(pack.columns["session"].tolist()), key=protocol.natural):
        labels = pack.labels[(pack.columns["session"] == session) & (pack.labels >= 0)]
        if len(set(labels.tolist())) == 1:
            yield (
                f"session {session} has utterances of one class alone; as a test part its UAR is "
                "that class' recall, which naming it always makes 100 %"
            )
        for m, offsets in pack.offsets.items():
            chosen = pack.columns["session"] == session
            if not np.diff(offsets)[chosen].any() and np.diff(offsets).any():
                yield f"session {session} has no {m} at all; as a test part it scores none of it"
    others = _others(pack)
    if others:
        yield f"{len(others)} entries of {pack.path} are not read ({', '.join(others)[:120]})"
    for line in pack.provenance.get("changed", ()):
        yield f"when it was made: {line}"
    for m, features in pack.features.items():
        absent = float((np.diff(pack.offsets[m]) == 0).mean())
        if absent > 0.2:
            yield f"{m}: {absent:.0%} of the utterances lack it"
        lengths = np.diff(pack.offsets[m])
        median = np.median(lengths[lengths > 0]) if lengths.any() else 0
        if lengths.max() > max(100 * median, 1000):
            longest = str(pack.columns["id"][lengths.argmax()])
            yield f"{m}: {longest!r} has {lengths.max()} rows, the median utterance {median:g}"
        zero_rows, constant, largest = _scan(features)
        if zero_rows:
            yield (
                f"{m}: {zero_rows} of {len(features)} rows are zeros alone; padding and missing "
                "faces should be left out, not stored"
            )
        if constant:
            yield f"{m}: {constant} of {features.shape[1]} dimensions are the same in every row"
        if largest > 1e4:
            yield f"{m}: has numbers beyond 10,000; were they meant to be scaled?"


def _others(pack: pack_lib.Pack) -> list[str]:
    """What lies in the pack's folder and is no part of it."""
    known = {*map(os.path.basename, pack.stamps), "problems.csv", "tfds"}
    return sorted(n for n in os.listdir(pack.path) if n not in known and n[0] != ".")


def _scan(features: np.ndarray) -> tuple[int, int, float]:
    """Rows of zeros; dimensions that never change; the largest absolute number."""
    zero_rows, largest = 0, 0.0
    constant = np.ones(features.shape[1], bool)
    for start in range(0, len(features), _CHUNK_ROWS):
        chunk = features[start : start + _CHUNK_ROWS]
        zero_rows += int((~chunk.any(axis=1)).sum())
        constant &= (chunk == features[0]).all(axis=0)
        largest = max(largest, float(np.abs(chunk).max()))
    return zero_rows, int(constant.sum()) if len(features) > 1 else 0, largest


def _table(rows: Sequence[Sequence[Any]], *, left: Sequence[int]) -> str:
    cells = [[str(c) for c in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(
            c.ljust(w) if k in left else c.rjust(w)
            for k, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)
