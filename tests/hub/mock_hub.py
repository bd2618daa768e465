#!/usr/bin/env python3
"""A loopback server that speaks the Hugging Face Hub's protocol, and breaks it as told.

Three listeners: the hub, a CDN on another host (localhost beside 127.0.0.1) that large files are redirected to, and a proxy. Commands
are JSON objects, one a line, on standard input (or POSTed to /_mock); each is answered by one line of JSON. The first line printed
tells the addresses. Ends when standard input does, or with --serve, on a signal.

  {"op": "commit", "repo": "org/name", "dir": DIR, "branch": "main", "tag": "", "pull": "", "lfs": ["*.bin"]}
  {"op": "move", "repo": .., "branch": .., "commit": ..}       the branch now names another commit
  {"op": "repo", "repo": .., "gated": true, ...}               attributes of mock_repository.Repository
  {"op": "token", "token": "hf_.."}                            the only one that is valid (none: every token is)
  {"op": "fault", ..rule..}                                    see mock_faults.py
  {"op": "cdn", "origin": "http://cdn.invalid"}                what redirects name instead of the CDN's address
  {"op": "tls", "cert": FILE, "key": FILE}                     one more listener of the hub, with TLS; answers its address
  {"op": "requests"}                                           all since the last "clear" or "reset"
  {"op": "clear"} {"op": "reset"}                              faults and requests; also repositories and settings
  {"op": "wait", "requests": N, "path": GLOB, "timeout": S}    until so many have come
"""
import argparse
import fnmatch
import gzip
import json
import socket
import socketserver
import ssl
import sys
import threading
import time
from http.client import responses as REASONS
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
from mock_faults import Rules, nap, pieces, reset, send_body  # noqa: E402
from mock_repository import Repository  # noqa: E402


class Refused(Exception):
    """An answer that is an error: status, X-Error-Code, X-Error-Message, further headers."""

    def __init__(self, status, code="", message="", headers=None):
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        if code:
            self.headers["X-Error-Code"] = code
        if message:
            self.headers["X-Error-Message"] = message


class Request:
    def __init__(self, where, method, target, headers):
        self.where, self.method, self.target, self.headers = where, method, target, headers
        parts = urlsplit(target)
        self.authority, self.raw_path, self.query = parts.netloc, parts.path, parse_qs(parts.query)
        self.path = unquote(parts.path)

    def range(self, size):
        """None, or (begin, end) of the first range; an unsatisfiable one is 416."""
        text = self.headers.get("range", "")
        if not text.startswith("bytes="):
            return None
        first, _, last = text[6:].split(",")[0].partition("-")
        begin = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if begin >= size or begin >= end:
            raise Refused(416, headers={"Content-Range": f"bytes */{size}"})
        return begin, end


class Answer:
    """Status and headers, with a body of bytes or of a file."""

    def __init__(self, status, headers, body=b"", file=None):
        self.status, self.headers, self.body, self.file = status, headers, body, file


