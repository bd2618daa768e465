#!/usr/bin/env python3
"""Holds `bumblebee serve` to its clients: runs the official packages of OpenAI (Python, JavaScript), Vercel's AI SDK, LangChain and
LlamaIndex against a running server, one line a check. Part of ./test --oracles.

    tools/serve_clients.py --model "$(./demo --where)" [openai_client.py ...]

Installs the packages in ${BUMBLEBEE_ORACLES:-~/.cache/bumblebee-oracles}/clients the first time; Python with venv, node and npm must be
there. The checks of tools expect a model that repeats what it has seen, as SmolLM2 does: a random one fails them.
"""
import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = ROOT / "tests" / "serve" / "clients"
CACHE = Path(os.environ.get("BUMBLEBEE_ORACLES", Path.home() / ".cache" / "bumblebee-oracles")) / "clients"
KEY = "key-of-the-test"
sys.path.insert(0, str(ROOT / "bench"))
sys.dont_write_bytecode = True
from serving.process import ServerProcess, write_key  # noqa: E402

# OpenAI's newest package and what LangChain wants of it exclude each other: two environments.
PYTHON = {"openai": ["openai_client.py"], "frameworks": ["langchain_client.py", "llama_index_client.py"]}
SCRIPTS = [*(script for scripts in PYTHON.values() for script in scripts), "openai_client.mjs", "ai_sdk_client.mjs"]


def installed(place, wanted, install):
    """Runs `install` where the list of packages, the bytes `wanted`, is not what is installed."""
    stamp, digest = place / "installed.sha256", hashlib.sha256(wanted).hexdigest()
    if not (stamp.exists() and stamp.read_text() == digest):
        print(f"installing clients into {place}", flush=True)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        install()
        stamp.write_text(digest)
    return place


def python_of(name):
    place, requirements = CACHE / name, CLIENTS / f"requirements-{name}.txt"

    def install():
        venv.create(place, with_pip=True)
        subprocess.run([place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r",
                        requirements], check=True)
    return installed(place, requirements.read_bytes(), install) / "bin" / "python"


def node_modules():
    place = CACHE / "node"

    def install():
        for name in ("package.json", "package-lock.json"):
            shutil.copy(CLIENTS / name, place / name)
        subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=place, check=True)
    return installed(place, (CLIENTS / "package-lock.json").read_bytes(), install)


def command_of(script):
    """Scripts of node find packages beside themselves, so they run from a copy beside the packages."""
    if not script.endswith(".mjs"):
        name = next(name for name, scripts in PYTHON.items() if script in scripts)
        return [python_of(name), "-B", CLIENTS / script]
    place = node_modules()
    for name in ("checks.mjs", script):
        shutil.copy(CLIENTS / name, place / name)
    return ["node", place / script]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a directory, as ./demo --where prints one")
    parser.add_argument("--binary", type=Path, default=ROOT / "build" / "release" / "bumblebee")
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"of {', '.join(SCRIPTS)} (default: all)")
    options = parser.parse_args()
    for script in options.scripts:
        if script not in SCRIPTS:
            parser.error(f"expected some of {', '.join(SCRIPTS)}; got {script!r}")
    wrong = []
    with tempfile.TemporaryDirectory() as scratch:
        flags = ["--api-key-file", write_key(scratch, "keys", KEY), "--tool-parser", "hermes", "--grace", "1"]
        with ServerProcess(options.binary, options.model, *flags) as server, \
                ServerProcess(options.binary, options.model, *flags, "--parallel", "1", "--max-waiting", "1") as busy:
            for script in options.scripts or SCRIPTS:
                print(f"== {script}", flush=True)
                command = [*map(str, command_of(script)), server.url, busy.url, KEY, server.model]
                if subprocess.run(command, stdin=subprocess.DEVNULL, env={**os.environ, "NODE_NO_WARNINGS": "1"}).returncode != 0:
                    wrong.append(script)
            for one in (server, busy):
                status = one.end()
                if status != 0:
                    wrong.append(f"the server ended with status {status}: {one.said()}")
    print("clients: " + ("all checks pass" if not wrong else "failed: " + "; ".join(wrong)))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
