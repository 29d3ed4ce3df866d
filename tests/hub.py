"""A stand-in for the Hugging Face hub on this machine: its API, its files, and the other host from which it serves
large ones, and to which it has them sent."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_of_somebody_who_may"


@dataclass
class Repository:
    """A repository of models.

    Attributes:
        commits: hash -> folder with its files, the oldest first.
        branches: name -> hash.
        gated: whether one must have accepted its licence.
    """

    commits: dict[str, Path]
    branches: dict[str, str]
    gated: bool = False
    licence: str | None = "apache-2.0"

    def files(self, commit: str) -> dict[str, Path]:
        folder = self.commits[commit]
        return {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}


@dataclass
class Dataset:
    """A repository of a dataset.

    Attributes:
        commits: the files of each by name, the oldest first.
        messages: of the commits.
    """

    is_private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b"*.parquet filter=lfs"}])
    messages: list[str] = field(default_factory=lambda: ["initial commit"])

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]


@dataclass
class Hub:
    """What it holds, and what it was asked.

    Attributes:
        datasets: by their names.
        objects: checksum -> content, of the large files that were sent.
        sent: how often each large file was sent, by its checksum.
        room: how many more large files it takes, before it answers that the quota is used up.
        served: `owner/name/file` -> bytes of it that were sent, however often.
        drops: `owner/name/file` -> bytes after which its connection is closed, of each answer; 0: it answers 503.
        checksums: `owner/name/file` -> what the API says in place of its checksum.
        corrupt: `owner/name/file` of which the first byte is sent wrong.
        requests: method and path of each request to the API and for files.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    datasets: dict[str, Dataset] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    room: int = 1_000_000
    served: Counter[str] = field(default_factory=Counter)
    drops: dict[str, int] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    has_ranges: bool = True
    requests: list[str] = field(default_factory=list)
    url: str = ""
    cdn: str = ""

    def forget(self) -> None:
        self.served.clear()
        self.sent.clear()
        self.requests.clear()


def is_large(name: str) -> bool:
    """Whether the hub keeps a file outside git. It does so for weights, whatever their size."""
    weights = (".safetensors", ".bin", ".ckpt", ".msgpack", ".onnx", ".gguf")
    return name.endswith((*weights, ".parquet", ".tar", ".png", ".jpg", ".webp"))


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def handle(self) -> None:
        with suppress(OSError):  # the client is gone
            super().handle()

    def do_GET(self) -> None:
        self.respond()

    do_HEAD = do_POST = do_PUT = do_GET

    def body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer_json(self, content: Any, status: int = 200, **headers: str) -> None:
        self.answer(status, json.dumps(content).encode(), Content_Type="application/json", **headers)

    def respond(self) -> None:
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, name: str, content: bytes, **headers: str) -> None:
        """Sends a file, or the range of it that is asked for, as far as `drops` lets it."""
        if self.command == "GET" and self.hub.drops.get(name) == 0:
            self.answer(503)
            return
        start = 0
        asked = self.headers["Range"]
        if asked and self.hub.has_ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "HEAD":
            self.answer(200, content, **headers)
            return
        body = content[start:]
        if name in self.hub.corrupt and not start:
            body = bytes([body[0] ^ 1]) + body[1:]
        sent = body[: self.hub.drops.get(name, len(body))]
        self.send_response(206 if "Content_Range" in headers else 200)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.hub.served[name] += len(sent)
        self.wfile.write(sent)
        if len(sent) < len(body):
            self.wfile.flush()
            self.close_connection = True


