"""Where the bytes of a training step go: per run, without an accelerator, the largest first.

    python benchmarks/memory_traffic.py [--system cmarr] [--precision bf16] [--top 20]
    python benchmarks/memory_traffic.py --hlo          fusion by fusion, as XLA:CPU compiles it
    python benchmarks/memory_traffic.py --levers       what each way to save bytes saves; with
                                                       --hlo as compiled, with --time in seconds
    python benchmarks/memory_traffic.py --padding      what a TPU's tiles of 128 lanes would add

By default bytes are counted on the program that JAX traces, for no backend in particular, as if all
that can be fused were (benchmarks/ideal_bytes.py). --hlo counts what a compiler made of it
(benchmarks/hlo_bytes.py); XLA:CPU computes bfloat16 by way of float32, so there float32 is what is
worth a look. The programs are those of an accelerator, the runs vmapped: the default
configuration, batch 64, 32 positions, features in float16 as packs hold them.
"""

import argparse
import collections
import contextlib
import os
import re
import statistics
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT]

from benchmarks import command

_UTTERANCES = 256
_LANES = 128
_SUBLANES = {1: 32, 2: 16, 4: 8}  # of a TPU's tile, by bytes of a number


def main() -> int:
    parser = command.make_parser(__doc__, rounds=2)
    parser.add_argument("--system", default="cmarr", help="of configs/systems.py")
    parser.add_argument("--precision", nargs="+", default=["float32", "bf16"])
    parser.add_argument("--runs", type=int, default=1, help="vmapped")
    parser.add_argument("--length", type=int, default=32, help="positions T")
    parser.add_argument("--top", type=int, default=20, help="lines of each list")
    parser.add_argument("--hlo", action="store_true", help="compile, and list the fusions")
    parser.add_argument("--levers", action="store_true", help="compare ways to save bytes")
    parser.add_argument("--time", action="store_true", help="with --levers: time a step, too")
    parser.add_argument("--padding", action="store_true", help="list what TPU tiles would add")
    args = parser.parse_args()
    command.use_cores(args.cores)
    sys.modules["tensorflow"] = None  # JAX's libraries would import it, where it is installed
    report = command.machine() | {"system": args.system, "rows": []}
    if args.levers:
        for row in levers(args):
            report["rows"].append(row)
            command.write(report, args.json)
        return 0
    for precision in args.precision:
        for program in _programs(args, precision):
            row = _show(args, precision, program)
            report["rows"].append(row)
            command.write(report, args.json)
    return 0


def _programs(args: argparse.Namespace, precision: str, kind: str = "float16") -> Iterator:
    """What a system trains and evaluates, of features of the type `kind`."""
    import numpy as np

    from benchmarks.training_inputs import make_features
    from benchmarks.training_sweep import corpus_of, programs
    from cmarr_jax.systems.precision import PRECISIONS
    from configs import common

    config = common.with_variants(common.get_config(), args.system)
    data = make_features(_UTTERANCES, args.length)
    data["features"] = {m: x.astype(np.dtype(kind)) for m, x in data["features"].items()}
    return programs(config, corpus_of(data), args.runs, PRECISIONS[precision], steps=1)


def _show(args: argparse.Namespace, precision: str, program) -> dict:
    from benchmarks import ideal_bytes

    what = "a step" if program.name.endswith("training") else "a batch, all conditions"
    counted = ideal_bytes.count(program.function, *program.shapes)
    row = {
        "program": program.name,
        "precision": precision,
        "gigabytes": counted.total / args.runs / 1e9,
        "gigabytes_of_outputs": counted.outputs / args.runs / 1e9,
    }
    print(
        f"\n{args.system}: {program.name} in {precision}: {row['gigabytes']:.2f} GB {what} and run "
        f"if all is fused; the results of all operations are {row['gigabytes_of_outputs']:.2f} GB"
    )
    if args.padding:
        row["padding"] = _padding(counted.written, args.top)
    elif args.hlo:
        row["hlo_gigabytes"] = _compiled(program, args)
    else:
        _list([(m.bytes, m.times, m.op, m.where) for m in counted.moved], args)
    sys.stdout.flush()
    return row


def _compiled(program, args: argparse.Namespace) -> float:
    moved = _fusions(program)
    total = sum(t.bytes for t in moved) / args.runs / 1e9
    print(f"as XLA:CPU compiles it: {total:.2f} GB, {len(moved)} instructions")
    _list(moved, args)
    return total


