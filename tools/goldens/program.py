"""Calls the program under test, in exact precision, since it is held to others: `logits` writes safetensors, `generate` and `perplexity`
print one JSON object."""
import json
import subprocess
import tempfile
from pathlib import Path

from common import REPOSITORY, read_safetensors

BINARY = REPOSITORY / "build" / "release" / "bumblebee"


def call(binary, *arguments):
    command = [str(binary), *map(str, arguments), "--precision", "exact"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)[:300]}\nexited {done.returncode}: {done.stderr.strip()[-800:]}")
    return done.stdout


def logits(binary, folder, tokens, device):
    """[tokens, vocab] f32"""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "logits.safetensors"
        call(binary, "logits", "-m", folder, "--tokens", ",".join(str(int(t)) for t in tokens), "-o", out,
             "--device", device)
        return read_safetensors(out)["logits"]


def generate(binary, folder, prompt, count, device):
    return json.loads(call(binary, "generate", "-m", folder, "-p", prompt, "-n", count, "--temp", 0, "--json",
                           "--device", device))


def perplexity(binary, folder, text, device):
    return json.loads(call(binary, "perplexity", "-m", folder, "-f", text, "--json", "--device", device))
