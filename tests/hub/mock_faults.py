# Faults of the mock Hub: rules that a test sets for some of the requests, and how a body leaves under them. A rule is JSON:
#   which requests   where ("hub", "cdn", "proxy"), method, path (a glob of the decoded path), ranged (true: only with Range)
#   how often        skip: the first N that match are spared; times: then so many are hit; without it, all
#   before the body  delay (s), drop (true: closed without an answer; "reset": with a TCP reset), status with error_code, message, body
#                    and headers, redirect (a URL; {hub}, {cdn}, {path} and {target} are filled in), set and unset (headers), json (the
#                    answer, or its text; latin1: one byte a character), fill (an answer of so many spaces)
#   the file's range ignore_range, range_shift (206 from N bytes later, and says so), data_shift (the same, and hides it), content_range,
#                    no_length (body ends with the connection), length (a lying Content-Length)
#   the body         truncate_at, reset_at, stall_at (bytes of this body, then closed, reset or silent for stall_s), flip (offset in the
#                    file), append (text), rate (bytes/s)
#   afterwards       then: a list of commands, run when the rule strikes
import fnmatch
import select
import socket
import struct
import threading
import time


class Rules:
    def __init__(self):
        self.lock = threading.Lock()
        self.rules = []

    def add(self, rule):
        with self.lock:
            self.rules.append({**rule, "seen": 0, "struck": 0})

    def clear(self):
        with self.lock:
            self.rules = []

    def match(self, where, method, path, ranged):
        """The fault for a request: all rules that strike, merged, the last winning."""
        fault = {}
        with self.lock:
            for rule in self.rules:
                if rule.get("where", where) != where or rule.get("method", method) != method:
                    continue
                if not fnmatch.fnmatchcase(path, rule.get("path", "*")) or (rule.get("ranged") and not ranged):
                    continue
                rule["seen"] += 1
                if rule["seen"] <= rule.get("skip", 0) or rule["struck"] >= rule.get("times", 1 << 60):
                    continue
                rule["struck"] += 1
                fault |= {k: v for k, v in rule.items() if k not in ("seen", "struck", "skip", "times", "where", "method", "path")}
        return fault


def reset(connection):
    """Ends a connection with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def nap(connection, seconds):
    """Waits, or until the client has gone."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        ready, _, _ = select.select([connection], [], [], left)
        if ready and not connection.recv(1, socket.MSG_PEEK):
            return


def pieces(source, begin, end, fault):
    """The bytes [begin, end) of the file `source`, as the fault has them."""
    shift, flip = fault.get("data_shift", 0), fault.get("flip")
    step = 1 << 16 if "rate" not in fault else max(256, min(1 << 16, int(fault["rate"]) // 100))
    with open(source, "rb") as file:
        file.seek(begin + shift)
        at = begin
        while at < end:
            block = file.read(min(step, end - at)).ljust(min(step, end - at), b"\0")
            if flip is not None and at <= flip < at + len(block):
                changed = bytearray(block)
                changed[flip - at] ^= 0x20
                block = bytes(changed)
            yield block
            at += len(block)
    if "append" in fault:
        yield fault["append"].encode()


def send_body(connection, blocks, fault):
    """Sends the blocks; returns (bytes sent, whether the connection may serve another request)."""
    sent, start = 0, time.monotonic()
    limits = [fault[k] for k in ("truncate_at", "reset_at", "stall_at") if k in fault]
    limit = min(limits) if limits else None
    for block in blocks:
        if limit is not None:
            block = block[:limit - sent]
        if block:
            connection.sendall(block)
            sent += len(block)
        if limit is not None and sent >= limit:
            break
        if "rate" in fault:
            ahead = sent / fault["rate"] - (time.monotonic() - start)
            if ahead > 0:
                time.sleep(ahead)
    if limit is None or sent < limit:
        return sent, "append" not in fault and "no_length" not in fault
    if "stall_at" in fault:
        nap(connection, fault.get("stall_s", 600))
    if "reset_at" in fault:
        reset(connection)
    return sent, False
