# Proves bench/serve_load.py against a server of the test's own: counts, waiting times, every class of error, leaving and stalling at
# every moment, both loops. The server does what the prompt's model name says, so that each failure is one that was made.
import asyncio
import json
import sys
import unittest
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
sys.dont_write_bytecode = True
import serve_load  # noqa: E402
from serving import client  # noqa: E402


class FakeServer:
    """Answers with one piece a token; `seen` says how far each request came: head, body, answer."""

    def __init__(self):
        self.seen, self.open, self.most, self.bodies = Counter(), 0, 0, []

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def serve(self, reader, writer):
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            while await self.request(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def request(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        self.seen["head"] += 1
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        body = json.loads(await reader.readexactly(length))
        self.seen["body"] += 1
        self.bodies.append(body)
        what = body.get("model", "good")
        if what == "full":
            text = b'{"error": {"message": "the queue is full", "code": "queue_full"}}'
            writer.write(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
            return True
        if what == "silent":
            await asyncio.sleep(30)
        if what == "garbage":
            writer.write(b"this is not HTTP\r\n\r\n")
            return False
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
        if not body["stream"]:
            text = json.dumps({"choices": [{"text": "ab" * body["max_tokens"], "finish_reason": "length"}], "usage": usage}).encode()
            await asyncio.sleep(0.1)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
            await writer.drain()
            self.seen["answer"] += 1
            return True
        return await self.stream(writer, what, body["max_tokens"], usage)

    async def stream(self, writer, what, tokens, usage):
        async def chunk(data):
            writer.write(b"%x\r\n" % len(data) + data + b"\r\n")
            await writer.drain()

        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        if what == "queued":
            for _ in range(3):
                await asyncio.sleep(0.1)
                await chunk(b": keep-alive\n\n")
        for i in range(tokens):
            if what == "cut" and i == 2:
                return False
            if what == "broken" and i == 2:
                await chunk(b'data: {"error": {"message": "no memory", "code": "out_of_memory"}}\n\n')
                await chunk(b"")
                return True
            event = b"data: " + json.dumps({"choices": [{"text": "ab", "finish_reason": None}]}).encode() + b"\n\n"
            await chunk(event[:9])  # events are cut anywhere
            await chunk(event[9:])
            await asyncio.sleep(0.005)
        await chunk(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        if what != "undone":
            await chunk(b"data: [DONE]\n\n")
        await chunk(b"")
        self.seen["answer"] += 1
        return True


def run(*arguments, **changes):
    """The report of a run against a fresh server, and the server."""
    async def inside():
        server = FakeServer()
        options = serve_load.flags(["--url", await server.start(), "--prompt-tokens", "8", "--max-tokens", "4", *arguments])
        for name, value in changes.items():
            setattr(options, name, value)
        out = await serve_load.measure(options)
        server.server.close()
        await asyncio.sleep(0.05)  # for what the last clients closed to be noticed
        return out, server
    return asyncio.run(inside())


class ServeLoadTest(unittest.TestCase):
    def test_a_closed_loop_counts_what_the_server_says(self):
        out, server = run("--requests", "20", "--connections", "4")
        self.assertEqual({"done": 20}, out["outcomes"])
        self.assertEqual((160, 80, 0, 0), (out["prompt_tokens"], out["completion_tokens"], out["lost"], out["stuck"]))
        self.assertEqual((20, 60), (out["first_token_ms"]["count"], out["between_tokens_ms"]["count"]))
        self.assertGreater(out["between_tokens_ms"]["p50"], 4)
        self.assertLessEqual(server.most, 4)
        self.assertEqual(20, len({body["prompt"] for body in server.bodies}))

    def test_the_same_seed_asks_the_same(self):
        _, a = run("--requests", "6", "--connections", "1", "--prompt-tokens", "2-30", "--plain", "0.5", "--models", "good,full")
        _, b = run("--requests", "6", "--connections", "1", "--prompt-tokens", "2-30", "--plain", "0.5", "--models", "good,full")
        _, c = run("--requests", "6", "--connections", "1", "--prompt-tokens", "2-30", "--plain", "0.5", "--seed", "2")
        self.assertEqual(a.bodies, b.bodies)
        self.assertNotEqual(a.bodies, c.bodies)

    def test_an_open_loop_does_not_wait_for_answers(self):
        out, server = run("--rate", "100", "--requests", "30", "--models", "queued")
        self.assertEqual({"done": 30}, out["outcomes"])
        self.assertGreater(server.most, 10)

    def test_streams_in_the_queue_hear_comments(self):
        out, _ = run("--requests", "3", "--models", "queued", "--keep-alive", "0.1")
        self.assertEqual((9, 3, 0), tuple(out["keep_alives"][name] for name in ("heard", "streams_that_waited", "of_these_heard_none")))
        self.assertGreater(out["first_token_ms"]["p50"], 290)
        self.assertGreater(out["keep_alives"]["longest_silence_ms"], 90)

    def test_each_failure_has_its_class(self):
        for model, kind, lost in (("full", "http_429", 0), ("cut", "lost", 2), ("undone", "lost", 2), ("garbage", "bad_http", 2),
                                  ("broken", "stream_error:out_of_memory", 0)):
            with self.subTest(model=model):
                out, _ = run("--requests", "2", "--models", model)
                self.assertEqual(({kind: 2}, lost, 0), (out["outcomes"], out["lost"], out["stuck"]))
        self.assertEqual("no memory", out["examples"]["stream_error:out_of_memory"])

    def test_silence_is_a_stuck_stream(self):
        out, _ = run("--requests", "2", "--models", "silent", "--stuck", "0.5")
        self.assertEqual(({"stuck": 2}, 2), (out["outcomes"], out["stuck"]))

    def test_nobody_there_is_refused(self):
        out = asyncio.run(serve_load.measure(serve_load.flags(["--url", "http://127.0.0.1:1", "--requests", "2"])))
        self.assertEqual({"refused": 2}, out["outcomes"])

    def test_clients_leave_at_every_moment(self):
        for moment, head, body in (("header", 0, 0), ("body", 4, 0), ("queued", 4, 4), ("prefill", 4, 4), ("token", 4, 4), ("end", 4, 4)):
            for plain in (0, 1):
                with self.subTest(moment=moment, plain=plain):
                    out, server = run("--requests", "4", "--fault", f"leave@{moment}", "--plain", str(plain))
                    self.assertEqual(({"left": 4}, 0), (out["outcomes"], out["lost"]))
                    self.assertEqual((head, body), (server.seen["head"], server.seen["body"]))
                    self.assertEqual({"prefill" if moment == "token" and plain else moment: 4}, out["left"])

    def test_clients_that_stall_go_on(self):
        faults = ",".join(f"stall@{moment}=0.166" for moment in client.MOMENTS)
        out, _ = run("--requests", "40", "--connections", "40", "--fault", faults, "--stall", "4", "--stuck", "3")
        self.assertEqual({"done": 40}, out["outcomes"])  # not stuck: it is the client that is silent
        self.assertGreater(out["seconds"], 3.9)

    def test_shares_of_faults_are_kept(self):
        out, _ = run("--requests", "200", "--connections", "20", "--fault", "leave@token=0.25,leave@header=0.25")
        self.assertEqual(200, out["outcomes"]["left"] + out["outcomes"]["done"])
        self.assertLess(abs(out["outcomes"]["left"] - 100), 40)
        self.assertEqual({"token", "header"}, set(out["left"]))

    def test_a_process_is_watched(self):
        import os
        out, _ = run("--requests", "2", pid=os.getpid(), settle=0.6)
        for name in ("rss_kb", "fds", "threads"):
            self.assertGreaterEqual(out["process"][name]["max"], out["process"][name]["end"])
            self.assertGreater(out["process"][name]["start"], 0)

    def test_what_is_no_fault_is_refused(self):
        with self.assertRaises(serve_load.argparse.ArgumentTypeError):
            serve_load.shares("sleep@token=1")
        with self.assertRaises(serve_load.argparse.ArgumentTypeError):
            serve_load.shares("leave@never=1")


if __name__ == "__main__":
    unittest.main()
