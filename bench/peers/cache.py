"""Environments and models, made once and kept: ${BB_CACHE:-~/.cache/bumblebee-peers}/venvs and /models. Models are
never deleted from it; what an interrupted run left half done, and an environment that no longer works, is made anew."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Absent(Exception):
    """Why a peer does not take part."""


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


class Cache:
    def __init__(self, root, say, upgrade=False):
        self.root, self.say, self.upgrade, self.fresh = Path(root).expanduser(), say, upgrade, set()

    def run(self, what, command, log, env=None):
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w", encoding="utf-8") as out:
            status = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env).returncode
        if status != 0:
            errors = [line for line in log.read_text(errors="replace").splitlines() if "rror" in line]
            raise Absent(f"{what}: exit status {status}: {last_line(chr(10).join(errors) or log.read_text(errors='replace'))}")

    def venv(self, name, requirements, flags=(), env=None):
        """The interpreter of the environment `name` with `requirements` from PyPI; Absent if they do not install."""
        directory = self.root / "venvs" / name
        python, ready = directory / "bin" / "python", directory / "ready.json"
        wanted = json.dumps({"requirements": list(requirements), "flags": list(flags), "env": env or {}})
        if ready.exists() and ready.read_text() == wanted and (not self.upgrade or name in self.fresh):
            return python
        self.say(f"installing {' '.join(requirements)}")
        log = self.root / "logs" / f"install-{name}.log"
        # One that works is kept, whichever Python made it: two in one directory would mix their libraries.
        if not python.exists() or subprocess.run([str(python), "-c", "import pip, ssl"], capture_output=True).returncode != 0:
            self.run(f"a virtual environment for {name}", [sys.executable, "-m", "venv", "--clear", str(directory)], log)
        command = [str(python), "-m", "pip", "install", *(["--upgrade"] if self.upgrade else []), *flags, *requirements]
        self.run(f"pip install {' '.join(requirements)}", command, log, {**os.environ, **(env or {})})
        ready.write_text(wanted)
        self.fresh.add(name)
        return python

    def mlx(self, shape, group=64):
        directory = self.root / "models" / (f"mlx-qwen3-{shape}" + ("" if group == 64 else f"-g{group}"))
        if not (directory / "complete").exists():
            self.say(f"writing a random MLX checkpoint of the {shape} shape")
            unfinished = directory.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            command = [sys.executable, str(ROOT / "tools" / "make_random_checkpoint.py"), f"qwen3-{shape}", str(unfinished),
                       "--group-size", str(group)]
            self.run(f"an MLX checkpoint of the {shape} shape", command, self.root / "logs" / f"mlx-{shape}.log")
            (unfinished / "complete").touch()
            unfinished.rename(directory)
        return directory

    def gguf(self, shape, kind):
        file = self.root / "models" / f"qwen3-{shape}-{kind}.gguf"
        if not file.exists():
            python = self.venv("gguf", ["gguf"])
            self.say(f"writing a random {kind} file of the {shape} shape")
            file.parent.mkdir(parents=True, exist_ok=True)
            script = Path(__file__).parent / "workers" / "write_gguf.py"
            self.run(f"a {kind} file of the {shape} shape", [str(python), str(script), f"qwen3-{shape}", kind, str(file)],
                     self.root / "logs" / f"gguf-{shape}-{kind}.log")
        return file
