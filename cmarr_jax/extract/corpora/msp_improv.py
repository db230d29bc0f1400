"""MSP-IMPROV's official release, with its four usual classes.

    Evaluation.txt or Evalution.txt (some releases misspell it)
    Audio/session{1..6}/S01A/{P,R,S,T}/MSP-IMPROV-S01A-F01-S-FM01.wav
    Video/...                          MSP-IMPROV-S01A-F01-S-FM01.avi
    All_human_transcriptions/.../      MSP-IMPROV-S01A-F01-S-FM01.txt

Releases differ in their folders, so files are found by name, wherever they lie under the root.
In the name, S01A is the sentence and the emotion that the actor was to show, F01 the speaker's
sex and session, and S the scenario: R the target sentence read, S the target sentence improvised,
P the other turns of that improvisation, T natural interaction. The label is what most raters
perceived, not the emotion that was to be shown. Source: Busso et al., MSP-IMPROV, 2017.
"""

import os
import re
from argparse import ArgumentParser
from collections.abc import Iterator

from cmarr_jax.errors import UserError
from cmarr_jax.extract.corpora import counts, transcripts
from cmarr_jax.extract.source import Release, Utterance

CLASS_NAMES = ("ang", "hap", "neu", "sad")
SCENARIOS = "PRST"
# By scenarios, and whether turns that lack a modality are left out. The paper's subset is S.
KNOWN_COUNTS = {
    ("S", False): {"ang": 470, "hap": 1048, "neu": 1789, "sad": 633},
    ("S", True): {"ang": 460, "hap": 999, "neu": 1733, "sad": 627},
    ("PRST", False): {"ang": 792, "hap": 2644, "neu": 3477, "sad": 885},
}

_CLASS_OF_CODE = {"A": "ang", "H": "hap", "N": "neu", "S": "sad"}
_OTHER_CODES = ("O", "X")  # another emotion, no majority
_EVALUATIONS = ("evaluation.txt", "evalution.txt")
_TURN = re.compile(r"MSP-IMPROV-(S\d\d[A-Z])-([FM](\d\d))-([PRST])-[FM]{2}\d+")
_LABEL_LINE = re.compile(r"(?:UTD|MSP)-IMPROV-(\S+?)(?:\.avi)?\s*;\s*(\w+)\s*;")


def add_flags(parser: ArgumentParser) -> None:
    """The flags of this corpus: the keywords of `scan`."""
    parser.add_argument(
        "--scenarios",
        default=SCENARIOS,
        metavar="LETTERS",
        help="of R read, S target sentence improvised, P rest of the improvisation, T natural "
        f"(default: {SCENARIOS}; the paper's subset is S)",
    )
    parser.add_argument(
        "--complete",
        action="store_true",
        help="leave out turns without transcript, sound or video: with --scenarios S 3,819 of "
        "3,940 stay, the paper's number",
    )