def _fusions(program) -> list:
    import jax

    from benchmarks import hlo_bytes

    donated = 0 if program.name.endswith("training") else ()
    compiled = jax.jit(program.function, donate_argnums=donated).lower(*program.shapes).compile()
    return hlo_bytes.traffic(compiled.as_text())


def _list(moved: list[tuple], args: argparse.Namespace) -> None:
    """The largest operations, and sums by block."""
    blocks = collections.Counter()
    print(f"\n{'MB':>9}{'times':>7}  {'operation':<20} where")
    for k, (size, times, op, where) in enumerate(sorted(moved, key=lambda m: -m[0])):
        blocks[_block(where)] += size
        if k < args.top:
            print(f"{size / args.runs / 1e6:>9.1f}{times:>7}  {op:<20} {where[-100:]}")
    print(f"\n{'MB':>9}  block")
    for block, size in blocks.most_common(args.top):
        print(f"{size / args.runs / 1e6:>9.1f}  {block}")


_BLOCK = re.compile(
    r"umc|flow|inverse|ReconstructionHead|reconstruct|fusion|pooling|project|conv|encoders|imagine|"
    r"invariant|backbone|classifier"
)


def _block(where: str) -> str:
    """The part of the network that an operation is of, and whether of the backward pass."""
    names = _BLOCK.findall(where)
    if "jvp" not in where and not names:
        return "optimizer, batch and the rest"
    name = names[-1] if names else "losses and the rest"
    return name + (", backward" if "transpose(" in where else "")


# ------------------------------------------------------------------------------ levers


class Setting(NamedTuple):
    """A step to be counted."""

    precision: str
    features: str = "float16"  # their type on the device
    again: tuple[str, ...] = ()  # what the backward pass computes again

    def in_float32(self) -> "Setting":
        """The same as XLA:CPU compiles it without emulation."""
        return self._replace(precision="float32")


class Lever(NamedTuple):
    """A way to save bytes: what is compared, and where the library has it."""

    name: str
    kept: str
    before: Setting
    after: Setting


_PLAIN = Setting("bf16")
LEVERS = (
    Lever("activations in bfloat16", "bf16", Setting("float32"), _PLAIN),
    Lever("flows computed again", "bf16", _PLAIN, _PLAIN._replace(again=("flows",))),
    Lever("feed-forwards computed again", "no", _PLAIN, _PLAIN._replace(again=("forwards",))),
    Lever("RCABs computed again", "no", _PLAIN, _PLAIN._replace(again=("rcab",))),
    Lever("features float16 on the device", "yes", _PLAIN._replace(features="float32"), _PLAIN),
)


def levers(args: argparse.Namespace) -> Iterator[dict]:
    """Prints and yields a row for each lever as soon as it is known."""
    fused, compiled, timed = {}, {}, {}
    print(
        f"{'lever':<34}{'fused GB':>10}{'then':>8}{'':>7}"
        + (f"{'compiled':>10}{'then':>8}{'':>7}" if args.hlo else "")
        + (f"{'CPU s':>8}{'then':>8}" if args.time else "")
        + f"{'kept':>7}"
    )
    for lever in LEVERS:
        line, row = f"{lever.name:<34}", {"lever": lever.name, "kept": lever.kept}
        pair = lever.before, lever.after
        before, after = (_once(fused, each, _fused, args) for each in pair)
        line += f"{before:>10.2f}{after:>8.2f}{after / before - 1:>+7.0%}"
        row["fused_gigabytes"] = before, after
        structure = tuple(each.in_float32() for each in pair)
        if args.hlo and structure[0] != structure[1]:
            before, after = (_once(compiled, each, _as_compiled, args) for each in structure)
            line += f"{before:>10.2f}{after:>8.2f}{after / before - 1:>+7.0%}"
            row["compiled_gigabytes"] = before, after
        elif args.hlo:
            line += f"{'-':>10}{'-':>8}{'':>7}"
        if args.time:
            pair = structure if structure[0] != structure[1] else pair
            before, after = (_once(timed, each, _step_seconds, args) for each in pair)
            line += f"{before:>8.2f}{after:>8.2f}"
            row["cpu_seconds"] = before, after
        print(f"{line}{lever.kept:>7}", flush=True)
        yield row
    print("\nGB a step and run: as if all were fused; as XLA:CPU compiles the same in float32")
    if args.time:
        print("CPU s: of a step of one run here, in float32 but for the first line's second")


