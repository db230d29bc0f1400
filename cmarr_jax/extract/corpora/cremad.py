"""CREMA-D's official release: twelve fixed sentences, six intended emotions.

    AudioWAV/1001_DFA_ANG_XX.wav      1001 the actor, DFA the sentence, ANG the emotion
    VideoFlash/1001_DFA_ANG_XX.flv    or .mp4 or .avi, wherever they lie

The 7,442 clips (ang, dis, fea, hap and sad 1271 each, neu 1087) are told by their names. The label
is the emotion that the actor was asked for, as published results have it, not what raters heard.
AudioMP3 and the tables of ratings are not read.

Every emotion has the same sentences, so the words say nothing of it: text is in the pack's table,
but features of it are made on demand alone (--modalities s,t). The release has no sessions: here
session k holds a fifth of the 91 actors in the order of their numbers, so that training has five
folds, none of which shares an actor. Source: Cao et al., CREMA-D, 2014.
"""

import re

from cmarr_jax.errors import UserError
from cmarr_jax.extract.corpora import counts, files
from cmarr_jax.extract.source import Release, Utterance

KNOWN_COUNTS = {"ang": 1271, "dis": 1271, "fea": 1271, "hap": 1271, "neu": 1087, "sad": 1271}

_SENTENCES = {
    "DFA": "Don't forget a jacket.",
    "IEO": "It's eleven o'clock.",
    "IOM": "I'm on my way to the meeting.",
    "ITH": "I think I have a doctor's appointment.",
    "ITS": "I think I've seen this before.",
    "IWL": "I would like a new alarm clock.",
    "IWW": "I wonder what this is about.",
    "MTI": "Maybe tomorrow it will be cold.",
    "TAI": "The airplane is almost full.",
    "TIE": "That is exactly what happened.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
_FIRST_ACTOR, _NUM_ACTORS, _NUM_SESSIONS = 1001, 91, 5
_VIDEOS = (".mp4", ".flv", ".avi")
# Old copies spell one clip's level X.
_CLIP = re.compile(rf"(\d{{4}})_({'|'.join(_SENTENCES)})_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX?)")


def scan(root: str) -> Release:
    """Lists the clips of a release in the order of their ids.

    Args:
      root: the release's folder.

    Raises:
      UserError: no file in it is named as a clip, or none of them is more than a pointer.
    """
    found = files.index(root, (".wav", *_VIDEOS), _key)
    if not found.paths:
        raise UserError(
            f"--root={root}: no file such as AudioWAV/1001_DFA_ANG_XX.wav in it or below; wanted "
            "the folder of CREMA-D's official release"
        )
    warnings = files.pointers(found.paths.values())
    if warnings and warnings[0].startswith(f"{len(found.paths)} "):
        raise UserError(f"--root={root}: {warnings[0]}")
    warnings += found.warnings
    warnings += counts.named("recordings are not named as clips, not read", found.others)
    clips = [_utterance(i, found.paths) for i in sorted({i for i, _ in found.paths})]
    warnings += counts.difference(clips, KNOWN_COUNTS)
    return Release(clips, tuple(KNOWN_COUNTS), warnings, modalities="s")


def _key(folder: str, stem: str, ending: str) -> tuple[str, str] | None:
    match = _CLIP.fullmatch(stem)
    return (stem + "X" * (match[4] == "X"), ending) if match else None


def _utterance(identifier: str, paths: dict) -> Utterance:
    actor, sentence, emotion, _ = _CLIP.fullmatch(identifier).groups()
    videos = (paths.get((identifier, ending)) for ending in _VIDEOS)
    return Utterance(
        id=identifier,
        session=str(1 + (int(actor) - _FIRST_ACTOR) * _NUM_SESSIONS // _NUM_ACTORS),
        speaker=actor,
        label=emotion.lower(),
        group="",
        text=_SENTENCES[sentence],
        wav=paths.get((identifier, ".wav")),
        video=next(filter(None, videos), None),
        start=None,
        end=None,
        side=None,
    )
