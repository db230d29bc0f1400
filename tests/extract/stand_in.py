"""A stand-in for the Hugging Face hub: what its client asks of it, on this machine.

It answers as the hub does as far as the client looks: model_info, the tree of a commit, refs,
discussions, files with their ETag, their commit and ranges of bytes, a model that has moved to
another name (307), and errors by their X-Error-Code.
"""

import hashlib
import json
import os
import re
import threading
import urllib.parse
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from tests.extract.test_pytorch_file import a_tensor, write_sequence, write_zip

GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
BOT = "SFconvertbot"
TITLE = "Adding `safetensors` variant of this model"


def files_of(kind: str) -> dict[str, bytes]:
    """The tiny model of `golden/KIND`, as a folder of files."""
    found = {}
    for name in os.listdir(f"{GOLDEN}/{kind}"):
        if not name.endswith(".npz"):
            with open(f"{GOLDEN}/{kind}/{name}", "rb") as f:
                found[name] = f.read()
    return found


def tensors_of(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    import safetensors.numpy

    return safetensors.numpy.load(files["model.safetensors"])


def saved(tensors: dict[str, np.ndarray], folder: str, write=write_zip) -> bytes:
    """The tensors as PyTorch saves them: `write_zip` or `write_sequence`."""
    entries = {k: a_tensor(k, v.size, v.shape) for k, v in tensors.items()}
    raw = {k: np.ascontiguousarray(v, "<f4").tobytes() for k, v in tensors.items()}
    with open(write(os.path.join(folder, "saved.bin"), entries, raw), "rb") as f:
        return f.read()


def as_bin(files: dict[str, bytes], folder: str, write=write_zip) -> dict[str, bytes]:
    """The same model with pytorch_model.bin in the place of safetensors."""
    rest = {k: v for k, v in files.items() if k != "model.safetensors"}
    return rest | {"pytorch_model.bin": saved(tensors_of(files), folder, write)}


def in_shards(files: dict[str, bytes], folder: str, form: str) -> dict[str, bytes]:
    """The same model in two shards and an index; the second .bin is of PyTorch's older format."""
    import safetensors.numpy

    tensors = tensors_of(files)
    names = sorted(tensors)
    base, end = form.rsplit(".", 1)
    made = {k: v for k, v in files.items() if k != "model.safetensors"}
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"{base}-{number:05d}-of-00002.{end}"
        held = {name: tensors[name] for name in part}
        if end == "bin":
            made[shard] = saved(held, folder, (write_zip, write_sequence)[number - 1])
        else:
            made[shard] = safetensors.numpy.save(held, {"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    return made | {f"{form}.index.json": json.dumps(index).encode()}


class Hub:
    """Models by name, each its revisions, and what was asked.

    Attributes:
      models: name -> revision -> file -> content. A revision is a branch, `refs/pr/N` or
        `refs/convert/NAME`; a commit is found by its hash.
      proposals: name -> (number, author, status, title) of its pull requests.
      moved: name -> the name that it has now.
      gated: names whose files need access.
      broken: (name, file) whose download stops in its middle, again and again.
      failing: a status that every request is answered with; 0 = none.
      asked: how often each path was asked for, "GET /NAME/resolve/...".
    """

    def __init__(self) -> None:
        self.models: dict[str, dict[str, dict[str, bytes]]] = {}
        self.proposals: dict[str, list[tuple[int, str, str, str]]] = {}
        self.moved: dict[str, str] = {}
        self.gated: set[str] = set()
        self.broken: set[tuple[str, str]] = set()
        self.failing = 0
        self.asked: Counter = Counter()

        class Handler(_Handler):
            hub = self

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def got(self) -> list[str]:
        """The files that were downloaded, by name."""
        paths = (p.split(" ", 1)[1] for p in self.asked if p.startswith("GET "))
        return sorted(p.rsplit("/", 1)[1] for p in paths if "/resolve/" in p)

    def commit(self, name: str, revision: str = "main") -> str:
        files = self.models[name][revision]
        said = [name, revision, sorted((k, hashlib.sha1(v).hexdigest()) for k, v in files.items())]
        return hashlib.sha1(json.dumps(said).encode()).hexdigest()

    def files(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        for known, files in self.models[name].items():
            commit = self.commit(name, known)
            if revision in (known, commit):
                return commit, files
        return None


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.urlsplit(self.path).path
        self.hub.asked[f"{self.command} {path}"] += 1
        if self.hub.failing:
            return self._error(self.hub.failing, "", "out of order")
        match = re.fullmatch(
            r"/(?P<api>api/models/)?(?P<name>[^/]+(/(?!(?:revision|tree|refs|discussions|resolve)/?)[^/]+)?)"
            r"(/(?P<what>revision|tree|refs|discussions|resolve)(/(?P<revision>[^/]+))?(/(?P<file>.+))?)?",
            path,
        )
        if not match:
            return self._error(404, "", "Not Found")
        name, what = match["name"], match["what"] or "revision"
        if name in self.hub.moved:
            target = self.path.replace(name, self.hub.moved[name], 1)
            return self._send(307, b"", {"Location": target})
        if name not in self.hub.models:
            # As the hub does for who is not logged in: it does not tell what is private.
            return self._error(401, "RepoNotFound", "Repository not found")
        if what == "refs":
            refs = [
                {"name": r.rsplit("/", 1)[-1], "ref": r, "targetCommit": self.hub.commit(name, r)}
                for r in self.hub.models[name]
                if r.startswith("refs/convert/")
            ]
            return self._json({"branches": [], "converts": refs, "tags": []})
        if what == "discussions":
            return self._json(self._discussions(name))
        revision = urllib.parse.unquote(match["revision"] or "main")
        found = self.hub.files(name, revision)
        if found is None:
            return self._error(404, "RevisionNotFound", "Invalid rev id")
        commit, files = found
        if what == "revision":
            siblings = [{"rfilename": n} for n in sorted(files)]
            gated = "manual" if name in self.hub.gated else False
            return self._json(
                {"id": name, "sha": commit, "siblings": siblings, "private": False, "gated": gated}
            )
        if what == "tree":
            return self._json([
                {"type": "file", "path": n, "size": len(raw), "oid": hashlib.sha1(raw).hexdigest()}
                for n, raw in sorted(files.items())
            ])  # fmt: skip
        return self._file(name, commit, files, urllib.parse.unquote(match["file"]))

    def _discussions(self, name):
        asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        found = [
            {
                "num": number, "title": title, "author": {"name": author}, "status": status,
                "createdAt": "2023-03-01T12:00:00.000Z", "isPullRequest": True,
                "repo": {"name": name, "type": "model"},
            }
            for number, author, status, title in self.hub.proposals.get(name, [])
            if status == asked.get("status", status)
        ]  # fmt: skip
        return {"discussions": found, "count": len(found), "start": 0}

    def _file(self, name, commit, files, file):
        if name in self.hub.gated:
            return self._error(403, "GatedRepo", f"Access to model {name} is restricted")
        if file not in files:
            return self._error(404, "EntryNotFound", "Entry not found")
        content = files[file]
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
        if (name, file) in self.hub.broken and self.command == "GET":
            return self._send(200, content[: len(content) // 2], headers, len(content))
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start and (first := int(start[1])):
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            return self._send(206, content[first:], headers)
        return self._send(200, content, headers)

    def _json(self, content):
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _error(self, status, code, message):
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status, content, headers, length=None):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        if length is not None:
            self.close_connection = True