class Mock:
    """The state, its listeners, and what each request is answered."""

    def __init__(self, hub_port=0, cdn_port=0, proxy_port=0, cdn_host="localhost"):
        self.lock = threading.Condition()
        self.servers = {}
        for where, port in (("hub", hub_port), ("cdn", cdn_port), ("proxy", proxy_port)):
            self.listen(where, port)
        self.hub = f"http://127.0.0.1:{self.servers['hub'].server_address[1]}"
        self.own_cdn = f"http://{cdn_host}:{self.servers['cdn'].server_address[1]}"
        self.proxy = f"http://127.0.0.1:{self.servers['proxy'].server_address[1]}"
        self.rules = Rules()
        self.reset()

    def listen(self, where, port=0, context=None):
        server = Server(("127.0.0.1", port), Connection)
        server.mock, server.where, server.context = self, where, context
        self.servers[where] = server
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server.server_address[1]

    def addresses(self):
        return {"hub": self.hub, "cdn": self.own_cdn, "proxy": self.proxy}

    def reset(self):
        self.repositories, self.token, self.cdn = {}, "", self.own_cdn
        self.clear()

    def clear(self):
        self.rules.clear()
        with self.lock:
            self.requests = []

    def close(self):
        for server in self.servers.values():
            server.shutdown()
            server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *ignored):
        self.close()

    def repository(self, id):
        return self.repositories.setdefault(id, Repository(id))

    def command(self, order):
        op, rest = order["op"], {k: v for k, v in order.items() if k != "op"}
        if op == "commit":
            repository = self.repository(rest.pop("repo"))
            sha = repository.commit(rest.pop("dir"), **rest)
            files = {path: {"size": f.size, "etag": f.etag, "lfs": bool(f.sha256)} for path, f in repository.commits[sha].items()}
            return {"commit": sha, "files": files}
        if op == "move":
            self.repository(rest["repo"]).branches[rest["branch"]] = rest["commit"]
        elif op == "repo":
            repository = self.repository(rest.pop("repo"))
            for name, value in rest.items():
                if not hasattr(repository, name):
                    raise KeyError(name)
                setattr(repository, name, value)
        elif op == "token":
            self.token = rest["token"]
        elif op == "fault":
            self.rules.add(rest)
        elif op == "cdn":
            self.cdn = rest["origin"]
        elif op == "tls":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(rest["cert"], rest["key"])
            return {"origin": f"https://localhost:{self.listen('tls', context=context)}"}
        elif op == "requests":
            with self.lock:
                return {"requests": [dict(r) for r in self.requests]}
        elif op == "clear":
            self.clear()
        elif op == "reset":
            self.reset()
        elif op == "wait":
            pattern = rest.get("path", "*")

            def enough():
                return sum(fnmatch.fnmatchcase(r["path"], pattern) for r in self.requests) >= rest["requests"]
            with self.lock:
                return {"ok": self.lock.wait_for(enough, rest.get("timeout", 1200))}
        else:
            raise KeyError(op)
        return {"ok": True}

    def record(self, request):
        entry = {"where": request.where, "method": request.method, "target": request.target, "path": request.path,
                 "headers": request.headers, "status": 0, "sent": 0, "at": time.monotonic(), "done": False}
        with self.lock:
            self.requests.append(entry)
            self.lock.notify_all()
        return entry

    # What the Hub answers.

    def answer(self, request):
        where = request.where
        if where == "proxy":  # it serves both hosts itself; which one was meant tells the URL
            where = "cdn" if request.authority == urlsplit(self.cdn).netloc else "hub"
        if where == "cdn":
            return self.cdn_answer(request)
        parts = request.raw_path.split("/")
        if request.raw_path == "/_mock" and request.method == "POST":
            return self.as_json(self.command(json.loads(request.body)))
        if parts[1:3] == ["api", "models"] and len(parts) >= 5:
            return self.api(request, "/".join(parts[3:5]), parts[5:])
        if parts[1:4] == ["api", "resolve-cache", "models"] and len(parts) >= 8:
            return self.resolve_cache(request, "/".join(parts[4:6]), unquote(parts[6]), unquote("/".join(parts[7:])))
        if len(parts) >= 6 and parts[3] == "resolve":
            return self.resolve(request, "/".join(parts[1:3]), unquote(parts[4]), unquote("/".join(parts[5:])))
        raise Refused(404, message="Sorry, we can't find the page you are looking for.")

    def allowed(self, request, id, files):
        """The repository, if the request may see it (and its files)."""
        given = request.headers.get("authorization", "")
        known = bool(given) and (not self.token or given == f"Bearer {self.token}")
        if given and not known:
            raise Refused(401, message="Invalid credentials in Authorization header")
        repository = self.repositories.get(id)
        if repository is None or (repository.private and not known):
            if known:
                raise Refused(404, "RepoNotFound", "Repository not found")
            raise Refused(401, "RepoNotFound", "Invalid username or password.",
                          {"WWW-Authenticate": 'Bearer realm="Authentication required"'})
        if files and repository.gated:
            if not known:
                raise Refused(401, "GatedRepo", f"Access to model {id} is restricted. You must have access to it and be "
                              "authenticated to access it. Please log in.")
            if not repository.accepted:
                raise Refused(403, "GatedRepo", f"Access to model {id} is restricted and you are not in the authorized list. "
                              f"Visit https://huggingface.co/{id} to ask for access.")
        return repository

    @staticmethod
    def at(repository, revision):
        sha = repository.resolve(revision)
        if sha is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    @staticmethod
    def as_json(value, headers=None, status=200):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return Answer(status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, body)

    @staticmethod
    def moved(location, headers=None, status=307):
        body = f"Temporary Redirect. Redirecting to {location}".encode()
        return Answer(status, {"Content-Type": "text/plain; charset=utf-8", "Location": location, **(headers or {})}, body)

    def api(self, request, id, rest):
        repository = self.allowed(request, id, files=False)
        if repository.renamed_to:
            query = urlsplit(request.target).query
            path = request.raw_path.replace(f"/api/models/{id}", f"/api/models/{repository.renamed_to}", 1)
            return self.moved(path + ("?" + query if query else ""))
        if rest == ["refs"]:
            return self.as_json(repository.refs(pulls=request.query.get("include_prs", [""])[0] in ("1", "true")))
        if not rest or rest[0] == "revision":
            sha = self.at(repository, unquote(rest[1]) if rest else "main")
            return self.as_json(repository.info(sha, blobs="blobs" in request.query))
        if rest[0] == "tree" and len(rest) >= 2:
            sha = self.at(repository, unquote(rest[1]))
            below = unquote("/".join(rest[2:]))
            entries = repository.tree(sha, below)
            if request.query.get("recursive", ["false"])[0].lower() not in ("1", "true"):
                depth = below.count("/") + 1 if below else 0
                entries = [e for e in entries if e["path"].count("/") == depth]
            first = int(request.query.get("cursor", ["0"])[0])
            size = min(repository.page_size, int(request.query.get("limit", [repository.page_size])[0]))
            headers = {}
            if first + size < len(entries):
                kept = "&".join(f"{k}={quote(v[0])}" for k, v in request.query.items() if k != "cursor")
                origin = f"http://{request.authority or request.headers.get('host', '')}"
                headers["Link"] = f'<{origin}{request.raw_path}?{kept + "&" if kept else ""}cursor={first + size}>; rel="next"'
            return self.as_json(entries[first:first + size], headers)
        raise Refused(404, message="Not found")

    def entry(self, repository, revision, path):
        sha = self.at(repository, revision)
        file = repository.commits[sha].get(path)
        if file is None:
            raise Refused(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        return sha, file

    def resolve(self, request, id, revision, path):
        repository = self.allowed(request, id, files=True)
        if repository.renamed_to:
            return self.moved(request.raw_path.replace(f"/{id}/", f"/{repository.renamed_to}/", 1))
        sha, file = self.entry(repository, revision, path)
        linked = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes", "X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.etag}"'}
        name = quote(path.rsplit("/", 1)[-1])
        if file.sha256:
            if repository.xet:
                linked["X-Xet-Hash"] = file.xet
                linked["Link"] = (f'<{self.hub}/api/models/{id}/xet-read-token/{sha}>; rel="xet-auth", '
                                  f'<https://cas.invalid/reconstruction/{file.xet}>; rel="xet-reconstruction-info"')
            signed = f"?response-content-disposition=attachment%3B+filename%3D%22{name}%22%3B&Expires=4102444800&Signature=s~{file.etag[:8]}__"
            return self.moved(f"{self.cdn}/repos/{id}/{file.sha256}{signed}", {**linked, "ETag": f'"{file.etag}"'}, 302)
        if repository.redirect_text:
            target = f"/api/resolve-cache/models/{id}/{sha}/{quote(path)}?{quote(request.raw_path, safe='')}=&etag=%22{file.etag}%22"
            return self.moved(target, linked)
        return self.file(request, file, {"X-Repo-Commit": sha, "ETag": f'"{file.etag}"'}, repository.gzip)

    def resolve_cache(self, request, id, sha, path):
        repository = self.allowed(request, id, files=True)
        sha, file = self.entry(repository, sha, path)
        return self.file(request, file, {"X-Repo-Commit": sha, "ETag": f'"{file.etag}"'}, repository.gzip)

    def cdn_answer(self, request):
        if "authorization" in request.headers:
            raise Refused(400, message="Only one auth mechanism allowed")
        if not request.query.get("Signature"):
            raise Refused(403, message="Access denied")
        id, wanted = "/".join(request.path.split("/")[2:4]), request.path.rsplit("/", 1)[-1]
        for files in self.repositories[id].commits.values() if id in self.repositories else ():
            for file in files.values():
                if file.sha256 == wanted:
                    return self.file(request, file, {"ETag": f'"{wanted[:32]}"'}, False)
        raise Refused(404, message="The specified key does not exist.")

    @staticmethod
    def file(request, file, headers, compress):
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        if compress and request.method == "GET" and "gzip" in request.headers.get("accept-encoding", ""):
            del headers["Accept-Ranges"]  # and a Range is ignored, as CloudFront does
            headers |= {"Content-Encoding": "gzip", "Transfer-Encoding": "chunked"}
            return Answer(200, headers, gzip.compress(file.source.read_bytes()))
        return Answer(200, headers, file=file)


