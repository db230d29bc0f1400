"""Finds the files of a release by their names, wherever they lie."""

import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import NamedTuple

from cmarr_jax.extract.corpora import counts, transcripts

_POINTER = b"version https://git-lfs.github.com/spec/"
_LARGEST_POINTER = 1024  # bytes, by its specification


class Index(NamedTuple):
    """The files of a release."""

    paths: dict[Hashable, str]  # key -> the first path that has it
    others: list[str]  # names without a key
    repeated: int  # files whose key a path before them has

    @property
    def warnings(self) -> list[str]:
        """A line if names occur twice."""
        lines = [f"{self.repeated} files have a name twice; the first path counts"]
        return lines if self.repeated else []


def index(
    root: str, endings: tuple[str, ...], key: Callable[[str, str, str], Hashable | None]
) -> Index:
    """Walks through a folder in the order of the names.

    Args:
      root: the folder.
      endings: of the files that are looked at, in small letters; the others are passed over.
      key: relative folder, name without its ending, ending in small letters -> what the file is;
        None = nothing that is known.
    """
    paths: dict[Hashable, str] = {}
    others, repeated = [], 0
    for folder, name in walk(root):
        stem, ending = os.path.splitext(name)
        if ending.lower() not in endings:
            continue
        of_file = key(os.path.relpath(folder, root), stem, ending.lower())
        if of_file is None:
            others.append(name)
            continue
        repeated += of_file in paths
        paths.setdefault(of_file, os.path.join(folder, name))
    return Index(paths, others, repeated)


def walk(root: str) -> Iterator[tuple[str, str]]:
    """(folder, name) of every file that is not hidden, in the order of the names."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            if not transcripts.is_hidden(name):
                yield folder, name


def pointers(paths: Iterable[str]) -> list[str]:
    """A line if files are Git LFS pointers, the few lines that a plain clone has instead."""
    found = [os.path.basename(path) for path in paths if _is_pointer(path)]
    return counts.named(
        "files are pointers of Git LFS and hold no recording; run `git lfs pull` in the release",
        found,
    )


def _is_pointer(path: str) -> bool:
    if os.path.getsize(path) > _LARGEST_POINTER:
        return False
    with open(path, "rb") as f:
        return f.read(len(_POINTER)) == _POINTER
