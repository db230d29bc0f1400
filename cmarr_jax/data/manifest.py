"""pack.json of a feature pack: its version, names, dims and origin."""

import json
import os
from typing import Any

from cmarr_jax.errors import UserError

FORMAT_VERSION = 1


def read(path: str) -> dict[str, Any]:
    """The content of PATH/pack.json.

    Raises:
      UserError: `path` is no pack, was made by another version, or a field is not what it must be.
    """
    file = os.path.join(path, "pack.json")
    if not os.path.isdir(path):
        raise UserError(f"{path}: no such folder; wanted a feature pack (a folder with pack.json)")
    try:
        with open(file, encoding="utf-8") as f:
            manifest = json.load(f, object_pairs_hook=_object)
    except FileNotFoundError:
        raise UserError(f"{file}: missing, so {path} is no feature pack") from None
    except OSError as e:
        raise UserError(f"{file}: cannot be read ({e.strerror})") from None
    except RecursionError:
        raise UserError(f"{file}: not a manifest, its brackets nest too deep") from None
    except ValueError as e:
        raise UserError(f"{file}: not JSON ({e})") from None
    if not isinstance(manifest, dict):
        raise UserError(f"{file}: found a {type(manifest).__name__}, wanted an object")
    version = manifest.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise UserError(
            f"{file}: format_version is {version!r}, this library reads {FORMAT_VERSION}; "
            "make the pack again or change the library's version"
        )
    fields = {"corpus": str, "classes": list, "modalities": list, "dims": dict, "provenance": dict}
    for field, kind in fields.items():
        if not isinstance(manifest.get(field), kind):
            raise UserError(
                f"{file}: field {field!r} is {manifest.get(field)!r}, wanted a {kind.__name__}"
            )
    for field in ("classes", "modalities"):
        names = manifest[field]
        if not names or not all(isinstance(n, str) and _is_name(n) for n in names):
            raise UserError(f"{file}: {field!r} is {names!r}, wanted a list of printable names")
        if len(set(names)) < len(names):
            raise UserError(f"{file}: {field!r} has a name twice: {names!r}")
    if not _is_name(manifest["corpus"]):
        raise UserError(f"{file}: 'corpus' is {manifest['corpus']!r}, wanted a printable name")
    for modality in manifest["modalities"]:
        check_modality(file, modality)
        dim = manifest["dims"].get(modality)
        if type(dim) is not int or dim < 1:
            raise UserError(f"{file}: dims[{modality!r}] is {dim!r}, wanted a positive integer")
    return manifest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the field {twice!r} stands twice")
    return content


def _is_name(text: str) -> bool:
    return bool(text) and text.isprintable() and text == text.strip()


def check_modality(where: str, modality: str) -> None:
    """Refuses a modality that could name a file outside the pack."""
    if not modality.isidentifier():
        raise UserError(f"{where}: modality {modality!r} must be a plain word: it names a file")
