"""A stand-in for the Hub on loopback: enough of its HTTP API for pushing, loading and listing repositories.

Run as a program it prints its address and serves until it is stopped; `GET /__files__` lists everything it holds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

KINDS = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}
REPOS: dict[tuple[str, str], dict] = {}
LFS: dict[str, bytes] = {}


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status: int = 200, body=b"", headers=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            out = b""
            while size := int(self.rfile.readline().strip(), 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def missing(self, what: str = "RepoNotFound"):
        self.reply(404, {"error": what}, {"X-Error-Code": what, "X-Error-Message": what})

    def handle_request(self):
        path, body = unquote(urlsplit(self.path).path), self.body()
        host = f"http://{self.headers['Host']}"
        if path == "/__files__":
            held = {
                f"{KINDS[kind]}{name}": {f: base64.b64encode(b).decode() for f, b in repo["files"].items()}
                for (kind, name), repo in REPOS.items()
            }
            return self.reply(body=held)
        if path == "/api/whoami-v2":
            return self.reply(body={"type": "user", "name": "user", "orgs": [], "auth": {"type": "access_token"}})
        if path == "/api/validate-yaml":
            return self.reply(body={"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            kind = f"{asked.get('type') or 'model'}s"
            name = f"{asked.get('organization') or 'user'}/{asked['name']}"
            known = (kind, name) in REPOS
            REPOS.setdefault((kind, name), {"files": {}, "sha": "0" * 40})
            return self.reply(409 if known else 200, {"url": f"{host}/{KINDS[kind]}{name}", "id": name, "name": name})
        if match := re.fullmatch(r"/lfs/(\w+)", path):
            LFS[match[1]] = body
            return self.reply()
        if re.fullmatch(r"/.+\.git/info/lfs/objects/batch", path):
            objects = [
                {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{host}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self.reply(body={"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(.+))?", path):
            return self.repository(match[1], match[2], (match[3] or "").split("/"), body, host)
        if match := re.fullmatch(r"/(datasets/|spaces/|)([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve({v: k for k, v in KINDS.items()}[match[1]], match[2], match[4])
        return self.missing("EntryNotFound")

    def repository(self, kind, name, rest, body, host):
        repo = REPOS.get((kind, name))
        if repo is None:
            return self.missing()
        files = repo["files"]
        described = [
            {"type": "file", "path": p, "size": len(b), "oid": hashlib.sha1(b).hexdigest()} for p, b in files.items()
        ]
        if rest[0] in ("", "revision"):
            info = {
                "id": name,
                "modelId": name,
                "sha": repo["sha"],
                "private": False,
                "tags": [],
                "siblings": [{"rfilename": p} for p in files],
            }
            return self.reply(body=info)
        if rest[0] == "preupload":
            asked = json.loads(body)["files"]
            large = (".safetensors", ".parquet", ".bin")
            return self.reply(
                body={
                    "files": [
                        {
                            "path": f["path"],
                            "uploadMode": "lfs" if f["path"].endswith(large) else "regular",
                            "shouldIgnore": False,
                        }
                        for f in asked
                    ]
                }
            )
        if rest[0] == "commit":
            for line in body.decode().splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = LFS[value["oid"]]
                elif entry["key"] == "deletedFile":
                    files.pop(value["path"], None)
            repo["sha"] = hashlib.sha1(repo["sha"].encode() + body).hexdigest()
            return self.reply(
                body={
                    "commitUrl": f"{host}/{name}/commit/{repo['sha']}",
                    "commitOid": repo["sha"],
                    "pullRequestUrl": None,
                }
            )
        if rest[0] == "tree":
            folder = "".join(f"{part}/" for part in rest[2:])
            inside = [d for d in described if d["path"].startswith(folder)]
            if folder and not inside:
                return self.missing("EntryNotFound")
            folders = sorted(
                {folder + d["path"][len(folder) :].split("/")[0] for d in inside if "/" in d["path"][len(folder) :]}
            )
            if "recursive=true" not in self.path.lower():
                inside = [d for d in inside if "/" not in d["path"][len(folder) :]]
            return self.reply(
                body=[{"type": "directory", "path": f, "size": 0, "oid": "0" * 40} for f in folders] + inside
            )
        if rest[0] == "paths-info":
            wanted = (
                re.findall(r"paths=([^&]*)", body.decode())
                if b"paths=" in body
                else json.loads(body or b"{}").get("paths", [])
            )
            return self.reply(body=[d for d in described if d["path"] in [unquote(w) for w in wanted]])
        if rest[0] == "refs":
            return self.reply(
                body={
                    "branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": repo["sha"]}],
                    "tags": [],
                    "converts": [],
                }
            )
        return self.missing("EntryNotFound")

    def resolve(self, kind, name, path):
        repo = REPOS.get((kind, name))
        if repo is None:
            return self.missing()
        if path not in repo["files"]:
            return self.missing("EntryNotFound")
        data = repo["files"][path]
        headers = {
            "X-Repo-Commit": repo["sha"],
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            last = int(match[2]) if match[2] else len(data) - 1
            return self.reply(
                206,
                data[int(match[1]) : last + 1],
                {**headers, "Content-Range": f"bytes {match[1]}-{last}/{len(data)}"},
            )
        return self.reply(200, data, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(0)
