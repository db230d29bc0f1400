"""IEMOCAP's official release, `IEMOCAP_full_release`, with its four usual classes.

    Session{1..5}/dialog/EmoEvaluation/DIALOGUE.txt     labels and times
    Session{1..5}/dialog/transcriptions/DIALOGUE.txt    what was said
    Session{1..5}/dialog/avi/DivX/DIALOGUE.avi          both actors side by side
    Session{1..5}/sentences/wav/DIALOGUE/UTTERANCE.wav  one turn

`Ses01F_impro01_M003` is a turn of session 1's male actor, recorded while the female actor wore
the markers: the speaker is the letter of the last token, not the one beside the session.
Forced alignments are not read. Source: Busso et al., IEMOCAP, 2008.
"""

import os
import re

from cmarr_jax.errors import UserError
from cmarr_jax.extract.corpora import counts, transcripts
from cmarr_jax.extract.source import Utterance

CLASS_NAMES = ("ang", "hap", "neu", "sad")
KNOWN_COUNTS = {"ang": 1103, "hap": 1636, "neu": 1708, "sad": 1084}
SPEAKER_SIDES = ("marker_left", "female_left")
SESSIONS = ("1", "2", "3", "4", "5")

_CLASS_OF_CODE = {"ang": "ang", "hap": "hap", "exc": "hap", "neu": "neu", "sad": "sad"}
_OTHER_CODES = ("fru", "fea", "sur", "dis", "oth", "xxx")
_LABEL_LINE = re.compile(r"\[\s*([\d.]+)\s*-\s*([\d.]+)\s*\]\s+(\S+)\s+(\w+)\s+\[")
_TURN = re.compile(r"Ses\d\d[FM]_\w+_([FM])\d+")  # XX turns, two voices at once, do not match
_TEXT_LINE = re.compile(r"(Ses\w+)\s*(?:\[[^\]]*\])?\s*:\s*(.*)")


def scan(
    root: str, *, speaker_side: str = "marker_left", strip_tags: bool = False
) -> tuple[list[Utterance], list[str]]:
    """Lists the turns of a release in the order of their ids.

    Args:
      root: the folder `IEMOCAP_full_release`, or the one that holds it.
      speaker_side: `marker_left`: the actor named beside the session is in the left half of the
        frame; `female_left`: the female actor always is.
      strip_tags: removes `[LAUGHTER]`, `--` and `...` from transcripts.

    Returns:
      The turns, with an empty label where the raters chose none of the four classes or no
      majority; and warnings, one line each.

    Raises:
      UserError: `root` holds no session.
    """
    if speaker_side not in SPEAKER_SIDES:
        raise UserError(f"--speaker-side={speaker_side}: wanted one of {', '.join(SPEAKER_SIDES)}")
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
                if match is None:
                    warnings.append(f"{place}: not a label line: {line[:60]!r}")
                    continue
                start, end, identifier, code = match.groups()
                if not (speaker := _TURN.fullmatch(identifier)):
                    continue
                if identifier in turns:
                    warnings.append(f"{place}: repeats {identifier}, the first line counts")
                    continue
                if code not in _CLASS_OF_CODE and code not in _OTHER_CODES:
                    warnings.append(f"{place}: {identifier} has the unknown emotion {code!r}")
                turns[identifier] = _utterance(
                    folder, session, identifier, speaker[1], speaker_side
                )._replace(
                    label=_CLASS_OF_CODE.get(code, ""),
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
    warnings += counts.difference(turns.values(), KNOWN_COUNTS)
    return [turns[i] for i in sorted(turns)], warnings


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
