"""The fields of a config: what each means, where it was set, and which ones there may not be.

What a field means is its comment in configs/common.py or configs/systems.py, read from there.
"""

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from cmarr_jax.cli import config_files
from cmarr_jax.config import leaves
from cmarr_jax.errors import UserError

_FIELD = re.compile(r"\s+([a-z])\.([\w.]+) =(?: ([a-z]) =)? (.*)")
_PRESET = re.compile(r'\s+"([\w.]+)": .*?  # (.*)')


def check(config: ConfigDict, file: str) -> None:
    """Refuses what a config file has left out, misspelt, or given another type.

    Fields of `model` are each system's own; `experiment.run.check` looks at them.

    Args:
      config: what its `get_config` returned.
      file: the config file, in which the line is looked for.

    Raises:
      UserError: FILE:LINE, the field, what was wanted.
    """
    found = {k: v for k, v in leaves(config.to_dict()) if not k.startswith("model.")}
    known = dict(leaves(config_files.get("").to_dict()))
    known = {k: v for k, v in known.items() if not k.startswith("model.")}
    for field in known:
        parts = field.split(".")
        missing = next(
            (
                p
                for k in range(len(parts))
                if (p := ".".join(parts[: k + 1])) not in _sections(found) and p not in found
            ),
            "",
        )
        if missing:
            raise UserError(
                f"{_place(file, missing)}: get_config returns no {missing!r}; start from "
                "common.get_config() and leave it in"
            )
    for field, value in found.items():
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else "see configs/common.py"
            raise UserError(f"{_place(file, field)}: {field!r} is no field of a config; {hint}")
        if not _fits(value, known[field]):
            raise UserError(
                f"{_place(file, field)}: {field}={value!r}: wanted a value of type "
                f"{type(known[field]).__name__}"
            )


def origins(given: str, config: ConfigDict, flags: Iterable[str]) -> dict[str, str]:
    """Field -> where its value comes from: "default", "config file", "argument" or "flag".

    Args:
      given: FILE[:ARGUMENT], as --config names it.
      config: what is trained.
      flags: the fields that the command line has set.
    """
    file, colon, _ = given.partition(":")
    default = dict(leaves(config_files.get("").to_dict()))
    argued = dict(leaves(config_files.get(given).to_dict()))
    plain = argued
    if colon:
        with contextlib.suppress(UserError):  # it wants an argument
            plain = dict(leaves(config_files.get(file).to_dict()))
    nothing = object()

    def origin(field: str) -> str:
        if field in flags:
            return "flag"
        if plain.get(field, nothing) != argued.get(field, nothing):
            return "argument"
        if default.get(field, nothing) != plain.get(field, nothing):
            return "config file"
        return "default"

    return {field: origin(field) for field, _ in leaves(config.to_dict())}


def table(config: ConfigDict, where: Mapping[str, str] | None = None) -> str:
    """A line for each field, by section: its value, where it was set, and what it means.

    Args:
      config: of `configs/`.
      where: of `origins`; None leaves that column out.
    """
    means, lines, section = comments(), [], None
    for parent, _, field, value in sorted(
        (*field.rpartition(".")[:2], field, value) for field, value in leaves(config.to_dict())
    ):
        if parent != section:
            section = parent
            if parent:
                lines += ["", f"[{parent}]" + (f"  {means[parent]}" if parent in means else "")]
        line = f"{field} = {value!r}".ljust(46)
        if where is not None:
            line += f"  {where.get(field, 'default'):<12}"
        lines.append(f"{line}  {means.get(field, means.get('.' + field.rpartition('.')[2], ''))}")
    return "\n".join(line.rstrip() for line in lines)


def comments() -> dict[str, str]:
    """Field, or section -> its comment; ".NAME" -> that of a field which a system alone has."""
    found: dict[str, str] = {}
    sections = {"c": ""}
    for line in _source("common.py", "def get_config"):
        if not (match := _FIELD.match(line)):
            continue
        owner, field, alias, rest = match.groups()
        field = sections[owner] + field
        if alias:
            sections[alias] = f"{field}."
        if "  # " in rest:
            found[field] = rest.partition("  # ")[2]
    encoders = [f"encoders.{m}" for m in config_files.get("").encoders]
    alike = {"def training": ["train", "pretrain"], "def encoder": encoders}
    for start, sections_of in alike.items():
        for line in _source("systems.py", start):
            if (match := _FIELD.match(line)) and "  # " in match[4]:
                for section in sections_of:
                    found[f"{section}.{match[2]}"] = match[4].partition("  # ")[2]
    for line in _source("systems.py", "PRESETS"):
        if match := _PRESET.match(line):
            found[f".{match[1].rpartition('.')[2]}"] = match[2]
    return found


def _source(name: str, start: str) -> list[str]:
    """The lines of a file of configs/ from the one that begins with `start` to the next one that
    begins at the margin.
    """
    with open(os.path.join(config_files.FOLDER, "configs", name), encoding="utf-8") as f:
        lines = f.read().splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith(start))
    inside = lines[first + 1 :]
    ends = (k for k, line in enumerate(inside) if line and not line.startswith((" ", "}")))
    return inside[: next(ends, len(inside))]


def _sections(fields: Iterable[str]) -> set[str]:
    """Every section that a field lies in."""
    parts = [field.split(".")[:-1] for field in fields]
    return {".".join(p[: k + 1]) for p in parts for k in range(len(p))}


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, tuple | list):
        return isinstance(value, tuple | list)
    return isinstance(value, type(default))


def _place(file: str, field: str) -> str:
    """FILE:LINE of the line that sets `field`, else of `get_config`."""
    with open(file, encoding="utf-8") as f:
        lines = f.read().splitlines()
    parts = field.split(".")
    wanted = [re.compile(rf"\.{re.escape('.'.join(parts[k:]))}\b") for k in range(len(parts))]
    wanted += [re.compile(rf"\b{re.escape(parts[-1])}\b"), re.compile(r"def get_config\b")]
    for pattern in wanted:
        for number, line in enumerate(lines, start=1):
            if pattern.search(line):
                return f"{file}:{number}"
    return file
