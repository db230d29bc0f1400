"""Reads the text files of a release: with stray bytes, a Mac's hidden copies, odd spaces."""

import re
from collections.abc import Iterator

_TAG = re.compile(r"\[[A-Za-z _]*\]|--+|\.\.\.+")


def lines(file: str) -> Iterator[str]:
    """The lines of a text file without their ends; bytes that are no UTF-8 become U+FFFD."""
    with open(file, encoding="utf-8-sig", errors="replace") as f:
        for line in f:
            yield line.rstrip("\r\n")


def is_hidden(name: str) -> bool:
    """Whether a file name is a Mac's `._*` shadow or another hidden file."""
    return name.startswith(".")


def clean(text: str, *, strip_tags: bool) -> str | None:
    """One line of single-spaced text, or None if no word is left.

    Args:
      text: a transcript.
      strip_tags: also removes `[LAUGHTER]` and the like, `--` and `...`.
    """
    if strip_tags:
        text = _TAG.sub(" ", text)
    return " ".join(text.split()) or None
