"""MELD's official release, `MELD.Raw`: dialogues of a TV series, with its own three parts.

    train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv   what was said, by whom, both labels
    train_splits/dia0_utt0.mp4                                one clip an utterance
    dev_splits_complete/dia0_utt0.mp4
    output_repeated_splits_test/dia0_utt0.mp4

The tables are found by name, the clips by name and by the folder above them that says train, dev
or test; so train/train_splits and videos/train will do. Sound is taken from a .wav or .flac file of
the clip's name, if there is one, else from the clip. Of 13,708 utterances 9,989 are for training,
1,109 (dev) for validation, 2,610 for the test. By --classes:
    7  anger 1607, disgust 361, fear 358, joy 2308, neutral 6436, sadness 1002, surprise 1636
    3  negative 4184, neutral 6436, positive 3088
Dialogues are the groups, seasons the sessions.

Known of the release: train's dia125_utt3.mp4 is damaged, dev's dia110_utt7.mp4 is missing, some
clips have no row. Some clips of the test part come twice, the second time named
final_videos_testdia0_utt0.mp4: that one is taken only where the other is missing. Some clips last
minutes, see --max-seconds. Quotation marks of Windows-1252 in the tables are read as such.
Source: Poria et al., MELD, 2019.
"""

import os
import re
import unicodedata
from argparse import ArgumentParser
from collections.abc import Iterator

from cmarr_jax.errors import UserError
from cmarr_jax.extract.corpora import counts, csv_file, files
from cmarr_jax.extract.source import Release, Utterance

KNOWN_COUNTS = {
    "7": {
        "anger": 1607,
        "disgust": 361,
        "fear": 358,
        "joy": 2308,
        "neutral": 6436,
        "sadness": 1002,
        "surprise": 1636,
    },
    "3": {"negative": 4184, "neutral": 6436, "positive": 3088},
}
KNOWN_PARTS = {"train": 9989, "val": 1109, "test": 2610}

_COLUMN_OF_CLASSES = {"7": "Emotion", "3": "Sentiment"}
_PART_OF_FILE = {"train": "train", "dev": "val", "test": "test"}
_USED = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season")
_UNUSED = ("Sr No.", "Episode", "StartTime", "EndTime")  # times in the episode, not in the clip
_CLIP = re.compile(r"(final_videos_test)?dia(\d+)_utt(\d+)")
_SOUNDS, _VIDEO = (".wav", ".flac"), ".mp4"


def add_flags(parser: ArgumentParser) -> None:
    """The flags of this corpus: the keywords of `scan`."""
    parser.add_argument(
        "--classes",
        choices=tuple(KNOWN_COUNTS),
        default="7",
        help="seven emotions (default) or three sentiments",
    )


def scan(root: str, *, classes: str = "7") -> Release:
    """Lists the utterances of a release in the order of the tables.

    Args:
      root: the folder `MELD.Raw`, or one above it.
      classes: "7" emotions or "3" sentiments.

    Raises:
      UserError: one of the three tables is missing or is none.
    """
    tables = {os.path.join(f, n): n for f, n in files.walk(root) if n.endswith("_sent_emo.csv")}
    found = files.index(root, (*_SOUNDS, _VIDEO), _key)
    warnings, turns, paths = found.warnings, [], dict(found.paths)
    for part in _PART_OF_FILE:
        name = f"{part}_sent_emo.csv"
        of_part = [path for path, n in tables.items() if n == name]
        if not of_part:
            raise UserError(
                f"--root={root}: no {name} in it or below; wanted the folder MELD.Raw of the "
                "official release, with its three tables"
            )
        if len(of_part) > 1:
            place = os.path.relpath(of_part[0], root)
            warnings.append(f"{name}: found {len(of_part)} times, {place} counts")
        turns += _utterances(of_part[0], part, classes, paths, warnings)
    _check_clips(turns, paths, found.others, warnings)
    warnings += counts.difference(turns, KNOWN_PARTS, of="split")
    warnings += counts.difference(turns, KNOWN_COUNTS[classes])
    return Release(turns, tuple(KNOWN_COUNTS[classes]), warnings)