def _once(known: dict, setting: Setting, measure, args: argparse.Namespace) -> float:
    if setting not in known:
        with _patched(setting.again):
            known[setting] = measure(args, setting)
    return known[setting]


def _fused(args: argparse.Namespace, setting: Setting) -> float:
    from benchmarks import ideal_bytes

    program = next(iter(_programs(args, setting.precision, setting.features)))
    return ideal_bytes.count(program.function, *program.shapes).total / args.runs / 1e9


def _as_compiled(args: argparse.Namespace, setting: Setting) -> float:
    program = next(iter(_programs(args, setting.precision, setting.features)))
    return sum(t.bytes for t in _fusions(program)) / args.runs / 1e9


@contextlib.contextmanager
def _patched(again: tuple[str, ...]) -> Iterator[None]:
    """The network as it would be if its backward pass computed these again and no others."""
    import flax.linen as nn

    from cmarr_jax.nn import attention, rcab, umc
    from cmarr_jax.nn.flows import RealNVP

    with contextlib.ExitStack() as patches:
        replaced = mock.patch.object(RealNVP, "_is_recomputed", "flows" in again)
        patches.enter_context(replaced)
        if "forwards" in again:
            for module in (attention, umc):
                forward = nn.remat(attention.FeedForward)
                patches.enter_context(mock.patch.object(module, "FeedForward", forward))
        if "rcab" in again:
            patches.enter_context(mock.patch.object(rcab, "RCAB", nn.remat(rcab.RCAB)))
        yield


def _step_seconds(args: argparse.Namespace, setting: Setting) -> float:
    """CPU seconds of a step of one run, as a CPU trains it; the median of the rounds."""
    import numpy as np

    from benchmarks.training_inputs import make_features
    from benchmarks.training_sweep import CompiledSweep, corpus_of
    from cmarr_jax.runtime.devices import prepare_to_compile
    from cmarr_jax.systems.precision import PRECISIONS
    from configs import common

    prepare_to_compile()
    config = common.with_variants(common.get_config(), args.system)
    data = make_features(_UTTERANCES, args.length)
    data["features"] = {
        m: x.astype(np.dtype(setting.features)) for m, x in data["features"].items()
    }
    made = CompiledSweep(config, corpus_of(data), 1, PRECISIONS[setting.precision])
    size = config.train.batch_size
    run = made.train(np.arange(2 * size, dtype=np.int32).reshape(2, size))
    run()
    seconds = []
    for _ in range(args.rounds):
        start = time.process_time()
        run()
        seconds.append((time.process_time() - start) / 2)
    return statistics.median(seconds)


# ------------------------------------------------------------------------------ TPU tiles


def _padding(written: collections.Counter, top: int) -> float:
    """Prints the arrays that a TPU's tiles waste most on; returns the share of all bytes.

    As if each array's last axis lay on the lanes and the one before on the sublanes; of fewer rows
    than a tile has, the tile is the next power of two.
    """
    rows, whole, padded = [], 0, 0
    for (kind, shape), times in written.items():
        if len(shape) < 2 or kind.startswith("key"):
            continue
        size = {"bool": 1, "bfloat16": 2, "float16": 2, "uint8": 1}.get(kind, 4)
        *outer, rows_, lanes = shape
        tile = min(_SUBLANES[size], 1 << (rows_ - 1).bit_length())
        count = size * times
        for axis in outer:
            count *= axis
        own = count * rows_ * lanes
        tiled = count * (-(-rows_ // tile) * tile) * (-(-lanes // _LANES) * _LANES)
        whole, padded = whole + own, padded + tiled
        rows.append((tiled - own, own, kind, shape, times))
    print(f"padding to {_LANES} lanes adds {padded / whole - 1:.0%} to what is written\n")
    print(f"{'added MB':>9}{'of MB':>9}{'times':>7}  array")
    for added, own, kind, shape, times in sorted(rows, reverse=True, key=lambda row: row[0])[:top]:
        print(f"{added / 1e6:>9.1f}{own / 1e6:>9.1f}{times:>7}  {kind}{list(shape)}")
    return padded / whole - 1


if __name__ == "__main__":
    sys.exit(main())