def scan(
    root: str,
    *,
    scenarios: str = SCENARIOS,
    complete: bool = False,
    strip_tags: bool = False,
) -> Release:
    """Lists the turns of a release in the order of their ids.

    Args:
      root: the release's folder.
      scenarios: letters of the scenarios to keep.
      complete: leaves out turns that lack a transcript, a wav or a video file.
      strip_tags: removes `[LAUGHTER]`, `--` and `...` from transcripts.

    Returns:
      The turns, with an empty label where the raters chose none of the four classes or no
      majority.

    Raises:
      UserError: `root` holds no evaluation file, `scenarios` is not of these letters, or no turn
        is complete.
    """
    if not scenarios or set(scenarios) - set(SCENARIOS):
        raise UserError(f"--scenarios={scenarios}: wanted some of the letters {SCENARIOS}")
    warnings: list[str] = []
    files = _index(root, warnings)
    evaluation = next((files[name] for name in _EVALUATIONS if name in files), None)
    if evaluation is None:
        raise UserError(
            f"--root={root}: no Evaluation.txt (or Evalution.txt) in it or below; wanted the "
            "folder of MSP-IMPROV's official release"
        )
    place = os.path.relpath(evaluation, root)
    if all(name in files for name in _EVALUATIONS):
        warnings.append(f"both spellings of Evaluation.txt found, {place} counts")
    turns: dict[str, Utterance] = {}
    for identifier, code in _labels(evaluation, place, warnings):
        sentence, speaker, session, scenario = _TURN.fullmatch(identifier).groups()
        if scenario not in scenarios:
            continue
        if identifier in turns:
            warnings.append(f"{place}: repeats {identifier}, the first line counts")
            continue
        if code not in _CLASS_OF_CODE and code not in _OTHER_CODES:
            warnings.append(f"{place}: {identifier} has the unknown emotion {code!r}")
        turns[identifier] = Utterance(
            id=identifier,
            session=str(int(session)),
            speaker=speaker,
            label=_CLASS_OF_CODE.get(code, ""),
            group=f"{int(session)}-{sentence}",
            text=_read_text(files.get(f"{identifier}.txt"), strip_tags),
            wav=files.get(f"{identifier}.wav"),
            video=files.get(f"{identifier}.avi"),
            start=None,
            end=None,
            side=None,
        )
    if not turns:
        raise UserError(f"{evaluation}: no turn of scenarios {scenarios} in it")
    if not any(t.text for t in turns.values()) and "human_transcriptions.zip" in files:
        warnings.append("Human_Transcriptions.zip: unpack it to have the transcripts")
    stems = {name.removesuffix(".wav") for name in files if name.endswith(".wav")}
    named = {i for i, _ in _labels(evaluation, place, [])}
    warnings += counts.unread("wav files", {s for s in stems if _TURN.fullmatch(s)} - named)
    chosen = [turns[i] for i in sorted(turns)]
    if complete:
        chosen = [u for u in chosen if u.text and u.wav and u.video]
        if not chosen:
            having = {
                what: sum(getattr(u, field) is not None for u in turns.values())
                for what, field in (("a transcript", "text"), ("sound", "wav"), ("video", "video"))
            }
            listed = ", ".join(f"{number} have {what}" for what, number in having.items())
            raise UserError(
                f"--complete: none of {len(turns)} turns has all of them ({listed}); complete the "
                "release or leave --complete out"
            )
    if known := KNOWN_COUNTS.get(("".join(sorted(set(scenarios))), complete)):
        warnings += counts.difference(chosen, known)
    return Release(chosen, CLASS_NAMES, warnings)


def _index(root: str, warnings: list[str]) -> dict[str, str]:
    """File name -> path; a name that occurs twice belongs to the first path."""
    files: dict[str, str] = {}
    repeated = 0
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            if transcripts.is_hidden(name):
                continue
            stem, extension = os.path.splitext(name)
            is_turn = _TURN.fullmatch(stem) is not None
            key = stem + extension.lower() if is_turn else name.lower()
            repeated += is_turn and key in files
            files.setdefault(key, os.path.join(folder, name))
    if repeated:
        warnings.append(f"{repeated} files have a name twice; the first path counts")
    return files


def _labels(evaluation: str, place: str, warnings: list[str]) -> Iterator[tuple[str, str]]:
    """(id, code) of each turn; the raters' own lines lie between them."""
    for number, line in enumerate(transcripts.lines(evaluation), start=1):
        if not line.startswith(("UTD-IMPROV-", "MSP-IMPROV-")):
            continue
        match = _LABEL_LINE.match(line)
        identifier = f"MSP-IMPROV-{match[1]}" if match else ""
        if _TURN.fullmatch(identifier):
            yield identifier, match[2]
        else:
            warnings.append(f"{place}: line {number} is no label line: {line[:60]!r}")


def _read_text(file: str | None, strip_tags: bool) -> str | None:
    if file is None:
        return None
    return transcripts.clean(" ".join(transcripts.lines(file)), strip_tags=strip_tags)
