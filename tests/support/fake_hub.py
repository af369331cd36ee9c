"""A small model hub on loopback: what huggingface_hub asks of the real one to fetch a snapshot.

Runs a server on a free port; clients are pointed at it by HF_ENDPOINT. Counts requests, can cut a
download short and can refuse.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


def commit_of(folder: Path) -> str:
    """A commit id that changes with any file of the folder."""
    digest = hashlib.sha1(usedforsecurity=False)
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


class FakeHub:
    """A hub that holds `revisions`: name -> folder of files. `repo` is a pattern of its names."""

    def __init__(self, repo: str, revisions: dict[str, Path]) -> None:
        self.repo = repo
        self.folders = {name: folder for name, folder in revisions.items()}
        self.commits = {name: commit_of(folder) for name, folder in revisions.items()}
        self.folders |= {commit: revisions[name] for name, commit in self.commits.items()}
        self.fetched: Counter[str] = Counter()  # file name: GETs
        self.ranges: list[str] = []  # Range headers seen
        self.paths: list[str] = []  # all that was asked for
        self.logins: set[str] = set()  # Authorization headers seen
        self.ignores_ranges = False
        self.listed: list[str] = []  # names that its list has beside those of files
        self.cut: tuple[str, int] | None = None  # (file, bytes of it after which to hang up)
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """What HF_ENDPOINT has to be."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        """Serves one request: the repository's list of files, or a file."""
        path = unquote(urlsplit(request.path).path)
        self.paths.append(path)
        self.logins.update(request.headers.get_all("Authorization", []))
        info = re.fullmatch(rf"/api/models/(?:{self.repo})(?:/revision/(.+))?", path)
        tree = re.fullmatch(rf"/api/models/(?:{self.repo})/tree/([^/]+)", path)
        file = re.fullmatch(rf"/(?:{self.repo})/resolve/([^/]+)/(.+)", path)
        asked = info or tree or file
        revision = asked and (asked[1] or "main")
        if revision not in self.folders:
            missing = "RepoNotFound" if revision is None else "RevisionNotFound"
            return self._send(request, 404, b"{}", body, {"X-Error-Code": missing})
        folder = self.folders[revision]
        commit = self.commits.get(revision, revision)
        if info:
            names = [{"rfilename": p.name} for p in sorted(folder.iterdir())]
            names += [{"rfilename": name} for name in self.listed]
            answer = {"id": self.repo, "sha": commit, "siblings": names}
            return self._send(request, 200, json.dumps(answer).encode(), body, {})
        if tree:
            rows = [self._tree_row(p) for p in sorted(folder.iterdir())]
            rows += [rows[0] | {"path": name} for name in self.listed]
            return self._send(request, 200, json.dumps(rows).encode(), body, {})
        data = folder / file[2]
        if not data.is_file():
            return self._send(request, 404, b"", body, {"X-Error-Code": "EntryNotFound"})
        self._send_file(request, data, commit, body)

    @staticmethod
    def _tree_row(path: Path) -> dict[str, object]:
        return {
            "type": "file",
            "path": path.name,
            "size": path.stat().st_size,
            "oid": hashlib.sha256(path.read_bytes()).hexdigest(),
        }

    def _send_file(
        self, request: BaseHTTPRequestHandler, path: Path, commit: str, body: bool
    ) -> None:
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        status, total = 200, len(data)
        if wanted and not self.ignores_ranges:
            self.ranges.append(wanted[0])
            begin, end = int(wanted[1]), int(wanted[2] or total - 1)
            data = data[begin : end + 1]
            headers["Content-Range"] = f"bytes {begin}-{begin + len(data) - 1}/{total}"
            status = 206
        if body:
            self.fetched[path.name] += 1
        cut = self.cut[1] if body and self.cut and self.cut[0] == path.name else None
        self._send(request, status, data, body, headers, cut)

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        body: bool,
        headers: dict[str, str],
        cut: int | None = None,
    ) -> None:
        request.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            request.send_header(name, value)
        request.end_headers()
        if body:
            request.wfile.write(data[:cut])
        if cut is not None and cut < len(data):
            request.close_connection = True
