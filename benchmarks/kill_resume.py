"""Kills an extraction at random moments until it ends, and compares the pack's bytes.

    python benchmarks/kill_resume.py [KILLS] [SEED]

The extraction is the tests' fake one (two modalities, 40 utterances), so this takes seconds.
"""

import filecmp
import os
import random
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PAUSE = 0.1  # seconds a batch


def main(kills: int = 10, seed: int = 0) -> int:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, out = os.path.join(folder, "whole"), os.path.join(folder, "pack")
        start(whole, 0.0).wait()
        print("kill  after s  shards then done")
        for kill in range(1, kills + 1):
            process = start(out, _PAUSE)
            seconds = draw.uniform(0.2, 0.7)
            time.sleep(seconds)
            process.kill()
            process.wait()
            print(f"{kill:4d}  {seconds:7.2f}  {shards(f'{out}.partial'):16d}")
        start(out, 0.0).wait()
        names = sorted(os.listdir(whole))
        same = sorted(os.listdir(out)) == names and all(
            filecmp.cmp(os.path.join(whole, n), os.path.join(out, n), shallow=False) for n in names
        )
        clean = sorted(os.listdir(folder)) == ["pack", "whole"]
    print(f"{len(names)} files, {'the same bytes' if same else 'DIFFERENT BYTES'}")
    return 0 if same and clean else 1


def start(out: str, pause: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "tests.extract.fake", out, str(pause)], cwd=ROOT)


def shards(folder: str) -> int:
    return sum(name[0].isdigit() for _, _, names in os.walk(folder) for name in names)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