def _utterances(
    file: str, part: str, classes: str, paths: dict, warnings: list[str]
) -> Iterator[Utterance]:
    """The rows of one table; takes from `paths` what they name."""
    name = os.path.basename(file)
    table = csv_file.read(file, _USED, windows=True)
    warnings += counts.named(
        f"columns of {name} are not read", {*table.columns} - {*_USED, *_UNUSED}
    )
    seen = set()
    for k, number in enumerate(table.numbers):
        row = {column: table.columns[column][k] for column in _USED}
        dialogue, turn = row["Dialogue_ID"].strip(), row["Utterance_ID"].strip()
        if not (dialogue.isdecimal() and turn.isdecimal()):
            raise UserError(
                f"{file}: row {number} has Dialogue_ID {dialogue!r:.40} and Utterance_ID "
                f"{turn!r:.40}, wanted two numbers"
            )
        key = (part, int(dialogue), int(turn))
        identifier = f"{part}_dia{key[1]}_utt{key[2]}"
        if key in seen:
            warnings.append(f"{name}: row {number} repeats {identifier}, the first row counts")
            continue
        seen.add(key)
        label = row[_COLUMN_OF_CLASSES[classes]].strip().lower()
        if label not in KNOWN_COUNTS[classes]:
            warnings.append(f"{name}: row {number} has the unknown label {label!r:.40}")
        files_of = {e: paths.pop((*key, e), None) for e in (*_SOUNDS, _VIDEO)}
        second = paths.get((*key, "again"))
        video = files_of[_VIDEO] or second
        if second and video == second:
            del paths[(*key, "again")]
        yield Utterance(
            id=identifier,
            session=_one_line(row["Season"]) or "unknown",
            speaker=_one_line(row["Speaker"]) or "unknown",
            label=label if label in KNOWN_COUNTS[classes] else "",
            group=f"{part}_dia{key[1]}",
            text=_one_line(row["Utterance"]) or None,
            wav=next((files_of[e] for e in _SOUNDS if files_of[e]), video),
            video=video,
            start=None,
            end=None,
            side=None,
            split=_PART_OF_FILE[part],
        )


def _check_clips(
    turns: list[Utterance], paths: dict, others: list[str], warnings: list[str]
) -> None:
    """Adds to `warnings` which rows have no clip, and which clips no row."""
    if any(u.video for u in turns):
        without = [u.id for u in turns if u.video is None]
        warnings += counts.named("utterances have no clip", without)
    second = [f"{key[0]}_dia{key[1]}_utt{key[2]}" for key in paths if key[3] == "again"]
    warnings += counts.named("clips named final_videos_test... are second copies, not read", second)
    rest = [f"{key[0]}_dia{key[1]}_utt{key[2]}{key[3]}" for key in paths if key[3] != "again"]
    warnings += counts.named("clips and sound files of no row are not read", rest)
    warnings += counts.named(
        "clips and sound files are not read: their names are no diaD_uttU, or no folder above them "
        "says train, dev or test",
        others,
    )


def _key(folder: str, stem: str, ending: str) -> tuple[str, int, int, str] | None:
    """(part, dialogue, utterance, ending) of a clip or sound file."""
    match, part = _CLIP.fullmatch(stem), _part(folder)
    if match is None or part is None:
        return None
    if match[1]:
        return (part, int(match[2]), int(match[3]), "again") if ending == _VIDEO else None
    return part, int(match[2]), int(match[3]), ending


def _part(folder: str) -> str | None:
    """The part that the nearest folder speaks of."""
    for name in reversed(folder.lower().split(os.sep)):
        for part in _PART_OF_FILE:
            if part in name:
                return part
    return None


def _one_line(text: str) -> str:
    """Printable, single-spaced, and one spelling of each letter."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return unicodedata.normalize("NFC", " ".join(printable.split()))