class Connection(socketserver.BaseRequestHandler):
    """One connection of a client; keeps it open between requests unless a fault closes it."""

    def handle(self):
        self.mock, self.where, self.rest = self.server.mock, self.server.where, b""
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self.server.context:
                self.request = self.server.context.wrap_socket(self.request, server_side=True)
            while (request := self.read()) is not None and self.serve(request):
                pass
        except (ConnectionError, BrokenPipeError, OSError):
            pass

    def read(self):
        while b"\r\n\r\n" not in self.rest:
            block = self.request.recv(65536)
            if not block:
                return None
            self.rest += block
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        request = Request(self.where, method, target, headers)
        size = int(headers.get("content-length", 0))
        while len(self.rest) < size:
            self.rest += self.request.recv(65536)
        request.body, self.rest = self.rest[:size], self.rest[size:]
        return request

    def serve(self, request):
        if request.method == "CONNECT":
            entry = self.mock.record(request)
            entry |= {"status": 502, "done": True}
            self.request.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return False
        if request.path == "/_mock":
            return self.send(request, self.mock.answer(request), {}, {})
        fault = self.mock.rules.match(request.where, request.method, request.path, "range" in request.headers)
        entry = self.mock.record(request)
        try:
            for order in fault.get("then", ()):
                self.mock.command(order)
            if "delay" in fault:
                nap(self.request, fault["delay"])
            if "drop" in fault:
                if fault["drop"] == "reset":
                    reset(self.request)
                return False
            return self.send(request, self.answered(request, fault), fault, entry)
        finally:
            entry["done"] = True

    def answered(self, request, fault):
        if "redirect" in fault:
            target = fault["redirect"].format(hub=self.mock.hub, cdn=self.mock.cdn, path=request.raw_path, target=request.target)
            return self.mock.moved(target, fault.get("headers"), fault.get("status", 302))
        if "status" in fault:
            headers = dict(fault.get("headers", {}))
            for name, header in (("error_code", "X-Error-Code"), ("message", "X-Error-Message")):
                if name in fault:
                    headers[header] = fault[name]
            return Answer(fault["status"], headers, fault.get("body", "").encode())
        if "fill" in fault:
            return self.mock.as_json(b" " * fault["fill"])
        if "json" in fault:
            text = fault["json"] if isinstance(fault["json"], str) else json.dumps(fault["json"])
            return self.mock.as_json(text.encode("latin-1" if fault.get("latin1") else "utf-8"), fault.get("headers"))
        try:
            return self.mock.answer(request)
        except Refused as refused:
            body = json.dumps({"error": str(refused)}).encode()
            return Answer(refused.status, {"Content-Type": "application/json", **refused.headers}, body)

    def file_range(self, request, answer, fault):
        """Sets status and headers for the part of the file that is wanted; returns that part."""
        size = answer.file.size
        part = None if fault.get("ignore_range") else request.range(size)
        begin, end = part or (0, size)
        if part:
            shift = fault.get("range_shift", 0)
            begin = max(0, min(begin + shift, size))
            answer.status = 206
            answer.headers["Content-Range"] = fault.get("content_range", f"bytes {begin}-{end - 1}/{size}")
        return begin, end

    def send(self, request, answer, fault, entry):
        blocks, length = [answer.body], len(answer.body)
        chunked = answer.headers.get("Transfer-Encoding") == "chunked"
        if answer.file is not None:
            try:
                begin, end = self.file_range(request, answer, fault)
            except Refused as refused:
                return self.send(request, Answer(refused.status, refused.headers, b""), fault, entry)
            length = end - begin
            blocks = pieces(answer.file.source, begin, end, fault)
        headers = {**answer.headers, **fault.get("set", {})}
        for name in fault.get("unset", ()):
            headers.pop(name, None)
        if not chunked and "no_length" not in fault and "Content-Length" not in fault.get("unset", ()):
            headers.setdefault("Content-Length", str(fault.get("length", length + len(fault.get("append", "")))))
        if "no_length" in fault:
            headers["Connection"] = "close"
        entry["status"] = answer.status
        head = f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'Unknown')}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
        self.request.sendall(head.encode("latin-1"))
        if request.method == "HEAD" or answer.status == 304:
            return "no_length" not in fault
        if chunked:
            blocks = [b"%x\r\n%s\r\n0\r\n\r\n" % (len(answer.body), answer.body)]
        plain = not any(k in fault for k in ("flip", "data_shift", "append", "rate", "truncate_at", "reset_at", "stall_at"))
        if answer.file is not None and plain:
            with open(answer.file.source, "rb") as file:
                entry["sent"] = self.request.sendfile(file, begin, length) if length else 0
            return "no_length" not in fault
        sent, again = send_body(self.request, blocks, fault)
        entry["sent"] = sent
        return again


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", action="append", default=[], metavar="ORG/NAME=DIR", help="a repository whose main is DIR")
    parser.add_argument("--scenario", type=Path, help="a file of commands, one JSON object a line")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cdn-port", type=int, default=0)
    parser.add_argument("--proxy-port", type=int, default=0)
    parser.add_argument("--cdn-host", default="localhost")
    parser.add_argument("--serve", action="store_true", help="stay until killed instead of until standard input ends")
    arguments = parser.parse_args()
    mock = Mock(arguments.port, arguments.cdn_port, arguments.proxy_port, arguments.cdn_host)
    for repo in arguments.repo:
        id, _, directory = repo.partition("=")
        mock.command({"op": "commit", "repo": id, "dir": directory, "branch": "main"})
    if arguments.scenario:
        for line in arguments.scenario.read_text().splitlines():
            if line.strip():
                mock.command(json.loads(line))
    print(json.dumps(mock.addresses()), flush=True)
    if arguments.serve:
        while True:
            time.sleep(3600)
    for line in sys.stdin:
        try:
            answer = mock.command(json.loads(line))
        except Exception as e:  # the test sees what was wrong with its command
            answer = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
