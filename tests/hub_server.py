"""A small stand-in for the Hub on loopback: repositories, uploads (plain and LFS), commits, downloads, revisions; and the faults that tests ask for."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """`repos`: "models/user/name" -> {"branches": {name: [commit, ...]}}; a commit is {"sha", "files": {path: bytes}}."""

    daemon_threads = True

    port = 0  # of all stand-ins of this process, one after the other: clients have imported its address

    def __init__(self):
        super().__init__(("127.0.0.1", Hub.port), Handler)
        Hub.port = self.server_address[1]
        self.connections: list[socket.socket] = []
        self.repos: dict[str, dict] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.fail: list[tuple[str, str, int]] = []  # (method, pattern of the path, status), for every such request
        self.after: dict[str, object] = {}  # pattern of the path -> called after the request was answered
        self.token = "hf_" + "x" * 34
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def shutdown(self) -> None:
        super().shutdown()
        self.server_close()
        for connection in self.connections:  # which clients would keep for the next stand-in at this address
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repo: str, branch: str, files: dict[str, bytes], removed: list[str]) -> str:
        commits = self.repos[repo]["branches"].setdefault(branch, [])
        whole = {**(commits[-1]["files"] if commits else {}), **files}
        for path in removed:
            whole.pop(path, None)
        sha = hashlib.sha1(repr((repo, branch, len(commits), sorted(whole.items()))).encode()).hexdigest()
        commits.append({"sha": sha, "files": whole})
        return sha

    def at(self, repo: str, revision: str) -> dict | None:
        """The commit that a branch or a sha names."""
        branches = self.repos.get(repo, {"branches": {}})["branches"]
        if revision in branches:
            return branches[revision][-1]
        return next((commit for commits in branches.values() for commit in commits if commit["sha"] == revision), None)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def setup(self):
        super().setup()
        self.server.connections.append(self.connection)

    def log_message(self, *args):
        pass

    def answer(self, status: int, body: bytes | dict | list = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_request(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.body()
        self.server.requests.append((self.command, path))
        for method, pattern, status in self.server.fail:
            if method == self.command and re.search(pattern, path):
                return self.answer(status, {"error": f"asked to fail with {status}"})
        writes = self.command in ("POST", "PUT")
        if writes and "/lfs-store/" not in path and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.answer(401, {"error": "no such token"})
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                getattr(self, method)(*found.groups(), body=body)
                break
        else:
            self.answer(404, {"error": f"the stand-in has no {self.command} {path}"})
        for pattern, action in self.server.after.items():
            if re.search(pattern, path):
                action()

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def create(self, body: bytes) -> None:
        given = json.loads(body)
        kind, name = given.get("type") or "model", f"{given.get('organization') or 'user'}/{given['name']}"
        repo = f"{kind}s/{name}"
        known = repo in self.server.repos
        if not known:
            self.server.repos[repo] = {"branches": {}, "private": given.get("private"), "sdk": given.get("sdk")}
            self.server.commit(repo, "main", {".gitattributes": b""}, [])
        url = f"{self.server.url}/{'spaces/' if kind == 'space' else ''}{name}"
        self.answer(409 if known else 200, {"url": url, "name": name, "id": name})

    def validate(self, body: bytes) -> None:
        text = json.loads(body)["content"]
        fine = text.startswith("---\n") and "\n---\n" in text
        self.answer(200, {"errors": [] if fine else [{"message": "no front matter"}], "warnings": []})

    def preupload(self, repo: str, revision: str, body: bytes) -> None:
        if self.server.at(repo, revision) is None:
            return self.answer(404, {"error": "no such revision"}, X_Error_Code="RevisionNotFound")
        files = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if f["path"].endswith((".safetensors", ".png")) else "regular",
                "shouldIgnore": False,
            }
            for f in json.loads(body)["files"]
        ]
        self.answer(200, {"files": files})

    def batch(self, name: str, body: bytes) -> None:
        objects = []
        for each in json.loads(body)["objects"]:
            actions = {"upload": {"href": f"{self.server.url}/lfs-store/{each['oid']}", "header": {}}}
            objects.append({**each, **({} if each["oid"] in self.server.lfs else {"actions": actions})})
        self.answer(200, {"transfer": "basic", "objects": objects})

    def store(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.answer(400, {"error": "damaged on the way"})
        self.server.lfs[oid] = body
        self.answer(200)

    def do_commit(self, repo: str, branch: str, body: bytes) -> None:
        files, removed = {}, []
        for line in body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.server.lfs:
                    return self.answer(400, {"error": f"{value['path']} was never uploaded"})
                files[value["path"]] = self.server.lfs[value["oid"]]
            elif item["key"] == "deletedFile":
                removed.append(value["path"])
        sha = self.server.commit(repo, branch, files, removed)
        self.answer(
            200, {"success": True, "commitOid": sha, "commitUrl": f"{self.server.url}/{repo}/commit/{sha}", "hookOutput": ""}
        )

    def info(self, repo: str, revision: str | None = None, body: bytes = b"") -> None:
        commit = self.server.at(repo, revision or "main")
        if commit is None:
            code = "RevisionNotFound" if repo in self.server.repos else "RepoNotFound"
            return self.answer(404, {"error": "not found"}, X_Error_Code=code)
        siblings = [{"rfilename": path} for path in commit["files"]]
        name = repo.partition("/")[2]
        self.answer(
            200,
            {
                "id": name,
                "modelId": name,
                "sha": commit["sha"],
                "siblings": siblings,
                "private": False,
                "tags": [],
                "downloads": 0,
            },
        )

    def tree(self, repo: str, revision: str, folder: str | None, body: bytes) -> None:
        commit = self.server.at(repo, revision)
        if commit is None:
            return self.answer(404, {"error": "not found"}, X_Error_Code="RevisionNotFound")
        recursive = parse_qs(urlsplit(self.path).query).get("recursive") == ["true"]
        inside = f"{folder}/" if folder else ""
        found = [p for p in commit["files"] if p.startswith(inside) and (recursive or "/" not in p[len(inside) :])]
        if folder and not found:
            return self.answer(404, {"error": "no such folder"}, X_Error_Code="EntryNotFound")
        rows = [{"type": "file", "path": p, "size": len(commit["files"][p]), "oid": etag(commit["files"][p])} for p in found]
        self.answer(200, rows)

    def resolve(self, repo: str, revision: str, path: str, body: bytes) -> None:
        repo = repo if repo.startswith("spaces/") else f"models/{repo}"
        commit = self.server.at(repo, revision)
        if commit is None:
            code = "RevisionNotFound" if repo in self.server.repos else "RepoNotFound"
            return self.answer(404, b"", X_Error_Code=code)
        if path not in commit["files"]:
            return self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=commit["sha"])
        data = commit["files"][path]
        self.answer(200, data, ETag=f'"{etag(data)}"', X_Repo_Commit=commit["sha"], Accept_Ranges="none")


def etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


_REPO = r"((?:models|spaces)/[^/]+/[^/]+)"
ROUTES = (
    (r"POST /api/repos/create", "create"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"POST /api/{_REPO}/preupload/([^/]+)", "preupload"),
    (rf"POST /api/{_REPO}/commit/([^/]+)", "do_commit"),
    (r"POST /((?:spaces/)?[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
    (r"PUT /lfs-store/(\w+)", "store"),
    (rf"GET /api/{_REPO}/revision/([^/]+)", "info"),
    (rf"GET /api/{_REPO}/tree/([^/]+)(?:/(.*))?", "tree"),
    (rf"GET /api/{_REPO}", "info"),
    (r"(?:GET|HEAD) /((?:spaces/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
)
