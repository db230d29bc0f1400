"""IEMOCAP's official release, `IEMOCAP_full_release`, with four, six or all of its classes.

    Session{1..5}/dialog/EmoEvaluation/DIALOGUE.txt     labels and times
    Session{1..5}/dialog/transcriptions/DIALOGUE.txt    what was said
    Session{1..5}/dialog/avi/DivX/DIALOGUE.avi          both actors side by side
    Session{1..5}/sentences/wav/DIALOGUE/UTTERANCE.wav  one turn

`Ses01F_impro01_M003` is a turn of session 1's male actor, recorded while the female actor wore
the markers: the speaker is the letter of the last token, not the one beside the session.
Forced alignments are not read. Source: Busso et al., IEMOCAP, 2008.

By --classes, with what the full release of 10,039 turns holds:
    4    ang 1103, hap 1636 (happy and excited), neu 1708, sad 1084 = 5531
    6    ang 1103, exc 1041, fru 1849, hap 595, neu 1708, sad 1084 = 7380
    all  these and dis 2, fea 40, oth 3, sur 107 = 7532
The other 2,507 have no majority label (xxx): they are unlabelled.
"""

import os
import re
from argparse import ArgumentParser

from cmarr_jax.errors import UserError
from cmarr_jax.extract.corpora import counts, transcripts
from cmarr_jax.extract.source import Release, Utterance

# Turns by the majority label of the raters; the two kinds of recording make the whole release.
KNOWN_COUNTS = {
    "improvised": {
        **{"ang": 289, "dis": 1, "exc": 663, "fea": 8, "fru": 971},
        **{"hap": 284, "neu": 1099, "oth": 1, "sad": 608, "sur": 60},
    },
    "scripted": {
        **{"ang": 814, "dis": 1, "exc": 378, "fea": 32, "fru": 878},
        **{"hap": 311, "neu": 609, "oth": 2, "sad": 476, "sur": 47},
    },
}
SPEAKER_SIDES = ("marker_left", "female_left")
SESSIONS = ("1", "2", "3", "4", "5")

_CODES = ("ang", "dis", "exc", "fea", "fru", "hap", "neu", "oth", "sad", "sur")
_NO_MAJORITY = "xxx"
# --classes -> label -> class
_CLASS_OF_CODE = {
    "4": {"ang": "ang", "exc": "hap", "hap": "hap", "neu": "neu", "sad": "sad"},
    "6": {code: code for code in ("ang", "exc", "fru", "hap", "neu", "sad")},
    "all": {code: code for code in _CODES},
}
_KINDS = {"impro": "improvised", "script": "scripted"}
_TIME = r"\s*(\d{1,6}(?:\.\d*)?)\s*"  # seconds
_LABEL_LINE = re.compile(rf"\[{_TIME}-{_TIME}\]\s+(\S+)\s+(\w+)\s+\[")
_TURN = re.compile(r"Ses\d\d[FM]_\w+_([FM])\d+")  # XX turns, two voices at once, do not match
_KIND = re.compile(r"Ses\d\d[FM]_(impro|script)")
_TEXT_LINE = re.compile(r"(Ses\w+)\s*(?:\[[^\]]*\])?\s*:\s*(.*)")


def add_flags(parser: ArgumentParser) -> None:
    """The flags of this corpus: the keywords of `scan`."""
    parser.add_argument(
        "--classes",
        choices=tuple(_CLASS_OF_CODE),
        default="4",
        help="classes of the pack, see above (default: 4); turns of others are unlabelled",
    )
    parser.add_argument(
        "--only",
        choices=tuple(_KINDS.values()),
        help="leave the other kind of recording out (default: both)",
    )
    parser.add_argument(
        "--speaker-side",
        choices=SPEAKER_SIDES,
        default="marker_left",
        help="who is in the left half of the picture: the actor that the file's name gives "
        "(default), or always the female; look at two files to be sure",
    )


