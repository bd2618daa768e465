# `bumblebee serve` as its users meet it: the page's commands, signals, keys, departures, a full queue, and what a newcomer reads when
# something is missing. Usage: program_test.py PROGRAM. BB_SIGTERMS, BB_ORDERS and BB_DEPARTURES make its long forms.
import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))
import pages  # noqa: E402
from server import ROOT, TINY, Server, chat, environment, events, request_bytes, said, write_adapter  # noqa: E402

PROGRAM = sys.argv.pop(1)


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


class Page(unittest.TestCase):
    def test_every_command_of_the_page_works(self):
        with tempfile.TemporaryDirectory() as folder:
            root, admin = Path(folder) / "adapters", Path(folder) / "admin"
            write_adapter(root / "poet", 1)
            admin.write_text("admin-key\n")
            with Server(PROGRAM, "--adapter-root", str(root), "--admin-key-file", str(admin)) as server:
                count = 0
                for page in (ROOT / "docs/serving.md", ROOT / "README.md"):
                    for block in pages.blocks(page.read_text()):
                        if block.language != "sh" or "curl" not in block.words:
                            continue
                        script = block.text.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}").replace("curl ", "curl -sS --fail-with-body ")
                        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True,
                                              env={**environment(), "ADMIN_KEY": "admin-key"})
                        with self.subTest(page=page.name, line=block.line):
                            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                            self.assertTrue(done.stdout)
                            self.assertNotIn('"error"', done.stdout)
                        count += 1
                self.assertGreaterEqual(count, 8)


class Http(unittest.TestCase):
    def test_over_the_network_it_is_the_same_server(self):
        with Server(PROGRAM) as server:
            self.assertEqual(server.get("/health")[0], 200)
            status, headers, text = server.ask("HEAD", "/health")
            self.assertEqual((status, text), (200, ""))
            self.assertEqual(server.ask("OPTIONS", "/v1/models")[1]["allow"], "GET, HEAD, OPTIONS")
            self.assertEqual(server.get("/v1/chat/completions")[0], 405)
            self.assertEqual(server.get("/v1/%63hat")[0], 404)
            self.assertEqual(server.get("/health", headers={"host": "evil.example"})[0], 403)
            self.assertEqual(server.post("/v1/chat/completions", "{}", headers={"content-type": "text/plain"})[0], 415)
            self.assertEqual(server.post("/v1/chat/completions", '{"messages": [')[0], 400)
            with contextlib.suppress(ConnectionError):  # too long to be read before it is refused
                self.assertEqual(server.post("/v1/chat/completions", b" " * ((8 << 20) + 1))[0], 413)
            body = chat("Tell me of the sea", 24, temperature=1, seed=5)
            status, headers, whole = server.post("/v1/chat/completions", body)
            self.assertEqual(status, 200, whole)
            self.assertEqual(headers["x-bumblebee-seed"], "5")
            status, headers, stream = server.post("/v1/chat/completions", {**body, "stream": True})
            self.assertEqual(headers["content-type"], "text/event-stream; charset=utf-8")
            self.assertEqual(said(stream), json.loads(whole)["choices"][0]["message"]["content"])
            self.assertTrue(events(stream)[1])

    def test_a_thousandth_request_is_answered_as_the_first(self):
        with Server(PROGRAM) as server:
            first = None
            for _ in range(50):
                text = server.post("/v1/completions", {"prompt": "One", "max_tokens": 4, "temperature": 0})[2]
                kept = re.sub(r'"(id|created)":("[^"]*"|\d+),?|"cached_tokens":\d+', "", text)
                first = first or kept
                self.assertEqual(kept, first)

    def test_warm_is_cold_for_every_set_of_adapters(self):
        with tempfile.TemporaryDirectory() as folder:
            flags = []
            for seed, name in enumerate("ab"):
                write_adapter(Path(folder) / name, seed)
                flags += ["--adapter", f"{name}={folder}/{name}"]
            with Server(PROGRAM, *flags) as server:
                def ask(lora, end, **more):
                    body = chat("x" * 300 + end, 8, lora=lora, logprobs=True, **more)
                    status, _, text = server.post("/v1/chat/completions", body)
                    self.assertEqual(status, 200, text)
                    return json.loads(text)

                sets = [[], [{"name": "a"}], [{"name": "b"}], [{"name": "b"}, {"name": "a"}], [{"name": "a", "scale": 0.5}]]
                cases = [(lora, end) for lora in sets for end in ("one", "two")]
                cold = [ask(*case, cache_prompt=False)["choices"] for case in cases]
                self.assertEqual(len({json.dumps(one) for one in cold[::2]}), len(sets), "sets that change nothing test nothing")
                draw, cached = random.Random(6), 0
                for _ in range(int(os.environ.get("BB_ORDERS", "60"))):
                    which = draw.randrange(len(cases))
                    warm = ask(*cases[which])
                    self.assertEqual(warm["choices"], cold[which])
                    cached += warm["usage"]["prompt_tokens_details"]["cached_tokens"]
                self.assertGreater(cached, 0)

    def test_departures_leave_no_page(self):
        draw = random.Random(4)
        with Server(PROGRAM, "--parallel", "4", "--max-waiting", "16") as server:
            descriptors = len(os.listdir(f"/proc/{server.process.pid}/fd"))
            for number in range(int(os.environ.get("BB_DEPARTURES", "200"))):
                data = request_bytes("/v1/chat/completions", chat(f"Number {number % 7}", 1500, ignore_eos=True, stream=bool(number % 2)))
                cut = draw.choice([draw.randrange(1, len(data)), len(data), len(data)])
                with contextlib.closing(server.raw(data[:cut])) as made:
                    time.sleep(draw.random() * 0.02)
                    if draw.random() < 0.3:  # reset instead of closed
                        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.assertTrue(wait_until(server.idle), server.metrics())
            self.assertTrue(wait_until(lambda: len(os.listdir(f"/proc/{server.process.pid}/fd")) <= descriptors + 2))
            self.assertEqual(server.post("/v1/chat/completions", chat())[0], 200)

    def test_a_full_queue_says_so_at_once(self):
        with Server(PROGRAM, "--parallel", "2", "--max-waiting", "4") as server:
            held = [server.raw(request_bytes("/v1/chat/completions", chat(tokens=4000, ignore_eos=True, stream=True))) for _ in range(6)]
            for one in held:
                self.assertIn(b"200 OK", one.recv(4096))
            times = []
            for _ in range(100):
                start = time.monotonic()
                status, headers, _ = server.post("/v1/chat/completions", chat())
                times.append(time.monotonic() - start)
                self.assertEqual(status, 429)
                self.assertTrue(1 <= int(headers["retry-after"]) <= 60)
            print(f"429 at a full queue: median {sorted(times)[50] * 1e3:.1f} ms, 99th of 100 {sorted(times)[98] * 1e3:.1f} ms", flush=True)
            for one in held:
                one.close()
            self.assertTrue(wait_until(server.idle), server.metrics())

    def test_keys_are_read_again(self):
        with tempfile.TemporaryDirectory() as folder:
            keys = Path(folder) / "keys"
            keys.write_text("old-key\n")
            with Server(PROGRAM, "--api-key-file", str(keys)) as server:
                status = lambda key: server.get("/version", headers={"authorization": f"Bearer {key}"})[0]  # noqa: E731
                self.assertEqual((status("old-key"), status("new-key")), (200, 401))
                self.assertEqual(server.get("/version?api_key=old-key")[0], 401)
                keys.write_text("new-key\n")
                server.process.send_signal(signal.SIGHUP)
                self.assertTrue(wait_until(lambda: status("new-key") == 200))
                self.assertEqual(status("old-key"), 401)
                keys.unlink()
                server.process.send_signal(signal.SIGHUP)
                self.assertTrue(wait_until(lambda: any("stay as they are" in line for line in server.noise)))
                self.assertEqual(status("new-key"), 200)


