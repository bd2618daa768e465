"""`bumblebee serve` as a process: started on a free port, waited for, ended. For tests and measurements; standard library only."""
import json
import signal
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlsplit


class ServerProcess:
    """Runs from the constructor on; RuntimeError with what it wrote when it ends before it is ready. `flags` go to the verb."""

    def __init__(self, binary, model, *flags, port=0, env=None):
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        command = [str(binary), "serve", "-m", str(model), "--port", str(port), "--json", *map(str, flags)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=env)
        self.facts = json.loads(self.process.stdout.readline() or "{}")
        if self.facts.get("event") != "ready":
            self.process.wait()
            raise RuntimeError(f"{' '.join(command)}: expected a line that says it is ready, got exit status {self.process.returncode}: "
                               f"{self.said()}")

    url = property(lambda self: self.facts["address"])
    model = property(lambda self: self.facts["model"])
    port = property(lambda self: urlsplit(self.url).port)
    pid = property(lambda self: self.process.pid)

    def said(self):
        """The end of what it wrote as errors and notes."""
        self.errors.seek(0)
        return self.errors.read()[-2000:]

    def end(self, number=signal.SIGTERM):
        """Sends a signal and returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.end(signal.SIGKILL)
        self.process.stdout.close()
        self.errors.close()


def write_key(directory, name, key):
    """A file with one key, for --api-key-file and --admin-key-file."""
    path = Path(directory) / name
    path.write_text(key + "\n")
    path.chmod(0o600)
    return path
