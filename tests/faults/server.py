"""Starts `train.py` and `evaluate.py` by forking a process that has imported what they import.

A sweep of the tests takes 9 CPU-seconds, 5 of them for imports. Reads a JSON line a command from
standard input, answers each with a JSON line:

    {"start": [SCRIPT, FLAG, ...], "out": FILE, "err": FILE, "before": CODE}  ->  pid
    {"wait": PID}  ->  exit code, negative: the signal that killed it

`before` is Python that runs in the child first, to break something from within.
"""

import importlib
import json
import os
import runpy
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IMPORTS = (
    "encodings.utf_8_sig", "jax", "orbax.checkpoint", "scipy.stats", "tensorboard.summary", "cmarr_jax.workdir.checkpoints",
    "cmarr_jax.results.figures", "cmarr_jax.results.tables", "cmarr_jax.training.loop", "cmarr_jax.workdir.ownership",
)  # fmt: skip


def main():
    sys.path.insert(0, ROOT)
    os.chdir(ROOT)
    # What the commands import; nothing of it may start a thread or the JAX backend.
    for name in IMPORTS:
        importlib.import_module(name)
    sys.modules["orbax.checkpoint"].AsyncCheckpointer  # noqa: B018, imported when first asked for
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        command = json.loads(line)
        if "start" in command:
            pid = os.fork()
            if not pid:
                return child(command)
            answer = pid
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(command["wait"], 0)[1])
        print(json.dumps(answer), file=answers, flush=True)


def child(command):
    for fd, name in ((1, "out"), (2, "err")):
        file = os.open(command[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, fd)
    sys.argv = command["start"]
    exec(command["before"], {})
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
