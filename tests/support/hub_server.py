"""A stand-in for the Hugging Face Hub: the routes that its client calls for models, in memory.

Create, preupload, Git LFS, commit, tree, metadata and download; no Xet. Routes and fields follow
huggingface_hub 2.4 (hf_api.py, _commit_api.py, lfs.py, file_download.py).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_writer"  # noqa: S105 - of this server
READ_TOKEN = "hf_reader"  # noqa: S105 - of this server


@dataclass
class Repo:
    """A repository.

    Attributes:
        private: visibility.
        files: content of each file of the main branch.
        commits: operations of each commit: names that were added and deleted.
    """

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[tuple[list[str], list[str]]] = field(default_factory=list)

    @property
    def sha(self) -> str:
        state = repr((len(self.commits), sorted(self.files.items())))
        return hashlib.sha1(state.encode(), usedforsecurity=False).hexdigest()


@dataclass
class Hub:
    """A running server.

    Attributes:
        url: the endpoint.
        repos: repositories by user and name.
        objects: uploaded Git LFS objects by SHA-256.
        requests: method and path of each request.
        downloads: names of the files that were downloaded.
        listed: names and sizes that the metadata claims, instead of the files of a repository.
        broken: part of the path of requests that fail with status 500.
    """

    url: str
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    downloads: list[str] = field(default_factory=list)
    listed: dict[str, int] = field(default_factory=dict)
    broken: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    def log_message(self, *_: object) -> None:
        pass

    def _route(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        if self.hub.broken and self.hub.broken in path:
            self._fail(500, "internal error")
        elif path == "/api/repos/create":
            self._create()
        elif path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/objects/([0-9a-f]{64})", path):
            self.hub.objects[found[1]] = self.body
            self._send({})
        elif found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(\w+)/([^/]+))?(/.*)?", path):
            self._model(found[1], found[2] or "revision")
        elif found := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            self._batch()
        elif found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[1], found[3])
        else:
            self._fail(404, "no such route")

    # -------------------------------------------------------------------------------- permissions

    @property
    def _token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def _may_write(self) -> bool:
        if self._token == TOKEN:
            return True
        if self._token == READ_TOKEN:
            self._fail(403, "you need write access")
        else:
            self._fail(401, "invalid user token")
        return False

    def _find(self, name: str) -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self._token not in (TOKEN, READ_TOKEN)):
            code = 404 if self._token else 401
            self._fail(code, "Repository not found", {"X-Error-Code": "RepoNotFound"})
            return None
        return repo

    # -------------------------------------------------------------------------------------- routes

    def _create(self) -> None:
        if not self._may_write():
            return
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'ada'}/{asked['name']}"
        url = f"{self.hub.url}/{name}"
        if name in self.hub.repos:
            self._send({"error": "You already created this model repo", "url": url}, 409)
            return
        private = asked.get("private") is True or asked.get("visibility") == "private"
        self.hub.repos[name] = Repo(private)
        self._send({"url": url, "name": name, "id": name})

    def _model(self, name: str, route: str) -> None:
        if route in ("preupload", "commit") and not self._may_write():
            return
        repo = self._find(name)
        if repo is None:
            return
        if route == "preupload":
            files = [
                {"path": one["path"], "uploadMode": self._mode(one), "shouldIgnore": False}
                for one in json.loads(self.body)["files"]
            ]
            self._send({"files": files})
        elif route == "commit":
            self._commit(name, repo)
        elif route == "tree":
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
                for path, content in sorted(repo.files.items())
            ]
            self._send(entries)
        else:
            sizes = {path: len(content) for path, content in repo.files.items()}
            siblings = [
                {"rfilename": path, "size": size, "blobId": "0" * 40}
                for path, size in {**sizes, **self.hub.listed}.items()
            ]
            fields = {"id": name, "modelId": name, "sha": repo.sha, "private": repo.private}
            self._send({**fields, "siblings": siblings, "tags": [], "downloads": 0})

    @staticmethod
    def _mode(file: dict[str, Any]) -> str:
        is_text = b"\0" not in base64.b64decode(file["sample"])
        return "regular" if is_text and file["size"] < 10 * 2**20 else "lfs"

    def _batch(self) -> None:
        if not self._may_write():
            return
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.url}/objects/{one['oid']}"}}}
            for one in json.loads(self.body)["objects"]
        ]
        self._send({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repo: Repo) -> None:
        added, deleted, files = [], [], dict(repo.files)
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                added.append(value["path"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
                added.append(value["path"])
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
                deleted.append(value["path"])
        repo.files = files
        repo.commits.append((added, deleted))
        oid = repo.sha
        url = f"{self.hub.url}/{name}/commit/{oid}"
        self._send({"success": True, "commitOid": oid, "commitUrl": url})

    def _resolve(self, name: str, path: str) -> None:
        repo = self._find(name)
        if repo is None:
            return
        content = repo.files.get(path)
        if content is None:
            self._fail(404, "Entry not found", {"X-Error-Code": "EntryNotFound"})
            return
        if self.command == "GET":
            self.hub.downloads.append(path)
        etag = hashlib.sha256(content).hexdigest()
        self._respond(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": repo.sha})

    # ------------------------------------------------------------------------------------ responses

    def _send(self, value: object, status: int = 200) -> None:
        self._respond(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _fail(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        content = json.dumps({"error": message}).encode()
        extra = {"Content-Type": "application/json", "X-Error-Message": message}
        self._respond(status, content, {**extra, **(headers or {})})

    def _respond(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve an empty hub until the end of the block."""

    class Handler(_Handler):
        pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    Handler.hub = Hub(f"http://127.0.0.1:{http.server_address[1]}")
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield Handler.hub
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
