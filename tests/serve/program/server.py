# Starts `bumblebee serve` for a test and asks it; no library beyond Python's own.
import http.client
import json
import os
import random
import signal
import socket
import struct
import subprocess
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TINY = ROOT / "tests/data/apps/tiny"
JSON = {"content-type": "application/json"}


def environment():
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "HF_HUB_OFFLINE": "1", "LC_ALL": "C.UTF-8"}


class Server:
    """A running server; `with` ends it."""

    def __init__(self, program, *flags, model=TINY, env=None):
        command = [program, "serve", "-m", str(model), "--port", "0", "--json", "--threads", "2", "--kv-memory", "64M", "-c", "4096", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env={**environment(), **(env or {})})
        self.noise = []
        threading.Thread(target=lambda: self.noise.extend(self.process.stderr), daemon=True).start()
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise RuntimeError(f"no server: exit {self.process.returncode}, {''.join(self.noise)}")
        self.ready = json.loads(line)
        self.port = int(self.ready["address"].rsplit(":", 1)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.stdout.close()

    def stop(self, timeout=60):
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def ask(self, method, path, body=None, headers=None, timeout=60):
        """(status, headers, text)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = None if body is None else body if isinstance(body, (str, bytes)) else json.dumps(body)
            connection.request(method, path, data, {**(JSON if data is not None else {}), **(headers or {})})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode()
        finally:
            connection.close()

    def get(self, path, **kw):
        return self.ask("GET", path, **kw)

    def post(self, path, body, **kw):
        return self.ask("POST", path, body, **kw)

    def metrics(self):
        out = {}
        for line in self.get("/metrics")[2].splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                out[name.removeprefix("bumblebee_")] = float(value)
        return out

    def idle(self):
        now = self.metrics()
        return not any(now[name] for name in ("num_requests_running", "num_requests_waiting", 'kv_pages{state="used"}', "requests_in_flight"))

    def raw(self, data):
        """A socket that sent these bytes."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        made.sendall(data)
        return made


def chat(text="Go on", tokens=12, **more):
    return {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, **more}


def request_bytes(path, body):
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def events(text):
    """The events of a stream, and whether it ended with [DONE]."""
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    done = bool(lines) and lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines if line != "[DONE]"], done


def said(text):
    return "".join(c["delta"].get("content") or "" for e in events(text)[0] for c in e.get("choices", []))


def write_adapter(folder, seed):
    """An adapter of mlx-lm for the tiny model."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({
        "fine_tune_type": "lora", "num_layers": -1,
        "lora_parameters": {"rank": 2, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.down_proj"]}}))
    draw, header, data = random.Random(seed), {}, b""
    for layer in range(2):
        for name, rows, columns in (("mlp.down_proj.lora_a", 96, 2), ("mlp.down_proj.lora_b", 2, 64),
                                    ("self_attn.q_proj.lora_a", 64, 2), ("self_attn.q_proj.lora_b", 2, 64)):
            values = struct.pack(f"<{rows * columns}f", *(draw.gauss(0, 0.3) for _ in range(rows * columns)))
            header[f"model.layers.{layer}.{name}"] = {"dtype": "F32", "shape": [rows, columns],
                                                      "data_offsets": [len(data), len(data) + len(values)]}
            data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "adapters.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
