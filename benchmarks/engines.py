"""Engines to compare, each a process of its own that answers one number a question.

The parent asks in turn, so that on a shared machine all engines meet the same neighbours.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence


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
