"""A client of OpenAI's API that can stall or leave at named moments: one request at a time over HTTP/1.1, what became of it as an
Outcome. Standard library only; bench/serve_load.py makes load of it, tests/serve/load drives servers with it.
"""
import asyncio
import json
import socket
import ssl
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

MOMENTS = ("header", "body", "queued", "prefill", "token", "end")


class Ended(Exception):
    """A request is over before its end; the first argument is the class it is counted under."""


@dataclass
class Fault:
    """What a client does in mid-request: "leave" or "stall" at one of MOMENTS, "token" after `token` pieces of the answer."""
    action: str
    moment: str
    token: int = 1
    seconds: float = 0.0  # of a stall, and of the wait in "prefill"
    reset: bool = False   # leaves with a reset instead of an orderly close


@dataclass
class Outcome:
    kind: str = "lost"  # "done", "left", or a class of error
    status: int = 0
    detail: str = ""
    headers: dict = field(default_factory=dict)
    begun: float = 0.0    # the request is written from here on
    first: float = 0.0    # first piece of a stream; 0: none
    last: float = 0.0     # and its latest
    ended: float = 0.0
    gaps: list = field(default_factory=list)  # seconds between pieces of the answer
    pieces: int = 0
    streams: bool = False
    keep_alives: int = 0
    silence: float = 0.0  # the longest time without a byte
    text: str = ""
    finish: str = ""
    usage: dict = field(default_factory=dict)
    body: bytes = b""     # of an answer that is no stream

    def waited(self):
        """Seconds until the answer began, or until it was over without one."""
        return (self.first or self.ended) - self.begun


class Target:
    """A server's address, and the connections to it that are open."""

    def __init__(self, url, key="", stuck=120.0):
        parts = urlsplit(url)
        self.host, self.port, self.prefix = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80), parts.path.rstrip("/")
        self.tls = None
        if parts.scheme == "https":  # a certificate of one's own is what a test has
            self.tls = ssl.create_default_context()
            self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE
        self.key, self.stuck, self.idle, self.busy, self.watcher = key, stuck, [], set(), None

    async def watch(self):
        """Aborts connections that have heard nothing for `stuck` seconds. One timer for all: a thousand would cost more than the load."""
        while True:
            await asyncio.sleep(min(1.0, self.stuck / 4))
            now = time.monotonic()
            for one in [one for one in self.busy if now - one.heard > self.stuck and not one.stalled]:
                one.stuck = True
                one.writer.transport.abort()

    async def take(self, small_window):
        if self.watcher is None:
            self.watcher = asyncio.create_task(self.watch())
        if self.idle and not small_window:
            one = self.idle.pop()
        else:
            one = Connection(self)
            await one.open(small_window)
        one.heard = time.monotonic()
        self.busy.add(one)
        return one

    def close(self):
        for one in self.idle:
            one.writer.close()
        self.idle.clear()
        if self.watcher:
            self.watcher.cancel()
            self.watcher = None


class Connection:
    """HTTP/1.1, one request at a time."""

    def __init__(self, target):
        self.target, self.heard, self.silence, self.stuck, self.stalled, self.used = target, 0.0, 0.0, False, False, False

    async def open(self, small_window):
        sock = None
        if small_window:  # else the system's buffers take a whole answer, and nobody notices that it is not read
            sock = socket.socket(socket.AF_INET6 if ":" in self.target.host else socket.AF_INET)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, (self.target.host, self.target.port))
        where = {"sock": sock} if sock else {"host": self.target.host, "port": self.target.port}
        if sock and self.target.tls:
            where["server_hostname"] = self.target.host
        self.reader, self.writer = await asyncio.open_connection(**where, ssl=self.target.tls, limit=4096 if sock else 1 << 20)

    def listen(self, data):
        now = time.monotonic()
        self.silence, self.heard = max(self.silence, now - self.heard), now
        return data

    async def line(self):
        data = self.listen(await self.reader.readline())
        if not data.endswith(b"\n"):
            raise Ended("lost", "the connection closed in mid-answer")
        return data.rstrip(b"\r\n")

    async def exactly(self, count):
        return self.listen(await self.reader.readexactly(count))

    async def head(self):
        first = (await self.line()).split(b" ", 2)
        if len(first) < 2 or not first[0].startswith(b"HTTP/1.") or not first[1].isdigit():
            raise Ended("bad_http", repr(b" ".join(first)[:80]))
        headers = {}
        while line := await self.line():
            name, colon, value = line.partition(b":")
            if not colon:
                raise Ended("bad_http", repr(line[:80]))
            headers[name.strip().lower().decode("latin-1")] = value.strip().decode("latin-1")
        return int(first[1]), headers

    async def body(self, status, headers):
        """Pieces of the body, as they come."""
        if "chunked" in headers.get("transfer-encoding", ""):
            while True:
                size = (await self.line()).split(b";")[0]
                try:
                    count = int(size, 16)
                except ValueError as error:
                    raise Ended("bad_http", f"size of a chunk: {size[:40]!r}") from error
                if count == 0:
                    while await self.line():
                        pass
                    return
                yield await self.exactly(count)
                if await self.exactly(2) != b"\r\n":
                    raise Ended("bad_http", "no line end after a chunk")
        elif "content-length" in headers:
            yield await self.exactly(int(headers["content-length"]))
        elif status not in (204, 304):
            while data := self.listen(await self.reader.read(1 << 16)):
                yield data

    async def moment(self, name, fault):
        """The place in a request where a scripted client stalls or leaves."""
        if fault is None or fault.moment != name:
            return
        if name == "prefill" and fault.action == "leave":
            await asyncio.sleep(fault.seconds)
        if fault.action == "leave":
            raise Ended("left", name)
        self.stalled = True
        self.writer.transport.pause_reading()
        await asyncio.sleep(fault.seconds)
        self.writer.transport.resume_reading()
        self.stalled, self.heard = False, time.monotonic()

    async def send(self, method, path, body, key, fault):
        head = f"{method} {self.target.prefix}{path} HTTP/1.1\r\nHost: {self.target.host}:{self.target.port}\r\n"
        if key:
            head += f"Authorization: Bearer {key}\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        parts = [("header", (head + "\r\n").encode()), ("body", body or b"")]
        if fault is None:  # one packet
            parts = [("", parts[0][1] + parts[1][1])]
        for name, data in parts:
            middle = len(data) // 2 if fault and fault.moment == name else len(data)
            self.writer.write(data[:middle])
            if middle < len(data):
                await self.writer.drain()
                await self.moment(name, fault)
                self.writer.write(data[middle:])
        await self.writer.drain()
        await self.moment("queued", fault)


