"""What the benchmarks share as commands: flags, their cores, the machine, the figures' file."""

import argparse
import json
import os
import platform


def make_parser(description: str, rounds: int) -> argparse.ArgumentParser:
    """With --rounds (by default `rounds`), --cores and --json."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--cores", type=int, default=0, help="use so many; 0 = all")
    parser.add_argument("--json", help="write the figures to this file")
    return parser


def use_cores(number: int) -> None:
    """Keeps the process to that many cores, 0 = all; before any library counts them."""
    if number:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-number:])


def machine() -> dict[str, str | int | float]:
    """The processor's name, the cores that are used and the load average."""
    return {"machine": processor(), "cores": len(os.sched_getaffinity(0)), "load": load()}


def processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        names = [line.partition(":")[2].strip() for line in f if line.startswith("model name")]
    return names[0] if names else platform.machine()


def load() -> float:
    with open("/proc/loadavg", encoding="ascii") as f:
        return float(f.read().split()[0])


def write(report: dict, file: str | None) -> None:
    """Writes the figures as JSON where a `file` was named."""
    if file:
        with open(file, "w", encoding="utf-8") as f:
            json.dump(report, f, indent=2)
