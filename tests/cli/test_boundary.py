"""Each command ends in one line and an exit code, whatever is raised below it."""

import os
import subprocess
import sys

import pytest

import sweep
from cmarr_jax import predict
from cmarr_jax.cli import boundary
from cmarr_jax.data import __main__ as data
from cmarr_jax.errors import UserError
from cmarr_jax.runtime import exits
from tests.conftest import write_pack

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def wrapped():
    try:
        raise UserError("the pack: odd")
    except UserError as e:
        raise RuntimeError("a library's words\nand more of them") from e


def odd():
    raise LookupError("first line\nsecond line")


def pipe():
    raise BrokenPipeError


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    "main, code, line",
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (raising(UserError("--flag=1: wanted 2\nor 3")), 2, "error: --flag=1: wanted 2 or 3"),
        (raising(FileNotFoundError(2, "no such file", "x.csv")), 2, "error: x.csv: no such file"),
        (raising(OSError("no space")), 2, "error: no space"),
        (raising(MemoryError()), 2, "error: out of memory"),
        (raising(KeyboardInterrupt()), 130, "interrupted; nothing is lost"),
        (wrapped, 2, "error: the pack: odd"),
        (odd, 1, "error: LookupError: first line second line ("),
        (pipe, 0, ""),
    ],
)
def test_every_end_is_one_line_and_its_code(main, code, line, capfd):
    assert boundary.run(main, "nothing is lost") == code
    out, err = capfd.readouterr()
    assert out == "" and "Traceback" not in err
    assert len(err.split("\n")) <= 3 and line in err and bool(err) == bool(line)


def test_an_unknown_error_names_the_users_own_place(capfd):
    boundary.run(odd)
    assert f"({__file__}, line {odd.__code__.co_firstlineno + 1})" in capfd.readouterr().err


def test_the_traceback_is_shown_on_request(capfd, monkeypatch):
    monkeypatch.setenv("CMARR_DEBUG", "1")
    assert boundary.run(odd) == exits.FAULT
    err = capfd.readouterr().err
    assert "Traceback" in err and err.splitlines()[-1].startswith("error: LookupError")
    monkeypatch.setenv("CMARR_DEBUG", "0")
    boundary.run(odd)
    assert "Traceback" not in capfd.readouterr().err


def test_each_command_has_it(monkeypatch, tmp_path, capfd):
    def broken(*_, **__):
        raise ZeroDivisionError("injected")

    monkeypatch.setattr(predict, "_run", broken)
    monkeypatch.setattr(data, "_describe", broken)
    monkeypatch.setattr(sweep, "_run", broken)
    (tmp_path / "file.py").write_text("def sweep(add):\n    add()\n")
    ends = {
        "predict": predict.main([]),
        "data": data.main(["describe", "x"]),
        "sweep": sweep.main([str(tmp_path / "file.py"), "--config=x", "--workdir=y"]),
    }
    assert ends == dict.fromkeys(ends, exits.FAULT)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3 and all("ZeroDivisionError: injected" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("script, patched", [("train.py", "make_table"), ("evaluate.py", "main")])
def test_the_scripts_have_it(script, patched):
    code = (
        f"import runpy, sys; sys.argv = [{script!r}]\n"
        "from cmarr_jax.experiment import table\n"
        "from cmarr_jax.cli import flags\n"
        "run = flags.run\n"
        "flags.run = lambda main, *_, **__: run(lambda: 1 / 0)\n"
        f"runpy.run_path({script!r}, run_name='__main__')"
    )
    for debug in ("0", "1"):
        env = os.environ | {"CMARR_DEBUG": debug}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True
        )
        assert done.returncode == exits.FAULT
        assert ("Traceback" in done.stderr) == (debug == "1")
        assert done.stderr.splitlines()[-1].startswith("error: ZeroDivisionError: division by")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["describe", "validate", "audit"])
def test_a_closed_pipe_is_no_traceback(command, tmp_path):
    write_pack(tmp_path / "pack")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "cmarr_jax.data", command, tmp_path / "pack"],
        cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_an_ascii_output_gets_what_it_can_show():
    code = "from cmarr_jax.cli import boundary; boundary.run(lambda: print('61.0 ± 2.0 % ü'))"
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True)
    assert done.stdout == b"61.0 +- 2.0 % ?\n" and done.stderr == b""


def test_a_variable_of_the_shell_is_named(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    text = "Unable to initialize backend 'cuda': Backend 'cuda' is not in the list\nof known ones"
    line, code = exits.ending(RuntimeError(text))
    assert code == 2 and line.startswith("error: JAX_PLATFORMS=cuda: ") and "\n" not in line
    monkeypatch.setenv("JAX_ENABLE_X64", "maybe")
    error = ValueError("invalid truth value 'maybe' for environment 'JAX_ENABLE_X64'")
    line, code = exits.ending(error)
    assert code == 2 and line.startswith("error: JAX_ENABLE_X64=maybe: ")
