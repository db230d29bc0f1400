"""Compares the release that was read with the published number of turns."""

from collections import Counter
from collections.abc import Iterable, Mapping

from cmarr_jax.extract.source import Utterance


def difference(
    utterances: Iterable[Utterance], known: Mapping[str, int], of: str = "label"
) -> list[str]:
    """[] if each class has as many turns as `known`; else one line with both counts.

    Args:
      utterances: of the release.
      known: class -> turns.
      of: the field that is counted, `label` or `split`.
    """
    found = Counter(getattr(u, of) for u in utterances)
    if all(found[name] == count for name, count in known.items()):
        return []
    return [f"found {_listed({n: found[n] for n in known})}; the full release has {_listed(known)}"]


def unread(what: str, names: Iterable[str]) -> list[str]:
    """[] if there are none; else one line that counts and names what no label speaks of."""
    return named(f"{what} of no turn in the label files are not read", names)


def named(what: str, names: Iterable[str]) -> list[str]:
    """[] if there are none; else one line that says how many `what`, and the first few names."""
    listed = sorted(names)
    shown = ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
    return [f"{len(listed)} {what} ({shown})"] * bool(listed)


def _listed(counts: Mapping[str, int]) -> str:
    classes = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{classes} = {sum(counts.values())}"
