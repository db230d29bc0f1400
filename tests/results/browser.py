"""A headless Chromium over its debugging pipe, with nothing but the standard library."""

import base64
import json
import os
import shutil
import subprocess
import tempfile

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab; a context manager. `events` holds all that the browser told, in order."""

    def __init__(self):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()

        def place_pipes():  # the browser reads commands from 3 and answers on 4
            a, b = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self._process = subprocess.Popen(
            [
                find(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-extensions",
                "--remote-debugging-pipe", "--no-first-run", "--disable-background-networking",
                "--disable-dev-shm-usage", "--hide-scrollbars",
                f"--user-data-dir={self._profile.name}", "about:blank",
            ],
            preexec_fn=place_pipes, close_fds=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb")
        self._number, self._session, self.events = 0, None, []
        (tab,) = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *exception) -> None:
        self._process.kill()
        self._process.wait()
        self._in.close()
        self._out.close()
        self._profile.cleanup()

    def _read(self) -> dict:
        message = bytearray()
        while (byte := self._in.read(1)) != b"\0":
            assert byte, "the browser went away"
            message += byte
        return json.loads(message)

    def call(self, method: str, **params) -> dict:
        """Sends one command of the DevTools protocol and waits for its answer."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        self._out.write(json.dumps(command).encode() + b"\0")
        self._out.flush()
        while (message := self._read()).get("id") != self._number:
            self.events.append(message)
        assert "error" not in message, (method, message)
        return message["result"]

    def open(self, url: str, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Loads a page at a width in CSS pixels, and waits until it is there."""
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="", features=[scheme])
        del self.events[:]
        self.call("Page.navigate", url=url)
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._read())

    def evaluate(self, script: str):
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screenshot(self, file: str) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        with open(file, "wb") as f:
            f.write(base64.b64decode(shot["data"]))

    def print_to_pdf(self, file: str) -> None:
        pdf = self.call(
            "Page.printToPDF", preferCSSPageSize=True, paperWidth=8.27, paperHeight=11.69
        )
        with open(file, "wb") as f:
            f.write(base64.b64decode(pdf["data"]))

    def complaints(self) -> list[str]:
        """Console messages, exceptions, failed requests, and requests for anything but the page."""
        found = []
        for event in self.events:
            method, p = event.get("method"), event.get("params", {})
            if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                found.append(str(p))
            elif method == "Log.entryAdded":
                found.append(p["entry"]["text"])
            elif method == "Network.loadingFailed":
                found.append(f"not loaded: {p['errorText']}")
            elif method == "Network.requestWillBeSent":
                url = p["request"]["url"]
                if not url.startswith("file:///") or not url.endswith(".html"):
                    found.append(f"asked for {url[:200]}")
        return found
