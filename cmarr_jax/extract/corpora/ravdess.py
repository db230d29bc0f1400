"""RAVDESS' official release, its speech: two fixed sentences, eight emotions, 24 actors.

    Actor_01/03-01-06-01-02-01-12.wav                            sound alone
    Video_Speech_Actor_01/Actor_01/01-01-06-01-02-01-12.mp4      picture and sound
                                   02-01-06-01-02-01-12.mp4      picture alone

Files are found by name, wherever they lie. The numbers are: 01 picture and sound, 02 picture, 03
sound; 01 speech, 02 song; the emotion; its intensity; the sentence; the repetition; the actor. An
id is a name without its first number, which the files of one recording share. Sound is taken from
the .wav, else from the .mp4; songs are counted, not read.

The 1,440 recordings (neutral 96, the other seven emotions 192 each) have the same two sentences, so
the words say nothing of the emotion: text is in the pack's table, but features of it are made on
demand alone (--modalities s,t). The release has no sessions: here session k holds actors 4k-3 to
4k, two women and two men, so that training has six folds, none of which shares an actor. Source:
Livingstone and Russo, RAVDESS, 2018.
"""

import re

from cmarr_jax.errors import UserError
from cmarr_jax.extract.corpora import counts, files
from cmarr_jax.extract.source import Release, Utterance

_EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
KNOWN_COUNTS = {name: 96 if name == "neutral" else 192 for name in _EMOTIONS.values()}

_STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
_BOTH, _PICTURE, _SOUND = "01", "02", "03"
_SONG = "02"
_ACTORS_A_SESSION = 4
_RECORDING = re.compile(r"(0[1-3])-((0[12])-(0[1-8])-0[12]-(0[12])-0[12]-([01]\d|2[0-4]))")


def scan(root: str) -> Release:
    """Lists the spoken recordings of a release in the order of their ids.

    Args:
      root: the release's folder.

    Raises:
      UserError: no file in it is named as a spoken recording.
    """
    found = files.index(root, (".wav", ".mp4"), _key)
    songs = {i for i, _ in found.paths if i.startswith(_SONG)}
    spoken = sorted({i for i, _ in found.paths} - songs)
    if not spoken:
        raise UserError(
            f"--root={root}: no file such as Actor_01/03-01-06-01-02-01-01.wav in it or below "
            f"({len(songs)} songs); wanted the folder of RAVDESS' official release"
        )
    turns = [_utterance(i, found.paths) for i in spoken]
    warnings = [
        *found.warnings,
        *counts.named("songs are not read, speech alone is", songs),
        *counts.named("recordings are not named as RAVDESS', not read", found.others),
        *counts.difference(turns, KNOWN_COUNTS),
    ]
    return Release(turns, tuple(_EMOTIONS.values()), warnings, modalities="s")


def _key(folder: str, stem: str, ending: str) -> tuple[str, str] | None:
    match = _RECORDING.fullmatch(stem)
    if match is None or (match[1] == _SOUND) != (ending == ".wav"):
        return None
    return match[2], match[1]


def _utterance(identifier: str, paths: dict) -> Utterance:
    _, emotion, _, statement, _, actor = identifier.split("-")
    both = paths.get((identifier, _BOTH))
    return Utterance(
        id=identifier,
        session=str(1 + (int(actor) - 1) // _ACTORS_A_SESSION),
        speaker=f"Actor_{actor}",
        label=_EMOTIONS[emotion],
        group="",
        text=_STATEMENTS[statement],
        wav=paths.get((identifier, _SOUND), both),
        video=both or paths.get((identifier, _PICTURE)),
        start=None,
        end=None,
        side=None,
    )
