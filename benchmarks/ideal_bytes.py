"""Bytes that a program has to read and write if a compiler fuses all that it can, from its jaxpr.

It holds for no backend in particular. Elementwise operations, broadcasts, slices, gathers, joins
and conversions cost nothing where they are computed; they are part of what reads them. A product, a
reduction, a sort, a scatter and the end of a loop's body read what they need from memory and write
their result to it. An operand of a product has to lie in memory: if it is computed by elementwise
operations, these read and write once more. Operations of one shape that need not wait for each
other read what they share once. What a loop's body does counts as often as it runs.
"""

import collections
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

_FUSED = set(
    """
    add add_any sub mul div max min neg sign abs exp exp2 log log1p expm1 tanh logistic erf erf_inv
    sqrt rsqrt square cbrt pow integer_pow sin cos floor ceil round clamp is_finite not and or xor
    eq ne lt le gt ge select_n convert_element_type bitcast_convert_type broadcast_in_dim reshape
    squeeze expand_dims transpose rev iota concatenate pad slice dynamic_slice gather shift_left
    shift_right_logical shift_right_arithmetic rem copy stop_gradient random_bits random_wrap
    random_unwrap random_split random_fold_in random_seed split reduce_precision
    """.split()  # noqa: SIM905 - a list would be sixty lines
)
_SLICES = {"slice", "dynamic_slice", "gather", "split"}
_UPDATES = {"scatter", "scatter-add", "scatter_add", "dynamic_update_slice"}


class Moved(NamedTuple):
    """What one operation reads and writes, all its executions together."""

    bytes: int
    times: int
    op: str
    where: str  # JAX's name stack


class _Value(NamedTuple):
    """An array: in memory if it has a `place`, else computed from `leaves` where it is read."""

    aval: Any
    place: int  # 0 = not in memory
    leaves: dict[int, int]  # place -> bytes
    op: str = ""
    where: str = ""