class _HubHandler(_Handler):
    def respond(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path).strip("/")
        hub.requests.append(f"{self.command} /{path}")
        is_api = path.startswith("api/models/")
        owner, name, *rest = path.removeprefix("api/models/").split("/")
        model = f"{owner}/{name}"
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if token == "hf_refused":
            self.answer(401, X_Error_Message="Invalid credentials in Authorization header")
            return
        if path.startswith(("api/datasets/", "datasets/")) or path in {
            "api/whoami-v2", "api/repos/create", "api/validate-yaml",
        }:  # fmt: skip
            self._dataset(path, token)
            return
        repository = hub.repositories.get(model)
        if repository is None:
            # It does not tell strangers whether a repository is private or missing.
            self.answer(404 if token else 401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return
        revision = rest[1] if rest[1:] else "main"
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message=f"Invalid rev id: {revision}")
            return
        files = repository.files(commit)
        if is_api:
            kind = rest[0] if rest else "revision"
            self.answer(200, json.dumps(self._api(kind, model, repository, commit, files)).encode())
        elif repository.gated and token != TOKEN:
            status = 403 if token else 401
            self.answer(status, X_Error_Code="GatedRepo", X_Error_Message=f"Access to model {model} is restricted.")
        elif (file := "/".join(rest[2:])) not in files:
            self.answer(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found", X_Repo_Commit=commit)
        else:
            self._file(model, file, files[file].read_bytes(), commit)

    def _dataset(self, path: str, token: str) -> None:
        """Requests about datasets. Only the account of the token may change them, and only those of its name."""
        hub, body = self.hub, self.body()
        if path == "api/whoami-v2":
            self.answer_json({"type": "user", "name": "me"}, 200 if token == TOKEN else 401)
        elif path == "api/validate-yaml":
            self.answer_json({"errors": [], "warnings": []})
        elif path == "api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization'] or 'me'}/{asked['name']}"
            if token != TOKEN or not name.startswith("me/"):
                self.answer_json(
                    {}, 403, X_Error_Message="You don't have the rights to create a dataset under the namespace"
                )
                return
            assert asked["type"] == "dataset" and name not in hub.datasets
            hub.datasets[name] = Dataset(asked.get("visibility") == "private" or bool(asked.get("private")))
            self.answer_json({"url": f"{hub.url}/datasets/{name}"})
        elif path.endswith(".git/info/lfs/objects/batch"):
            assert token == TOKEN
            objects = []
            for wanted in json.loads(body)["objects"]:
                upload = {"upload": {"href": f"{hub.cdn}/upload/{wanted['oid']}?signature=good"}}
                is_there = wanted["oid"] in hub.objects
                objects.append({**wanted, **({} if is_there else {"authenticated": True, "actions": upload})})
            self.answer_json({"transfer": "basic", "objects": objects})
        else:
            owner, name, *rest = path.removeprefix("api/datasets/").split("/")
            dataset = hub.datasets.get(f"{owner}/{name}")
            if dataset is None or (dataset.is_private and token != TOKEN):
                message = {"X_Error_Code": "RepoNotFound", "X_Error_Message": "Repository not found"}
                self.answer(404 if token else 401, **message)
            else:
                self._of_dataset(f"{owner}/{name}", dataset, rest[0] if rest else "", body)

    def _of_dataset(self, name: str, dataset: Dataset, kind: str, body: bytes) -> None:
        commit = f"{len(dataset.commits):040d}"
        if kind == "tree":
            self.answer_json([_entry(file, content) for file, content in dataset.files.items()])
        elif kind == "preupload":
            asked = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "lfs" if is_large(p) else "regular"} for p in asked]
            self.answer_json({"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]})
        elif kind == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            files = dict(dataset.files)
            for line in lines[1:]:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.hub.objects[value["oid"]]
                else:
                    assert line["key"] == "deletedFile"
                    del files[value["path"]]
            dataset.commits.append(files)
            dataset.messages.append(lines[0]["value"]["summary"])
            self.answer_json(
                {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/datasets/{name}/commit/{commit}"}
            )
        else:
            siblings = [{"rfilename": file} for file in dataset.files]
            about = {"id": name, "sha": commit, "private": dataset.is_private, "siblings": siblings, "tags": []}
            self.answer_json(about)

    def _file(self, model: str, name: str, content: bytes, commit: str) -> None:
        if not is_large(name):
            self.send_file(f"{model}/{name}", content, ETag=f'"{git_id(content)}"', X_Repo_Commit=commit)
            return
        checksum = hashlib.sha256(content).hexdigest()
        self.answer(
            302,
            Location=f"{self.hub.cdn}/{model}/{name}?commit={commit}&signature=good",
            X_Repo_Commit=commit,
            X_Linked_Etag=f'"{checksum}"',
            X_Linked_Size=str(len(content)),
        )

    def _api(self, kind: str, model: str, repository: Repository, commit: str, files: dict[str, Path]) -> Any:
        if kind == "commits":
            date = "2026-01-01T00:00:00.000Z"
            return [{"id": c, "title": "", "message": "", "date": date, "authors": []} for c in repository.commits][
                ::-1
            ]
        about = []
        for name, path in files.items():
            about.append(_entry(name, path.read_bytes(), self.hub.checksums.get(f"{model}/{name}")))
        if kind == "tree":
            return about
        card = {"license": repository.licence} if repository.licence else {}
        gated = "auto" if repository.gated else False
        return {"id": model, "modelId": model, "sha": commit, "siblings": about, "gated": gated, "cardData": card}


def _entry(name: str, content: bytes, checksum: str | None = None) -> dict[str, Any]:
    """What the API says of a file."""
    entry: dict[str, Any] = {"size": len(content), "oid": git_id(content), "type": "file", "path": name}
    entry |= {"rfilename": name, "blobId": entry["oid"]}
    if is_large(name):
        checksum = checksum or hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": checksum, "sha256": checksum, "size": len(content), "pointerSize": 134}
    return entry


class _CdnHandler(_Handler):
    """Another host: it serves and takes what an address with a signature names, and refuses who shows it the hub's
    token."""

    def respond(self) -> None:
        address = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        if self.headers["Authorization"] or query.get("signature") != "good":
            self.answer(400)
            return
        path = unquote(address.path).strip("/")
        if self.command == "PUT":
            content, checksum = self.body(), path.removeprefix("upload/")
            assert hashlib.sha256(content).hexdigest() == checksum
            if self.hub.room <= 0:
                self.answer(403, X_Error_Message="Private repository storage limit reached")
                return
            self.hub.room -= 1
            self.hub.objects[checksum] = content
            self.hub.sent[checksum] += 1
            self.answer(200)
            return
        owner, model, name = path.split("/", 2)
        files = self.hub.repositories[f"{owner}/{model}"].files(query["commit"])
        self.send_file(path, files[name].read_bytes())


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that holds nothing yet, while the block runs."""
    hub = Hub()
    servers = []
    for handler in (_HubHandler, _CdnHandler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"hub": hub}))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
    hub.url = f"http://127.0.0.1:{servers[0].server_port}"
    hub.cdn = f"http://localhost:{servers[1].server_port}"  # clients follow redirects to the same host otherwise
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


@dataclass(frozen=True)
class Machine:
    """A machine with a cache of its own.

    Attributes:
        home: its `HF_HOME`.
        client: the folder of another version of huggingface_hub; None: the one that is installed.
    """

    home: Path
    hub: Hub
    client: Path | None = None

    @property
    def cache(self) -> Path:
        return self.home / "hub"

    def snapshot(self, model: str, commit: str) -> Path:
        return self.cache / f"models--{model.replace('/', '--')}" / "snapshots" / commit

    def python(self, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs code whose hub's client asks the stand-in."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        env |= {"HF_HOME": str(self.home), "HF_ENDPOINT": self.hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
        env |= {"SYNTHGEN_HOME": str(self.home), "no_proxy": "127.0.0.1,localhost", "COLUMNS": "400", **environment}
        paths = [str(self.client)] * bool(self.client) + [os.environ.get("PYTHONPATH", "")]
        env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command = [sys.executable, "-c", code]
        root = Path(__file__).parents[1]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False, cwd=root)

    def synthgen(self, *commands: list[str], settings: str = "", **environment: str) -> list[tuple[int, str, str]]:
        """Runs command lines one after the other in one process -> exit code, output and errors of each. A command line
        may begin with a variable of its environment, such as HF_TOKEN=….

        Args:
            settings: assignments to names of `synthgen.models.hub.blobs`.
        """
        code = (
            "import contextlib, io, json, os, sys\nfrom synthgen import cli\nfrom synthgen.models.hub import blobs\n"
            f"exec('PAUSE_SECONDS = 0; {settings}', vars(blobs))\nfor command in {commands!r}:\n"
            "    if '=' in command[0]: os.environ.update([command.pop(0).split('=', 1)])\n"
            "    sys.argv, out, err, code = ['synthgen', *command], io.StringIO(), io.StringIO(), 0\n"
            "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):\n"
            "        try: cli.main()\n"
            "        except SystemExit as end: code = int(end.code or 0)\n"
            "    print(json.dumps([code, out.getvalue(), err.getvalue()]))\n"
        )
        done = self.python(code, **environment)
        assert done.returncode == 0, done.stderr
        return [tuple(json.loads(line)) for line in done.stdout.splitlines()]
