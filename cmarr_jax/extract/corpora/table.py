"""A corpus of one's own: a table in CSV, one row an utterance.

    id,label,text,wav,video,start,end,speaker,session,split,group
    u1,angry,Leave me alone!,wav/u1.wav,video/u1.mp4,,,anna,1,train,d1
    u2,,Well ...,wav/talk.wav,,12.5,14.25,ben,1,train,d1

--root is the table. Columns other than id and label may be left out, in any order; whatever else it
has is counted, not read. It is UTF-8, with commas, semicolons or tabs.
    label        the class in a word; empty = unlabelled. Numbers are names too, or with
                 --classes=a,b,c indices from 0.
    wav, video   files, seen from the table's folder; a video's sound is taken with wav=FILE.mp4.
    start, end   seconds: the part of both files that is the utterance; empty = from the beginning,
                 to the end.
    split        train, val (or dev, valid, validation) or test: the corpus' own parts.
    session      what a fold leaves out, where there is no split; without the column each speaker,
                 so give one to leave several speakers out at once.
    speaker      without the column each session has one of its own.
    group        dialogue or recording that no split may cut; without the column, and where rows
                 share a file, that file.
Without split, session and speaker a pack is made but nothing can be learned from some and tested
on others. The corpus is called as the file, MINE.csv makes data/MINE.
"""

import os
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from cmarr_jax.data import utterances as pack_table
from cmarr_jax.data import values as values_lib
from cmarr_jax.data.importers.assemble import unread
from cmarr_jax.data.protocol import natural
from cmarr_jax.errors import UserError
from cmarr_jax.extract.corpora import counts, csv_file, transcripts
from cmarr_jax.extract.source import Release, Utterance

ROOT = "TABLE.csv"  # what --root is
_OF_THE_PACK = ("id", "label", "text", "start", "end", "speaker", "session", "split", "group")
COLUMNS = (*_OF_THE_PACK, "wav", "video")

_MOST_CLASSES = 100  # of a table whose classes nobody names: more are scores or sentences
_UNKNOWN = "unknown"


def add_flags(parser: ArgumentParser) -> None:
    """The flags of this corpus: the keywords of `scan`."""
    parser.add_argument(
        "--classes",
        metavar="A,B,...",
        help="classes of the pack, in their order; rows of other labels are unlabelled (default: "
        "all labels, sorted)",
    )


def scan(root: str, *, classes: str | None = None, strip_tags: bool = False) -> Release:
    """Lists the rows of a table in its order.

    Args:
      root: the table.
      classes: names joined by commas, see above; None = all that are there.
      strip_tags: removes `[LAUGHTER]`, `--` and `...` from the texts.

    Raises:
      UserError: it is no such table, a field cannot be meant so, or no file of a column exists;
        names the row.
    """
    table = csv_file.read(root, ("id", "label"), delimiters=",;\t")
    given = {c: v for c, v in table.columns.items() if c in COLUMNS}
    num, short = len(table.numbers), os.path.basename(root)
    warnings = unread(f"{short}: columns", {*table.columns} - {*COLUMNS})
    for column, found in given.items():
        if column not in ("id", "label", "text"):
            given[column] = ["" if values_lib.is_missing(v) else v.strip() for v in found]
    given["label"], class_names = _labels(root, given["label"], table.numbers, classes, warnings)
    pack_table.check(root, {c: given[c] for c in _OF_THE_PACK if c in given}, table.numbers)
    nothing = [""] * num
    wavs, videos = (
        _files(root, c, given.get(c, nothing), table.numbers, warnings) for c in ("wav", "video")
    )
    speakers, sessions = _names(given, num, warnings, short)
    splits = pack_table.canonical_splits(np.array(given.get("split", nothing))).tolist()
    texts = [transcripts.clean(t, strip_tags=strip_tags) for t in given.get("text", nothing)]
    groups = given["group"] if "group" in given else _shared(given, num)
    if any(groups):  # a row without one stands alone
        groups = [g or i for g, i in zip(groups, given["id"], strict=True)]
    starts, ends = (
        [float(v) if v else None for v in given.get(c, nothing)] for c in ("start", "end")
    )
    turns = []
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if start is None and end is not None:
            start = 0.0
        turns.append(
            Utterance(
                id=given["id"][k],
                session=sessions[k],
                speaker=speakers[k],
                label=given["label"][k],
                group=groups[k],
                text=texts[k],
                wav=wavs[k],
                video=videos[k],
                start=start,
                end=end,
                side=None,
                split=splits[k],
                wav_span=None if start is None else (start, end),
            )
        )
    parts = [(u.wav, u.video, u.start, u.end) if u.wav or u.video else u.id for u in turns]
    times = Counter(parts)
    twice = [u.id for u, part in zip(turns, parts, strict=True) if times[part] > 1]
    warnings += counts.named("rows are of the same files and times as another", twice)
    letters = {"t": any(u.text for u in turns), "s": any(u.wav for u in turns)}
    return Release(
        turns,
        class_names,
        warnings,
        modalities=",".join(letter for letter, there in letters.items() if there),
        name=os.path.splitext(short)[0],
    )


