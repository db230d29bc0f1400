"""Runs a command so that a user's mistake is one line and exit code 2, never a traceback."""

import difflib
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags

from cmarr_jax.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls `main`; exits with 2 on a mistake in either."""

    def guarded(argv: Sequence[str]) -> None:
        if argv[1:]:
            _fail(f"{argv[1]}: not a flag; flags are --NAME=VALUE, see --help")
        try:
            main()
        except UserError as e:
            _fail(str(e))
        except KeyboardInterrupt:
            print("\ninterrupted; the same command resumes from the last checkpoint", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
    if {"--help", "-h", "-help"} & set(argv):
        main_module = sys.modules["__main__"]
        print(main_module.__doc__)
        print(flags.FLAGS.main_module_help())
        sys.exit(0)
    try:
        return flags.FLAGS(list(argv))
    except UserError as e:
        _fail(f"--config: {e}")
    except FileNotFoundError as e:
        _fail(f"--config: {e.filename or e}: no such file; the configs are in configs/")
    except (AttributeError, KeyError) as e:
        _fail(_unknown_field(argv, str(e).strip("'\"")))
    except (flags.Error, TypeError, ValueError) as e:
        _fail(str(e).splitlines()[0])
    raise AssertionError


def _unknown_field(argv: Sequence[str], name: str) -> str:
    """Names the override at fault and the closest field that exists."""
    config = flags.FLAGS["config"].value
    known = [] if config is None else [name for name, _ in leaves(config.to_dict())]
    for argument in argv:
        field = argument.lstrip("-").split("=")[0].removeprefix("noconfig.").removeprefix("config.")
        if argument.lstrip("-").startswith(("config.", "noconfig.")) and field not in known:
            near = difflib.get_close_matches(field, known, n=1, cutoff=0.5)
            near += [k for k in known if k.split(".")[-1] == field.split(".")[-1]]
            hint = f"did you mean --config.{near[0]}?" if near else "see configs/common.py"
            return f"--config.{field}: no such field; {hint}"
    return f"--config: no field or attribute {name!r}; see configs/common.py"


def leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """("a.b", value) of every leaf of a nested dictionary."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.stderr.flush()
    sys.exit(2)


def enable_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX was told otherwise."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "cmarr_jax", "xla"))