class Ending(unittest.TestCase):
    def test_sigterm_under_load(self):
        for turn in range(int(os.environ.get("BB_SIGTERMS", "5"))):
            with Server(PROGRAM, "--grace", "0.3", "--parallel", "4") as server:
                streams = [server.raw(request_bytes("/v1/chat/completions", chat(tokens=(20 if i % 2 else 4000), ignore_eos=True, stream=True)))
                           for i in range(8)]
                texts = [b""] * len(streams)

                def read(index, texts=texts, streams=streams):
                    while piece := streams[index].recv(1 << 16):
                        texts[index] += piece

                readers = [threading.Thread(target=read, args=(i,)) for i in range(len(streams))]
                for one in readers:
                    one.start()
                self.assertTrue(wait_until(lambda texts=texts: all(b"assistant" in text for text in texts)))
                start = time.monotonic()
                self.assertEqual(server.stop(), 0)
                self.assertLess(time.monotonic() - start, 0.3 + 1)
                for one in readers:
                    one.join()
                for text in texts:
                    self.assertTrue(b"data: [DONE]" in text or b'"error"' in text, (turn, text[-300:]))
                for one in streams:
                    one.close()

    def test_others_are_turned_away_and_a_second_signal_is_at_once(self):
        def health(server):
            with server.raw(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n") as late:
                text = b""
                while piece := late.recv(4096):
                    text += piece
                    if b"connection: close" not in text:
                        break
                return text

        def read(stream):
            while stream.recv(1 << 16):
                pass

        with Server(PROGRAM, "--grace", "60", "--parallel", "1") as server:
            body = request_bytes("/v1/chat/completions", chat(tokens=4000, ignore_eos=True, stream=True))
            held, begun = server.raw(body), b""
            while b'"content"' not in begun:  # it runs: one at a time does, and those behind it are silent until their turn
                begun += held.recv(4096)
            # Enough of them that they do not end by themselves, and read, or they would be let go.
            streams = [server.raw(body) for _ in range(40)]
            readers = [threading.Thread(target=read, args=(one,)) for one in streams]
            for one in readers:
                one.start()
            watch = server.raw(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            self.assertIn(b"200 OK", watch.recv(4096))
            server.process.send_signal(signal.SIGTERM)
            self.assertTrue(wait_until(lambda: b" 503 " in health(server)))
            told = health(server)
            self.assertIn(b"connection: close", told)
            self.assertIn(b"draining", told)
            self.assertEqual(watch.recv(4096), b"", "an idle connection ends")
            self.assertTrue(held.recv(1 << 16), "a stream goes on")
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(server.process.wait(10), 128 + signal.SIGTERM)
            for one in readers:
                one.join()
            for one in [*streams, held, watch]:
                one.close()

    def test_a_download_does_not_hold_up_the_end(self):
        with socket.create_server(("127.0.0.1", 0)) as silent, tempfile.TemporaryDirectory() as folder:
            silent.settimeout(30)
            hub = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HUB_OFFLINE": "0", "HOME": folder}
            with Server(PROGRAM, "--allow-hub", "--grace", "0.2", env=hub) as server:
                load = server.raw(request_bytes("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "hf://org/name"}))
                asked, _ = silent.accept()
                start = time.monotonic()
                self.assertEqual(server.stop(), 0)
                self.assertLess(time.monotonic() - start, 0.2 + 1)
                self.assertIn(b"503", load.recv(4096))
                asked.close()
                load.close()

    def test_a_log_that_nobody_reads_holds_up_nothing(self):
        with Server(PROGRAM, "--log-jsonl", "-", "--grace", "0.2") as server:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as client:
                for _ in range(1000):  # a pipe holds 64 KB
                    client.request("GET", "/health")
                    self.assertEqual(client.getresponse().read(), b'{"status":"ok"}')
            self.assertEqual(server.post("/v1/chat/completions", chat())[0], 200)
            start = time.monotonic()
            self.assertEqual(server.stop(), 0)
            self.assertLess(time.monotonic() - start, 0.2 + 1)

    def test_lines_that_a_full_disk_does_not_take_are_counted(self):
        with Server(PROGRAM, "--log-jsonl", "/dev/full") as server:
            for _ in range(3):
                self.assertEqual(server.post("/v1/chat/completions", chat())[0], 200)
            self.assertTrue(wait_until(lambda: re.search(r"^bumblebee_log_lines_dropped_total [3-9]", server.get("/metrics")[2], re.M)))

    def test_a_killed_server_leaves_nothing_in_the_way(self):
        for _ in range(3):
            with Server(PROGRAM) as server:
                server.process.kill()
                server.process.wait()

    def test_a_reader_of_its_output_that_goes_does_not_end_it(self):
        with Server(PROGRAM) as server:
            server.process.stdout.close()
            self.assertEqual(server.post("/v1/chat/completions", chat())[0], 200)


class Newcomers(unittest.TestCase):
    def refused(self, status, part, *flags, model=TINY):
        done = subprocess.run([PROGRAM, "serve", "-m", str(model), *flags], capture_output=True, text=True, timeout=60, env=environment())
        self.assertEqual(done.returncode, status, done.stderr)
        lines = [line for line in done.stderr.splitlines() if "error:" in line]
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertIn(part, lines[0])

    def test_one_line_says_what_to_do(self):
        with Server(PROGRAM) as server:
            self.refused(11, str(server.port), "--port", str(server.port))
        self.refused(3, "/nowhere/keys", "--port", "0", "--api-key-file", "/nowhere/keys")
        self.refused(3, "/nowhere/adapter", "--port", "0", "--adapter", "x=/nowhere/adapter")
        self.refused(2, "NAME=ADAPTER", "--port", "0", "--adapter", "/nowhere/adapter")
        self.refused(8, "does not fit", "--port", "0", "--adapter", f"x={ROOT}/tests/data/goldens/adapters/mlx_lora")
        self.refused(6, "--kv-memory", "--port", "0", "--kv-memory", "100K", "-c", "4096")
        self.refused(8, "--api-key-file", "--port", "0", "--host", "0.0.0.0")
        self.refused(3, "/nowhere/cert", "--port", "0", "--tls-cert", "/nowhere/cert", "--tls-key", "/nowhere/key")
        self.refused(8, "--tls-key", "--port", "0", "--tls-cert", "/nowhere/cert")
        self.refused(3, "/nowhere", "--port", "0", "--adapter-root", "/nowhere")
        self.refused(8, "--host", "--port", "0", "--host", "not an address")
        self.refused(3, "/nowhere/model", "--port", "0", model="/nowhere/model")


if __name__ == "__main__":
    unittest.main()