class Count:
    """Counts a traced program.

    Attributes:
      moved: of each operation that reads or writes memory.
      outputs: bytes of the results of all operations, as if nothing were fused.
      written: (dtype, shape) of what is written to memory -> how often.
    """

    def __init__(self, program: core.ClosedJaxpr):
        self.moved: list[Moved] = []
        self.outputs = 0
        self.written: collections.Counter = collections.Counter()
        self._places = itertools.count(1)
        self._level: dict[int, int] = {}  # place -> operations that its value waits for in turn
        self._stored: dict[int, tuple[_Value, _Value]] = {}
        self._read: dict[tuple, dict[int, int]] = {}  # by operations that can be one
        self._times = 1
        inputs = [self._new(v.aval) for v in (*program.jaxpr.constvars, *program.jaxpr.invars)]
        for value in self._run(program.jaxpr, inputs, ""):
            self._store(value)

    @property
    def total(self) -> int:
        """Bytes that are read and written."""
        return sum(each.bytes for each in self.moved)

    def _new(self, aval, level: int = 0) -> _Value:
        place = next(self._places)
        self._level[place] = level
        return _Value(aval, place, {place: _size(aval)})

    def _write(self, aval, op: str, where: str, leaves: dict[int, int], over=None) -> _Value:
        """A new array in memory, from `leaves`, by an operation on arrays of the shape `over`."""
        level = 1 + max((self._level[place] for place in leaves), default=0)
        # Operations of one shape that can run at once are one: they read what they share once.
        shared = self._read.setdefault((self._times, level, _count(over or aval)), {})
        reads = sum(size for place, size in leaves.items() if place not in shared)
        shared |= leaves
        moved = reads + _size(aval)
        self.moved.append(Moved(moved * self._times, self._times, op, where))
        if hasattr(aval, "dtype"):
            self.written[str(aval.dtype), aval.shape] += self._times
        return self._new(aval, level)

    def _store(self, value: _Value) -> _Value:
        """The same in memory."""
        if value.place or (not value.leaves and _count(value.aval) <= 1):
            return value
        if id(value) not in self._stored:
            stored = self._write(value.aval, value.op, value.where, value.leaves)
            self._stored[id(value)] = stored, value  # kept, so that no other gets its id
        return self._stored[id(value)][0]

    def _run(self, jaxpr, inputs: Sequence[_Value], where: str) -> list[_Value]:
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], inputs, strict=True))

        def read(atom) -> _Value:
            return _Value(atom.aval, 0, {}) if hasattr(atom, "val") else env[atom]

        for eqn in jaxpr.eqns:
            name = eqn.primitive.name
            here = "/".join(filter(None, (where, str(eqn.source_info.name_stack))))
            given = [read(v) for v in eqn.invars]
            avals = [v.aval for v in eqn.outvars]
            if name in ("scan", "while", "cond"):
                results = self._loop(eqn, given, here)
            elif (inner := _inlined(eqn)) is not None:
                constants = [self._new(v.aval) for v in inner.constvars]
                results = self._run(inner, [*constants, *given], here)
            else:
                self.outputs += self._times * sum(map(_size, avals))
                results = self._apply(name, given, avals, here)
            env |= dict(zip(eqn.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _apply(self, name: str, given: list[_Value], avals: list, where: str) -> list[_Value]:
        if name in _FUSED:
            leaves = _union(given)
            if name in _SLICES and given[0].place:  # it reads a part
                own = given[0].place
                leaves = leaves | {own: min(leaves[own], sum(map(_size, avals)))}
            return [_Value(aval, 0, leaves, name, where) for aval in avals]
        if name in _UPDATES:
            update = given[-1 if name != "dynamic_update_slice" else 1]
            self._write(update.aval, name, where, _union(given[1:]))
            return [self._new(avals[0], 1 + max(map(self._level_of, given)))]
        if name.startswith(("reduce_", "arg")):
            leaves = _union(given)
            return [self._write(a, name, where, leaves, over=given[0].aval) for a in avals]
        leaves = _union([self._store(v) for v in given])  # a product, a sort, a factorisation
        first = self._write(avals[0], name, where, leaves, over=None)
        return [first] + [self._write(a, name, where, {}) for a in avals[1:]]

    def _level_of(self, value: _Value) -> int:
        return max((self._level[place] for place in value.leaves), default=0)

    def _loop(self, eqn, given: list[_Value], where: str) -> list[_Value]:
        params, name = eqn.params, eqn.primitive.name
        given = [self._store(v) for v in given]
        level = 1 + max(map(self._level_of, given), default=0)
        outside = self._times
        if name == "cond":
            before, found = self.moved, []
            for branch in params["branches"]:
                self.moved = []
                for value in self._run(branch.jaxpr, given[1:], where):
                    self._store(value)
                found.append(self.moved)
            self.moved = before + max(found, key=lambda moved: sum(x.bytes for x in moved))
            return [self._new(v.aval, level) for v in eqn.outvars]
        self._times *= params.get("length", 1)
        body = params["jaxpr" if name == "scan" else "body_jaxpr"].jaxpr
        fixed = given[: params["num_consts"]] if name == "scan" else []
        rest = [self._new(v.aval, level) for v in body.invars[len(fixed) :]]
        results = [self._store(value) for value in self._run(body, [*fixed, *rest], where)]
        self._times = outside
        level = 1 + max(map(self._level_of, results), default=0)
        return [self._new(v.aval, level) for v in eqn.outvars]


def count(function: Callable, *shapes) -> Count:
    """Counts `function` on arguments of these shapes."""
    return Count(jax.make_jaxpr(function)(*shapes))


def _inlined(eqn):
    """The jaxpr of a call that is part of its caller, or None."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if (inner := eqn.params.get(key)) is not None:
            return getattr(inner, "jaxpr", inner)
    return None


def _union(values: Sequence[_Value]) -> dict[int, int]:
    leaves: dict[int, int] = {}
    for value in values:
        for place, size in value.leaves.items():
            leaves[place] = max(size, leaves.get(place, 0))
    return leaves


def _count(aval) -> int:
    return math.prod(getattr(aval, "shape", ()))


def _size(aval) -> int:
    return _count(aval) * (getattr(getattr(aval, "dtype", None), "itemsize", 0) or 8)  # 8: a key
