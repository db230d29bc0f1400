"""Configs as trees of fields: what every room that reads one needs."""

from collections.abc import Iterator
from typing import Any


def leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("a.b", value) of every leaf of a nested dictionary."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def sections(num_stages: int) -> list[str]:
    """The section of a config that each stage of a system is trained by.

    The last stage's is `train`; those of all earlier stages, teachers, `pretrain`.
    """
    return ["pretrain"] * (num_stages - 1) + ["train"]
