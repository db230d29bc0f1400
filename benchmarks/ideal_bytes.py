"""Bytes that a program has to read and write if a compiler fuses all that it can, from its jaxpr.

It holds for no backend in particular. Elementwise operations, broadcasts, slices, gathers, joins
and conversions cost nothing where they are computed; they are part of what reads them. A product, a
reduction, a sort, a scatter and the end of a loop's body read what they need from memory and write
their result to it. An operand of a product has to lie in memory: if it is computed by elementwise
operations, these read and write once more. What a loop's body does counts as often as it runs.
"""

import collections
import itertools
from typing import NamedTuple

import jax
import numpy as np
from jax.extend import core

_FUSED = set(
    [
        "add",
        "add_any",
        "sub",
        "mul",
        "div",
        "max",
        "min",
        "neg",
        "sign",
        "abs",
        "exp",
        "exp2",
        "log",
        "log1p",
        "expm1",
        "tanh",
        "logistic",
        "erf",
        "erf_inv",
        "sqrt",
        "rsqrt",
        "square",
        "cbrt",
        "pow",
        "integer_pow",
        "sin",
        "cos",
        "floor",
        "ceil",
        "round",
        "clamp",
        "is_finite",
        "not",
        "and",
        "or",
        "xor",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "select_n",
        "convert_element_type",
        "bitcast_convert_type",
        "broadcast_in_dim",
        "reshape",
        "squeeze",
        "expand_dims",
        "transpose",
        "rev",
        "iota",
        "concatenate",
        "pad",
        "slice",
        "dynamic_slice",
        "gather",
        "shift_left",
        "shift_right_logical",
        "shift_right_arithmetic",
        "rem",
        "copy",
        "copy_p",
        "stop_gradient",
        "random_bits",
        "random_wrap",
        "random_unwrap",
        "random_split",
        "random_fold_in",
        "random_seed",
        "nextafter",
        "population_count",
        "real",
        "imag",
        "reduce_precision",
        "split",
        "optimization_barrier",
    ]
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

    size: int
    place: int  # 0 = not in memory
    leaves: dict[int, int]  # place -> bytes
    op: str = ""
    where: str = ""


class Count:
    """Counts a traced program."""

    def __init__(self, program: core.ClosedJaxpr):
        self.moved: list[Moved] = []
        self.outputs = 0  # bytes of the results of all operations, as if nothing were fused
        self.shapes = collections.Counter()  # (dtype, shape) in memory -> times written
        self._places = itertools.count(1)
        self._times = 1
        inputs = [self._in_memory(v.aval) for v in program.jaxpr.invars]
        constants = [self._in_memory(v.aval) for v in program.jaxpr.constvars]
        outputs = self._run(program.jaxpr, constants + inputs, "")
        for value in outputs:
            self._stored(value)

    @property
    def total(self) -> int:
        return sum(each.bytes for each in self.moved)

    def _in_memory(self, aval) -> _Value:
        place, size = next(self._places), _size(aval)
        return _Value(size, place, {place: size})

    def _write(self, aval, op: str, where: str, leaves: dict[int, int], written=None) -> _Value:
        value = self._in_memory(aval)
        moved = sum(leaves.values()) + (value.size if written is None else written)
        self.moved.append(Moved(moved * self._times, self._times, op, where))
        if hasattr(aval, "shape"):
            self.shapes[str(aval.dtype), aval.shape] += self._times
        return value

    def _stored(self, value: _Value) -> _Value:
        """The same in memory."""
        if value.place:
            return value
        key = id(value.leaves)
        if key not in self._kept:
            moved = sum(value.leaves.values()) + value.size
            self.moved.append(Moved(moved * self._times, self._times, value.op, value.where))
            place = next(self._places)
            self._kept[key] = (_Value(value.size, place, {place: value.size}), value.leaves)
        return self._kept[key][0]

    _kept: dict = {}

    def _run(self, jaxpr, inputs: list[_Value], where: str) -> list[_Value]:
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], inputs, strict=True))

        def read(atom) -> _Value:
            return env[atom] if not hasattr(atom, "val") else _Value(0, 0, {})

        for eqn in jaxpr.eqns:
            name = eqn.primitive.name
            here = "/".join(filter(None, (where, str(eqn.source_info.name_stack))))
            given = [read(v) for v in eqn.invars]
            avals = [v.aval for v in eqn.outvars]
            if inner := _inlined(eqn):
                results = self._run(inner[0], inner[1](self, given), here)
            elif name in ("scan", "while", "cond"):
                results = self._loop(eqn, given, here)
            else:
                self.outputs += self._times * sum(map(_size, avals))
                results = self._apply(name, given, avals, here)
            for var, value in zip(eqn.outvars, results, strict=True):
                env[var] = value
        return [read(v) for v in jaxpr.outvars]

    def _apply(self, name: str, given: list[_Value], avals: list, where: str) -> list[_Value]:
        if name in _FUSED:
            if name in _SLICES and given[0].place:
                place = next(self._places)  # another part of the same array
                own = {place: sum(map(_size, avals))}
                leaves = own | _union(given[1:])
            else:
                leaves = _union(given)
            return [_Value(_size(a), 0, dict(leaves), name, where) for a in avals]
        if name in _UPDATES:
            update = given[-1 if name != "dynamic_update_slice" else 1]
            leaves = _union(given[1:])
            return [self._write(avals[0], name, where, leaves, written=2 * update.size)]
        if name.startswith(("reduce_", "arg")):
            leaves = _union(given)
        else:  # a product, a sort, a factorisation
            leaves = _union([self._stored(v) for v in given if v.size])
        results = [self._write(avals[0], name, where, leaves)]
        return results + [self._write(a, name, where, {}) for a in avals[1:]]

    def _loop(self, eqn, given: list[_Value], where: str) -> list[_Value]:
        params, name = eqn.params, eqn.primitive.name
        given = [self._stored(v) if v.size else v for v in given]
        if name == "cond":
            before, found = self.moved, []
            for branch in params["branches"]:
                self.moved = []
                for value in self._run(branch.jaxpr, given[1:], where):
                    self._stored(value)
                found.append(self.moved)
            self.moved = before + max(found, key=lambda m: sum(x.bytes for x in m))
            return [self._in_memory(v.aval) for v in eqn.outvars]
        outside, times = self._times, params.get("length", 1)
        self._times *= times
        if name == "scan":
            body = params["jaxpr"].jaxpr
            fixed = given[: params["num_consts"]]
            rest = [self._in_memory(v.aval) for v in body.invars[params["num_consts"] :]]
            inputs = fixed + rest
        else:
            body = params["body_jaxpr"].jaxpr
            inputs = [self._in_memory(v.aval) for v in body.invars]
        for value in self._run(body, inputs, where):
            self._stored(value)
        self._times = outside
        return [self._in_memory(v.aval) for v in eqn.outvars]


def count(function, *shapes) -> Count:
    """Counts `function` on arguments of these shapes."""
    Count._kept = {}
    return Count(jax.make_jaxpr(function)(*shapes))


def _inlined(eqn):
    """The jaxpr of a call that is part of its caller, and what it is called with; or None."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        if inner is not None and eqn.primitive.name not in ("scan", "while", "cond"):
            if hasattr(inner, "consts"):
                return inner.jaxpr, lambda count, given: [
                    *(count._in_memory(v.aval) for v in inner.jaxpr.constvars),
                    *given,
                ]
            return inner, lambda count, given: given
    return None


def _union(values: list[_Value]) -> dict[int, int]:
    leaves: dict[int, int] = {}
    for value in values:
        for place, size in value.leaves.items():
            leaves[place] = max(size, leaves.get(place, 0))
    return leaves


def _size(aval) -> int:
    shape = getattr(aval, "shape", ())
    item = getattr(getattr(aval, "dtype", None), "itemsize", 0) or 8  # of a key
    return int(np.prod(shape, dtype=np.int64)) * item
