# Proves the parts of bench/compare_servers.py that need no peer: names of tests, what a slow server is given, a measurement from the start of
# a server to its figure, what is told of one that fails; and that a random checkpoint's tokenizer takes a digit as a token.
import json
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
sys.path.insert(0, str(ROOT / "tools"))
sys.dont_write_bytecode = True
import make_random_checkpoint  # noqa: E402
from peers import cache, comparison, machine, report, servers  # noqa: E402

SERVER = """
import asyncio, json, sys
short = len(sys.argv) > 2

async def serve(reader, writer):
    while head := (await reader.readuntil(b"\\r\\n\\r\\n")).decode():
        text = b"{}"
        if head.startswith("POST"):
            length = int(head.lower().split("content-length:")[1].split()[0])
            body = json.loads(await reader.readexactly(length))
            tokens = body["max_tokens"] - short
            events = [{"choices": [{"text": "x"}]}] * tokens + [{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": tokens}}]
            text = b"".join(b"data: " + json.dumps(one).encode() + b"\\n\\n" for one in events) + b"data: [DONE]\\n\\n"
            assert body["ignore_eos"]
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(text) + text)

async def main():
    await (await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))).serve_forever()

asyncio.run(main())
"""


class Fake(servers.Server):
    fields = {"ignore_eos": True}

    def __init__(self, directory, peer, *flags):
        super().__init__(peer)
        self.script, self.flags = Path(directory) / "server.py", flags

    def arguments(self, shape, case, threads, port):
        return [sys.executable, str(self.script), str(port), *self.flags]

    def version(self):
        return {"version": "9"}


class Slow(Fake):
    most = servers.ServeCase(2, 8, 2)


class CompareServersTest(unittest.TestCase):
    def test_a_name_gives_the_case(self):
        self.assertEqual(servers.ServeCase(16, 128, 64), servers.parse("16x128+64"))
        self.assertEqual("16 streams of 128+64", servers.parse("16x128+64").name)
        for text in ("", "16", "16x128", "0x1+1", "16x128+0", "16x128+64 "):
            with self.subTest(text=text), self.assertRaisesRegex(ValueError, "expected STREAMSxPROMPT"):
                servers.parse(text)

    def test_servers_take_turns(self):
        with tempfile.TemporaryDirectory() as directory:
            (Path(directory) / "server.py").write_text(SERVER)
            store = cache.Cache(Path(directory) / "cache", lambda text: None)
            taking_part = [Fake(directory, "bumblebee"), Slow(directory, "slow"), Fake(directory, "short", "short")]
            run = comparison.Comparison(taking_part, store, lambda text: None, 2, 60, lambda threads: None)
            run.run(["1.7b"], [servers.parse("3x16+4")], [1])
            self.assertEqual([("bumblebee", 1), ("slow", 1), ("bumblebee", 2), ("slow", 2)], [(one["peer"], one["round"]) for one in run.records])
            self.assertEqual("2 streams of 8+2", run.records[1]["test"])
            [note] = run.notes
            self.assertIn("expected 3 whole answers of 4 tokens, got {'done': 3} with 9 tokens", note)
            result = run.result(machine.describe("") | {"date": "now", "system": "x", "load_at_start": 0}, "compare")
            self.assertEqual(1, len(result["comparison"]))
            self.assertIn("3 streams of 16+4", report.markdown(result))

    def test_a_server_that_ends_says_why(self):
        with tempfile.TemporaryDirectory() as directory:
            (Path(directory) / "server.py").write_text("raise SystemExit('no such model')")
            one = Fake(directory, "gone")
            one.prepare(cache.Cache(Path(directory) / "cache", lambda text: None), "1.7b")
            with self.assertRaisesRegex(servers.Failed, "status 1: no such model"):
                one.measure("1.7b", servers.ServeCase(1, 1, 1), 1, 60)

    def test_the_tokenizer_of_a_random_checkpoint(self):
        vocab = make_random_checkpoint.VOCAB["qwen3"]
        tokens, merges = make_random_checkpoint.vocabulary(vocab)
        self.assertEqual(vocab, len(tokens))
        self.assertEqual(len(tokens), len(set(tokens)))
        self.assertEqual(256 * 256, len(merges))
        with tempfile.TemporaryDirectory() as directory:
            make_random_checkpoint.write_tokenizer(Path(directory), vocab)
            written = json.loads((Path(directory) / "tokenizer.json").read_text())
        self.assertEqual(written["model"]["vocab"]["7"], tokens.index("7"))
        self.assertIn(r"\p{N}|", written["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"])


if __name__ == "__main__":
    unittest.main()