def _labels(
    file: str,
    given: Sequence[str],
    numbers: Sequence[int],
    classes: str | None,
    warnings: list[str],
) -> tuple[list[str], tuple[str, ...]]:
    """The class of each row, "" = unlabelled, and the classes in order."""
    chosen = tuple(name.strip() for name in classes.split(",")) if classes is not None else ()
    if classes is not None and ("" in chosen or len(set(chosen)) < len(chosen)):
        raise UserError(f"--classes={classes}: wanted names joined by commas, each once")
    labels = [v.strip() for v in given]
    labels = ["" if values_lib.is_missing(v) and v not in chosen else v for v in labels]
    if _are_numbers(labels) and not {*labels} & {*chosen}:
        labels = _from_numbers(file, labels, numbers, chosen)
        if not chosen and any(labels):
            warnings.append("labels are numbers; --classes=a,b,... names them, from 0 on")
    there = Counter(labels)
    there.pop("", None)
    if not chosen:
        if not there:
            raise UserError(
                f"{file}: no row has a label; for a pack without labels name the classes by "
                "--classes=a,b,... and give --keep-unlabelled"
            )
        if len(there) > _MOST_CLASSES:
            raise UserError(
                f"{file}: the column label has {len(there)} different values, such as "
                f"{min(there)!r:.60}; wanted classes, or those that are meant in --classes=a,b,..."
            )
        return labels, tuple(sorted(there, key=natural))
    if absent := [name for name in chosen if there and name not in there]:
        found = ", ".join(sorted(there, key=natural))
        warnings.append(
            f"no row has the label {', '.join(absent)}, which --classes names; found {found:.160}"
        )
    others = {name: count for name, count in there.items() if name not in chosen}
    if others:
        warnings.append(
            f"{sum(others.values())} rows have labels that --classes does not name, and are "
            f"unlabelled ({', '.join(sorted(others, key=natural)):.160})"
        )
    return [v if v in chosen else "" for v in labels], chosen


def _are_numbers(labels: Sequence[str]) -> bool:
    try:
        return bool([float(v) for v in labels if v])
    except ValueError:
        return False


def _from_numbers(
    file: str, labels: Sequence[str], numbers: Sequence[int], chosen: Sequence[str]
) -> list[str]:
    """Class indices to names, their own if there are no others; below zero is unlabelled."""
    named = []
    for number, label in zip(numbers, labels, strict=True):
        value = float(label or -1)
        if value < 0:
            named.append("")
        elif not value.is_integer():
            raise UserError(
                f"{file}: row {number} has label {label!r}, which is no class; write a class' name "
                "there, such as negative or positive"
            )
        elif chosen and value >= len(chosen):
            raise UserError(
                f"{file}: row {number} has label {label!r}, but --classes names {len(chosen)}: "
                f"{','.join(chosen)}"
            )
        else:
            named.append(chosen[int(value)] if chosen else str(int(value)))
    return named


def _files(
    file: str, column: str, given: Sequence[str], numbers: Sequence[int], warnings: list[str]
) -> list[str | None]:
    """Paths of the files that exist; adds to `warnings` how many do not."""
    folder = os.path.dirname(file)
    paths = [os.path.join(folder, v) if v else None for v in given]
    missing = [k for k, path in enumerate(paths) if path is not None and not os.path.isfile(path)]
    if not missing:
        return paths
    first = missing[0]
    line = (
        f"column {column}: {len(missing)} of {sum(map(bool, given))} files do not exist, row "
        f"{numbers[first]}'s {given[first]!r:.160} first"
    )
    if len(missing) == sum(map(bool, given)):
        raise UserError(f"{file}: {line}; paths are seen from the table's folder, {folder or '.'}")
    warnings.append(line)
    absent = set(missing)
    return [None if k in absent else path for k, path in enumerate(paths)]


def _names(
    given: Mapping[str, list[str]], num: int, warnings: list[str], short: str
) -> tuple[list[str], list[str]]:
    """Speakers and sessions; each stands for the other where the table lacks it."""
    unknown = [_UNKNOWN] * num
    speakers = given.get("speaker") or given.get("session") or unknown
    sessions = given.get("session") or given.get("speaker") or unknown
    if not {"speaker", "session", "split"} & {*given}:
        warnings.append(
            f"{short}: has no column split, session or speaker, so no part of the pack can be held "
            "out for a test; add one of them to train on it"
        )
    return speakers, sessions


def _shared(given: Mapping[str, list[str]], num: int) -> list[str]:
    """A group for rows that share a file, "" for the others."""
    files = [""] * num
    for column in ("video", "wav"):
        if column in given:
            files = [f or v for f, v in zip(files, given[column], strict=True)]
    times = Counter(files)
    return [f if times[f] > 1 else "" for f in files]
