"""Bytes that a compiled program reads and writes, instruction by instruction, from its HLO's text.

What is counted is what passes between instructions: each fusion reads its operands and writes its
result once. Of an array that is only sliced or gathered from, the slices count; of one that is
updated in place, the update. Loops count as often as they run; of a conditional's branches, the
largest. A cache may keep some of it from the memory: this is an upper bound of the traffic of
these instructions, and another backend cuts the program into others.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body)=%([\w.\-]+)")
_BRANCHES = re.compile(
    r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%[\w.\-]+))"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "iota",
}  # fmt: skip
_SLICES = ("dynamic-slice", "gather", "slice")


class Instruction(NamedTuple):
    """One line of HLO."""

    name: str
    type: str
    op: str
    operands: tuple[str, ...]
    rest: str  # attributes and metadata
    is_root: bool


class Traffic(NamedTuple):
    """What one instruction moves, all its executions together."""

    bytes: int
    times: int
    op: str
    where: str  # the op_name that JAX gave it


def size(text: str) -> int:
    """Bytes of a type such as `f32[2,3]{1,0}` or a tuple of such."""
    total = 0
    for kind, dims in _SHAPE.findall(text):
        bits = 8 if kind == "pred" else int(re.search(r"\d+", kind)[0])
        count = 1
        for dim in filter(None, dims.split(",")):
            count *= int(dim)
        total += -(-count * bits // 8)
    return total


def traffic(text: str) -> list[Traffic]:
    """Of each instruction of a compiled program's text that moves anything, the largest first."""
    computations, entry = _parse(text)
    return sorted(_walk(computations, entry, 1), key=lambda t: -t.bytes)


def _parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    computations, current, entry = {}, None, ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" ") and "%" in line:
            name = _NAME.search(line)[1]
            current = computations.setdefault(name, {})
            entry = name if line.startswith("ENTRY") else entry
        elif current is not None and (found := _instruction(line)):
            current[found.name] = found
    return computations, entry


def _instruction(line: str) -> Instruction | None:
    match = re.match(r"\s+(ROOT )?%([\w.\-]+) = (.*)", line)
    if not match:
        return None
    root, name, rest = match.groups()
    end = _close(rest) if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    op, _, inside = rest.partition("(")
    end = _close("(" + inside) - 2
    operands = tuple(_NAME.findall(inside[:end]))
    return Instruction(name, kind, op, operands, inside[end:], bool(root))


def _close(text: str) -> int:
    """Where the parenthesis that `text` begins with ends."""
    depth = 0
    for k, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if not depth:
            return k + 1
    return len(text)


def _walk(computations: dict, name: str, times: int) -> Iterator[Traffic]:
    own = computations[name]
    for each in own.values():
        if each.op == "while":
            trips = _TRIPS.search(each.rest)
            body = re.search(r"body=%([\w.\-]+)", each.rest)[1]
            yield from _walk(computations, body, times * int(trips[1] if trips else 1))
        elif each.op == "conditional":
            names = [
                n for pair in _BRANCHES.findall(each.rest) for n in _NAME.findall("".join(pair))
            ]
            branches = [list(_walk(computations, n, times)) for n in names]
            yield from max(branches, key=lambda b: sum(t.bytes for t in b), default=[])
        elif each.op in ("call", "async-start"):
            yield from _walk(computations, _CALLED.search(each.rest)[1], times)
        elif each.op not in _FREE:
            moved = _fusion(each, own, computations) if each.op == "fusion" else _plain(each, own)
            where = _OP_NAME.search(each.rest)
            if moved:
                yield Traffic(moved * times, times, each.op, where[1] if where else each.name)


def _plain(each: Instruction, own: dict) -> int:
    sizes = [size(own[o].type) if o in own else 0 for o in each.operands]
    out = size(each.type)
    if each.op in _SLICES:
        return 2 * out + sum(sizes[1:])
    if each.op == "dynamic-update-slice":
        return 2 * sizes[1]
    if each.op == "scatter":
        return 3 * sizes[-1]
    return out + sum(sizes)


def _fusion(each: Instruction, own: dict, computations: dict) -> int:
    inside = computations[_CALLED.search(each.rest)[1]]
    users: dict[str, list[Instruction]] = {}
    for line in inside.values():
        for operand in line.operands:
            users.setdefault(operand, []).append(line)

    def read(name: str) -> int:
        total = 0
        for user in users.get(name, ()):
            if user.op in _SLICES and user.operands[0] == name:
                total += size(user.type)
            elif user.op == "dynamic-update-slice" and user.operands[0] == name:
                continue
            elif user.op == "bitcast":
                total += read(user.name)
            else:
                return size(inside[name].type)
        return min(total, size(inside[name].type))

    def written(name: str) -> int:
        line = inside[name]
        if line.op == "tuple":
            return sum(map(written, line.operands))
        if line.op == "bitcast":
            return written(line.operands[0])
        if line.op == "dynamic-update-slice":
            return size(inside[line.operands[1]].type)
        return size(line.type)

    parameters = [line.name for line in inside.values() if line.op == "parameter"]
    root = next(line.name for line in inside.values() if line.is_root)
    return sum(map(read, parameters)) + written(root)
