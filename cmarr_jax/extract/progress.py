"""How far an extraction is: a bar in a terminal, a plain line every 30 s elsewhere."""

import sys
import time

import tqdm

_SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Writes to standard error; `quiet` leaves out everything but warnings."""

    def __init__(self, quiet: bool = False):
        self._quiet = quiet
        self._interactive = sys.stderr.isatty()
        self._bar = None

    def start(self, modality: str, unit: str, total: float, done: float) -> None:
        """Begins a modality; `done` of `total` was finished by earlier runs."""
        self._modality, self._unit = modality, unit
        self._total, self._before, self._done = total, done, done
        self._began = self._said = time.monotonic()
        if done:
            self.say(f"{modality}: resuming, {done:,.0f} of {total:,.0f} {unit} are done")
        if self._interactive and not self._quiet:
            self._bar = tqdm.tqdm(
                desc=modality,
                total=round(total, 1),
                initial=round(done, 1),
                unit=f" {unit}",
                unit_scale=True,
                leave=False,
            )

    def advance(self, amount: float) -> None:
        """Counts `amount` more units as done."""
        self._done += amount
        if self._bar is not None:
            self._bar.update(amount)
        elif (now := time.monotonic()) - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            rate = (self._done - self._before) / (now - self._began)
            left = (self._total - self._done) / rate if rate else float("inf")
            self.say(
                f"{self._modality}: {self._done:,.0f} of {self._total:,.0f} {self._unit}, "
                f"{rate:,.1f} a second, {left / 60:.1f} min left"
            )

    def finish(self, summary: str) -> None:
        """Ends a modality with one line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self.say(f"{self._modality}: {summary} in {time.monotonic() - self._began:.0f} s")

    def say(self, line: str) -> None:
        """A line of information."""
        if not self._quiet:
            self._write(line)

    def warn(self, line: str) -> None:
        """A line that is shown even if `quiet`."""
        self._write(f"warning: {line}")

    def _write(self, line: str) -> None:
        tqdm.tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()
