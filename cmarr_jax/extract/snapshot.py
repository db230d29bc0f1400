"""Files of a model's folder: each is there, whole, of that folder, and no stand-in for another."""

import json
import os
import stat
from typing import Any

from cmarr_jax.errors import UserError

_POINTER = b"version https://git-lfs.github.com/spec/"


def path(folder: str, name: str) -> str:
    """The file `name` of `folder`.

    A link may lead anywhere in the folder, and in the cache of the Hugging Face hub to the blobs
    that snapshots there are made of.

    Raises:
      UserError: it is missing, empty, a folder, a Git-LFS pointer or a link that leads elsewhere.
    """
    file = os.path.join(folder, name)
    try:
        mode = os.stat(file).st_mode
    except FileNotFoundError:
        dangling = os.path.islink(file)
        said = f"a link to {os.readlink(file)}, which is not there" if dangling else "no such file"
        raise UserError(f"{file}: {said}; {remedy(file)}") from None
    except OSError as e:
        raise UserError(f"{file}: {e.strerror or e}") from None
    if not stat.S_ISREG(mode):
        said = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise UserError(f"{file}: {said}; wanted a file of a Hugging Face model")
    if not _within(folder, file):
        raise UserError(
            f"{file}: a link that leads out of its folder, to {os.path.realpath(file)}; "
            "put the file itself there"
        )
    try:
        with open(file, "rb") as f:
            start = f.read(len(_POINTER))
    except OSError as e:
        raise UserError(f"{file}: {e.strerror or e}") from None
    if start == _POINTER:
        raise UserError(
            f"{file}: a Git-LFS pointer in the place of the file; run git lfs pull in the clone, "
            "or give the model's name on the hub"
        )
    if not start:
        raise UserError(f"{file}: empty; {remedy(file)}")
    return file


def read_json(file: str) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
      UserError: it is not JSON in UTF-8, names a field twice, or is no object.
    """
    try:
        with open(file, encoding="utf-8") as f:
            content = json.load(f, object_pairs_hook=fields)
    except RecursionError:
        raise UserError(f"{file}: not JSON (nested too deep)") from None
    except (OSError, ValueError) as e:
        raise UserError(f"{file}: not JSON ({e})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: a {type(content).__name__}; wanted an object with fields")
    return content


def fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of an object of JSON, for `json.load`.

    Raises:
      ValueError: one is there twice.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r:.60} is there twice")
        found[name] = value
    return found


def remedy(file: str) -> str:
    """What to do about a file that is not whole."""
    blob = os.path.realpath(file)
    if os.path.islink(file) and "blobs" in blob.split(os.sep):
        # The hub's client takes what is in its cache for whole.
        return f"delete {blob}, then the same command downloads it again"
    return "download it again"


def _within(folder: str, file: str) -> bool:
    root, target = os.path.realpath(folder), os.path.realpath(file)
    if os.path.basename(os.path.dirname(root)) == "snapshots":
        root = os.path.dirname(os.path.dirname(os.path.dirname(root)))  # of the hub's cache
    return os.path.commonpath([root, target]) == root
