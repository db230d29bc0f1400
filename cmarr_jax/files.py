"""Files of the work directory that appear whole or not at all."""

import os


def write_whole(file: str, content: bytes) -> None:
    """Writes `file`; whoever reads it meanwhile, or after a kill, finds the old one or the new."""
    draft = f"{file}.tmp{os.getpid()}"
    with open(draft, "wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    os.replace(draft, file)
