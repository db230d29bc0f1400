"""Engines to compare, each a process of its own that answers one number a question.

The parent asks in turn, so that on a shared machine all engines meet the same neighbours.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np


class Engine:
    """A process that `serve`s; `environment` is added to this process' own."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]):
        # Another interpreter must not find this one's packages.
        own = {} if command[0] == sys.executable else {"PYTHONPATH": ""}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | own | environment,
        )
        self._answer()

    def ask(self, verb: str, argument: str = "") -> float:
        print(f"{verb} {argument}", file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Ends the process, so that its memory is free."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> float:
        while line := self._process.stdout.readline():
            if line.startswith("answer "):
                return float(line.split()[1])
        sys.exit("an engine stopped; its message is above")


def serve(answers: Mapping[str, Callable[[str], float]]) -> int:
    """Answers `verb argument` from stdin until it ends."""
    print("answer 0", flush=True)
    for line in sys.stdin:
        verb, argument = line.rstrip("\n").split(" ", 1)
        print(f"answer {answers[verb](argument)}", flush=True)
    return 0


def start(script: str, args: argparse.Namespace, flags: Sequence[str]) -> dict[str, Engine]:
    """`script` --engine jax as "ours" and, with --torch-python, --engine torch.

    On a CPU with several cores PyTorch runs under both OpenMP wait policies, but for --check.

    Args:
      script: the benchmark's file.
      args: its --device, --folder, --torch-python, --check.
      flags: others, that every engine is given.
    """

    def engine(python: str, name: str, device: str, **environment: str) -> Engine:
        line = [python, os.path.abspath(script), "--engine", name, "--folder", args.folder]
        return Engine([*line, *flags, "--device", device], environment)

    # By default JAX takes most of a GPU's memory at once.
    ours = engine(sys.executable, "jax", args.device, XLA_PYTHON_CLIENT_PREALLOCATE="false")
    engines = {"ours": ours}
    if args.torch_python:
        gpu = bool(ours.ask("gpu"))
        engines["torch"] = engine(args.torch_python, "torch", "auto" if gpu else "cpu")
        if gpu and not engines["torch"].ask("gpu"):
            sys.exit("error: JAX sees a GPU and PyTorch does not; wanted both, or --device cpu")
        if not gpu and not args.check and len(os.sched_getaffinity(0)) > 1:
            engines["torch, passive"] = engine(
                args.torch_python, "torch", "cpu", OMP_WAIT_POLICY="PASSIVE"
            )
    return engines


def clock(report: Mapping) -> str:
    """Which of `medians` a rate is of."""
    return "median_s" if report["gpu"] else "median_cpu_s"  # a CPU's rate is that of one core


def medians(times: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Of (wall, CPU) seconds."""
    walls, cpus = zip(*times, strict=True)
    return {"median_s": statistics.median(walls), "median_cpu_s": statistics.median(cpus)}


def compare(ours: Mapping, theirs: Mapping, gradient: float) -> float:
    """Prints the largest difference over the largest value of each output; returns the worst.

    `gradient` is that of the gradient, already known.
    """
    errors = {"gradient": gradient}
    for key, value in ours.items():
        errors[key] = np.abs(value - theirs[key]).max() / max(np.abs(value).max(), 1e-12)
    for key, error in errors.items():
        print(f"  {key:16}{error:10.1e}")
    return float(np.max([*errors.values()]))  # keeps a NaN


def verdict(worst: float) -> int:
    """Prints whether all was equal at 1e-5; the exit code."""
    print("equal at 1e-5" if worst < 1e-5 else "error: NOT equal at 1e-5")
    return 0 if worst < 1e-5 else 1
