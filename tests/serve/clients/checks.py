"""What the scripts of this folder share: where the server is, one printed line a check, a server that is kept busy. Standard library only.

A script is called with URL BUSY_URL KEY MODEL: the server, another one with a single place and a queue of one, their key, the model's name.
"""
import http.client
import json
import sys
import threading
import time
import traceback
from urllib.parse import urlsplit

URL, BUSY_URL, KEY, MODEL = sys.argv[1:5]
failed = []

# A small model calls a tool when it has seen little else.
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CALLING = [part for _ in range(4) for part in (("user", "What is the weather in Paris?"), ("assistant", CALL))][:-1]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def check(name):
    """Runs the function below it at once, and prints one line."""
    def run(function):
        try:
            function()
            print(f"ok {name}", flush=True)
        except Exception as error:  # whatever a client raises is the finding
            where = traceback.extract_tb(error.__traceback__)[-1]
            failed.append(name)
            print(f"FAIL {name}: {type(error).__name__} at {where.filename.rsplit('/', 1)[-1]}:{where.lineno}: {str(error)[:400]}", flush=True)
        return function
    return run


def equal(wanted, got):
    if wanted != got:
        raise AssertionError(f"expected {wanted!r}, got {got!r}")


def holds(value, what):
    if not value:
        raise AssertionError(what)


def raises(kind, function):
    """The error of that kind that the call raises."""
    try:
        got = function()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, got an answer: {str(got)[:200]}")


def finish():
    sys.exit(1 if failed else 0)


def connection(url):
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=600)


def metric(name, url=URL):
    """The value of one that has no labels."""
    one = connection(url)
    one.request("GET", "/metrics", headers={"Authorization": f"Bearer {KEY}"})
    text = one.getresponse().read().decode()
    one.close()
    for line in text.splitlines():
        if line.startswith(f"bumblebee_{name} "):
            return float(line.split()[1])
    raise AssertionError(f"/metrics: expected bumblebee_{name}, got none")


def wait_for(what, condition, seconds=300):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"waited {seconds} s in vain: {what}")
        time.sleep(0.05)


def idle(url=URL):
    wait_for("no request runs or waits", lambda: metric("num_requests_running", url) + metric("num_requests_waiting", url) == 0)


class Busy:
    """The other server with an answer in its one place and another in its queue, until free()."""

    def __enter__(self):
        idle(BUSY_URL)
        self.streams = []
        for name in ("num_requests_running", "num_requests_waiting"):
            one = connection(BUSY_URL)
            body = {"model": MODEL, "prompt": "1", "max_tokens": 7000, "ignore_eos": True, "stream": True}
            one.request("POST", "/v1/completions", json.dumps(body), {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"})
            self.streams.append(one)
            wait_for(f"{name} is 1", lambda name=name: metric(name, BUSY_URL) == 1)
        return self

    def free(self):
        for one in self.streams:
            one.close()
        self.streams = []

    def free_soon(self):
        threading.Timer(0.5, self.free).start()

    def __exit__(self, *_):
        self.free()