def scan(
    root: str,
    *,
    classes: str = "4",
    only: str | None = None,
    speaker_side: str = "marker_left",
    strip_tags: bool = False,
) -> Release:
    """Lists the turns of a release in the order of their ids.

    Args:
      root: the folder `IEMOCAP_full_release`, or the one that holds it.
      classes: "4", "6" or "all", see above.
      only: "improvised" or "scripted" recordings; None = both.
      speaker_side: `marker_left`: the actor named beside the session is in the left half of the
        frame; `female_left`: the female actor always is.
      strip_tags: removes `[LAUGHTER]`, `--` and `...` from transcripts.

    Returns:
      The turns, with an empty label where the raters chose none of the classes or no majority.

    Raises:
      UserError: `root` holds no session.
    """
    class_of_code = _CLASS_OF_CODE[classes]
    nested = os.path.join(root, "IEMOCAP_full_release")
    root = nested if os.path.isdir(nested) else root
    warnings: list[str] = []
    turns: dict[str, Utterance] = {}
    for session in SESSIONS:
        folder = os.path.join(root, f"Session{session}")
        evaluations = os.path.join(folder, "dialog", "EmoEvaluation")
        if not os.path.isdir(evaluations):
            warnings.append(f"Session{session}/dialog/EmoEvaluation: missing, session left out")
            continue
        texts = _read_texts(os.path.join(folder, "dialog", "transcriptions"), strip_tags)
        for name in _text_files(evaluations):
            place = f"Session{session}/dialog/EmoEvaluation/{name}"
            for line in transcripts.lines(os.path.join(evaluations, name)):
                if not line.startswith("["):  # header, raters' votes, blank
                    continue
                match = _LABEL_LINE.match(line)
                if match is None or float(match[2]) < float(match[1]):
                    warnings.append(f"{place}: not a label line: {line[:60]!r}")
                    continue
                start, end, identifier, code = match.groups()
                if not (speaker := _TURN.fullmatch(identifier)):
                    continue
                if identifier in turns:
                    warnings.append(f"{place}: repeats {identifier}, the first line counts")
                    continue
                if code not in (*_CODES, _NO_MAJORITY):
                    warnings.append(f"{place}: {identifier} has the unknown emotion {code!r}")
                turns[identifier] = _utterance(
                    folder, session, identifier, speaker[1], speaker_side
                )._replace(
                    label=class_of_code.get(code, ""),
                    text=texts.get(identifier),
                    start=float(start),
                    end=float(end),
                )
    if not turns:
        raise UserError(
            f"--root={root}: no label under Session1..5/dialog/EmoEvaluation; wanted the folder "
            "IEMOCAP_full_release of the official release"
        )
    warnings += counts.unread("wav files", _wavs(root) - {*turns})
    chosen = [turns[i] for i in sorted(turns) if only in (None, _kind(i))]
    known = dict.fromkeys(sorted(set(class_of_code.values())), 0)
    for kind, number_of_code in KNOWN_COUNTS.items():
        for code, number in number_of_code.items():
            if only in (None, kind) and code in class_of_code:
                known[class_of_code[code]] += number
    return Release(chosen, tuple(known), warnings + counts.difference(chosen, known))


def _kind(identifier: str) -> str | None:
    """Of recording, "improvised" or "scripted"."""
    match = _KIND.match(identifier)
    return _KINDS[match[1]] if match else None


def _wavs(root: str) -> set[str]:
    """Ids of all turns that have a sound file."""
    found: set[str] = set()
    for session in SESSIONS:
        for _, _, names in os.walk(os.path.join(root, f"Session{session}", "sentences", "wav")):
            stems = (n.removesuffix(".wav") for n in names if n.endswith(".wav"))
            found |= {s for s in stems if _TURN.fullmatch(s)}
    return found


def _utterance(folder: str, session: str, identifier: str, letter: str, side: str) -> Utterance:
    dialogue = identifier.rpartition("_")[0]
    wav = os.path.join(folder, "sentences", "wav", dialogue, f"{identifier}.wav")
    video = os.path.join(folder, "dialog", "avi", "DivX", f"{dialogue}.avi")
    left_letter = identifier[5] if side == "marker_left" else "F"
    return Utterance(
        id=identifier,
        session=session,
        speaker=f"Ses0{session}{letter}",
        label="",
        group=dialogue,
        text=None,
        wav=wav if os.path.isfile(wav) else None,
        video=video if os.path.isfile(video) else None,
        start=None,
        end=None,
        side="left" if letter == left_letter else "right",
    )


def _read_texts(folder: str, strip_tags: bool) -> dict[str, str | None]:
    texts: dict[str, str | None] = {}
    for name in _text_files(folder):
        for line in transcripts.lines(os.path.join(folder, name)):
            if match := _TEXT_LINE.match(line):
                texts.setdefault(match[1], transcripts.clean(match[2], strip_tags=strip_tags))
    return texts


def _text_files(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return sorted(
        n for n in os.listdir(folder) if n.endswith(".txt") and not transcripts.is_hidden(n)
    )
