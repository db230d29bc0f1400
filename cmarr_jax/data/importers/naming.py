"""Session, speaker and dialogue from an utterance's id, where ids follow a corpus' naming."""

import re
from typing import NamedTuple

from cmarr_jax.errors import UserError


class Turn(NamedTuple):
    """Who said it, and where a split must not cut."""

    session: str
    speaker: str
    group: str


# The speaker is the letter of the last token; the one beside the session wore the markers.
_IEMOCAP = re.compile(r"(Ses0*(\d+))[FM]_\w+_([FM])\d+")
# Sentence and target emotion, speaker's sex and session, scenario, pair and turn.
_MSP_IMPROV = re.compile(r"(?:MSP|UTD)-IMPROV-(S\d\d[A-Z])-([FM]0*(\d+))-[PRST]-[FM]{2}\d+")


def parse(identifier: str) -> Turn | None:
    """The turn that an IEMOCAP or MSP-IMPROV id names; None for any other id.

    `Ses01F_impro01_M003` is session 1, speaker `Ses01M`, dialogue `Ses01F_impro01`;
    `MSP-IMPROV-S01A-F01-S-FM01` is session 1, speaker `F01`, all of session 1's `S01A`.
    """
    if match := _IEMOCAP.fullmatch(identifier):
        return Turn(match[2], match[1] + match[3], identifier.rpartition("_")[0])
    if match := _MSP_IMPROV.fullmatch(identifier):
        return Turn(match[3], match[2], f"{match[3]}-{match[1]}")
    return None


def by_pattern(pattern: str, identifier: str) -> Turn:
    """The turn that an id names by the user's own rule.

    Args:
      pattern: a regular expression with the named groups `session`, `speaker` and, if wanted,
        `group`; it is searched anywhere in the id.
      identifier: the id.

    Raises:
      UserError: no regular expression, a named group is missing, or the id does not match.
    """
    try:
        expression = re.compile(pattern)
    except re.error as e:
        raise UserError(f"--id-pattern={pattern}: no regular expression ({e})") from None
    named = expression.groupindex
    if not {"session", "speaker"} <= set(named):
        raise UserError(
            f"--id-pattern={pattern}: wanted the named groups (?P<session>...) and (?P<speaker>...)"
        )
    match = expression.search(identifier)
    if match is None or not match["session"] or not match["speaker"]:
        raise UserError(f"--id-pattern={pattern}: does not match the id {identifier!r}")
    group = match["group"] if "group" in named else ""
    return Turn(match["session"], match["speaker"], group or "")