def read_event(data, outcome):
    """Takes an answer, or one `data:` of a stream, into the outcome; returns its text. Raises Ended for an error."""
    try:
        event = json.loads(data)
    except ValueError as error:
        raise Ended("bad_json", data[:80].decode(errors="replace")) from error
    if "error" in event:
        error = event["error"] if isinstance(event["error"], dict) else {"message": event["error"]}
        raise Ended(f"stream_error:{error.get('code') or error.get('type') or 'unnamed'}", str(error.get("message"))[:200])
    outcome.usage = event.get("usage") or outcome.usage
    text = ""
    for choice in event.get("choices", []):
        message = choice.get("delta") or choice.get("message") or {}
        text += choice.get("text") or message.get("content") or message.get("reasoning_content") or ""
        outcome.finish = choice.get("finish_reason") or outcome.finish
    outcome.text += text
    return text


def count_piece(outcome):
    now = time.monotonic()
    if outcome.pieces:
        outcome.gaps.append(now - outcome.last)
    else:
        outcome.first = now
    outcome.last, outcome.pieces = now, outcome.pieces + 1


async def read_stream(connection, status, headers, outcome, fault):
    rest, done = b"", False
    async for piece in connection.body(status, headers):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b":"):
                outcome.keep_alives += 1
            elif line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    done = True
                    await connection.moment("end", fault)
                elif read_event(data, outcome):
                    count_piece(outcome)
                    if fault and outcome.pieces == fault.token:
                        await connection.moment("token", fault)
    if not done:
        raise Ended("lost", "a stream ended without [DONE] and without an error")


async def exchange(connection, method, path, body, key, fault, outcome):
    connection.silence, connection.heard = 0.0, time.monotonic()
    outcome.begun = connection.heard
    await connection.send(method, path, body, key, fault)
    if not outcome.streams:  # the head of such an answer comes with its end
        await connection.moment("prefill", fault)
    outcome.status, outcome.headers = await connection.head()
    if "text/event-stream" in outcome.headers.get("content-type", ""):
        await connection.moment("prefill", fault)
        await read_stream(connection, outcome.status, outcome.headers, outcome, fault)
    else:
        outcome.body = b"".join([piece async for piece in connection.body(outcome.status, outcome.headers)])
        await connection.moment("end", fault)
        if outcome.status >= 400:
            raise Ended(f"http_{outcome.status}", outcome.body[:300].decode(errors="replace"))
        if outcome.body.startswith(b"{"):
            read_event(outcome.body, outcome)


async def ask(target, method, path, body=None, *, key=None, fault=None, outcome=None):
    """One request to its end; never raises for what the server or the script does. An `outcome` of the caller's can be watched."""
    outcome, connection, keep = outcome or Outcome(), None, False
    outcome.begun, outcome.streams = time.monotonic(), isinstance(body, dict) and bool(body.get("stream"))
    encoded = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    again = True
    while again:
        again = False
        try:
            connection = await target.take(fault is not None and fault.action == "stall")
            reused, connection.used = connection.used, True
            await exchange(connection, method, path, encoded, target.key if key is None else key, fault, outcome)
            outcome.kind, keep = "done", True
        except asyncio.CancelledError:
            if connection:
                target.busy.discard(connection)
                connection.writer.transport.abort()
            raise
        except Ended as end:
            outcome.kind, outcome.detail = end.args
            keep = outcome.kind.startswith("http_")
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            outcome.kind = "refused" if connection is None else "reset" if isinstance(error, ConnectionError) else "lost"
            outcome.detail = f"{type(error).__name__}: {error}"
        if connection:
            target.busy.discard(connection)
            if connection.stuck:
                outcome.kind, outcome.detail = "stuck", f"no byte for {target.stuck} s"
            outcome.silence = max(outcome.silence, connection.silence)
            if keep and fault is None and outcome.headers.get("connection", "").lower() != "close":
                target.idle.append(connection)
            elif fault and fault.reset:
                connection.writer.transport.abort()
            else:
                connection.writer.close()
            # A server may close a connection that rests just when it is used again: as every client, once more on another one.
            again = outcome.status == 0 and reused and outcome.kind in ("lost", "reset")
            connection = None
    outcome.ended = time.monotonic()
    return outcome
