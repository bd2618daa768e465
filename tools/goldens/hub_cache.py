#!/usr/bin/env python3
"""Holds the cache that `bumblebee pull` makes to the one that huggingface_hub makes from the same (mock) Hub: every name, link, byte and
mode (but of kept lists); then lets each use the other's without a network. Exits 1 on a difference. Needs huggingface_hub and the built program.
"""
import argparse
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "hub"))
sys.dont_write_bytecode = True
from mock_hub import Mock  # noqa: E402

PYTHON_PULL = """
import sys, huggingface_hub
for revision in sys.argv[1:]:
    print(huggingface_hub.snapshot_download("org/name", revision=None if revision == "-" else revision))
"""
PYTHON_READ = """
import json, sys, huggingface_hub
out = {"snapshot": huggingface_hub.snapshot_download("org/name", revision=sys.argv[1])}
out["files"] = {f: open(huggingface_hub.hf_hub_download("org/name", f, revision=sys.argv[1]), "rb").read().hex() for f in sys.argv[2:]}
scan = huggingface_hub.scan_cache_dir()
out["warnings"] = [str(w) for w in scan.warnings]
out["revisions"] = sorted([r.commit_hash, sorted(r.refs), r.size_on_disk, r.nb_files] for repo in scan.repos for r in repo.revisions)
print(json.dumps(out))
"""


def fill(directory, seed, twins):
    """A repository with what layouts trip over: folders, empty and equal files, names to escape, text and large files."""
    rng = random.Random(seed)
    files = {"config.json": b"{}", "README.md": b"# name\n", ".gitattributes": b"*.safetensors filter=lfs\n", "empty.txt": b"",
             "twin_a.json": b"[1]", "twin_b.json": b"[1]", "model.safetensors": rng.randbytes(300_000), "copy.safetensors": b"",
             "deep/er/still/tokenizer.json": b"{\"a\": 1}", "deep/model.safetensors": rng.randbytes(10), "uml\u00e4ut \U0001f41d#%.json": b"5"}
    files["copy.safetensors"] = files["model.safetensors"]
    if not twins:
        del files["copy.safetensors"], files["twin_b.json"]
    for path, data in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(data)
    return files


def described(root):
    """Everything of a tree but times and owners: path -> kind, mode of files, link target or content."""
    out = {}
    for path in sorted(root.rglob("*")):
        name, info = path.relative_to(root).as_posix(), path.lstat()
        if path.is_symlink():
            out[name] = ("link", os.readlink(path))
        elif path.is_dir():
            out[name] = ("folder", stat.filemode(info.st_mode))
        else:
            # Python's lists of files are readable for their owner alone, as mkstemp makes them; ours follow the umask as all else does.
            mode = "" if "/trees/" in name else stat.filemode(info.st_mode)
            out[name] = ("file", mode, path.read_bytes())
    return out


class Comparison:
    def __init__(self, binary, mock, scratch):
        self.binary, self.mock, self.scratch, self.wrong = binary, mock, scratch, 0

    def environment(self, cache, **more):
        return {"PATH": os.environ["PATH"], "HOME": str(self.scratch), "HF_ENDPOINT": self.mock.hub, "HF_HUB_CACHE": str(cache),
                "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "LC_ALL": "C.UTF-8", **more}

    def run(self, command, cache, **more):
        done = subprocess.run(command, env=self.environment(cache, **more), capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(map(str, command))[:200]} failed:\n{done.stderr}")
        return done.stdout

    def ours(self, cache, revisions, **more):
        for revision in revisions:
            source = "org/name" if revision == "-" else f"org/name@{revision}"
            self.run([self.binary, "pull", source, "--include", "*"], cache, **more)

    def theirs(self, cache, revisions, **more):
        self.run([sys.executable, "-c", PYTHON_PULL, *revisions], cache, **more)

    def tell(self, what, differences):
        self.wrong += bool(differences)
        print(f"{'DIFFERS' if differences else 'ok':8} {what}")
        for line in differences[:10]:
            print(f"         {line}")

    def compare(self, what, a, b):
        left, right = described(a), described(b)
        differences = []
        for name in sorted(left.keys() | right.keys()):
            if left.get(name) != right.get(name):
                differences.append(f"{name}: ours {str(left.get(name))[:80]}, theirs {str(right.get(name))[:80]}")
        self.tell(f"{what}: {len(left)} names", differences)

    def python_reads(self, what, cache, commit, refs, files):
        got = json.loads(self.run([sys.executable, "-c", PYTHON_READ, refs[0], *files], cache, HF_HUB_OFFLINE="1"))
        wrong = list(got["warnings"])
        wrong += [f"{name}: other bytes" for name, data in files.items() if bytes.fromhex(got["files"][name]) != data]
        if not got["snapshot"].endswith(commit):
            wrong.append(got["snapshot"])
        self.tell(f"huggingface_hub reads {what} offline", wrong)
        return got["revisions"]

    def we_read(self, what, cache, commit, revision, files):
        source = f"org/name@{revision}"
        path = self.run([self.binary, "pull", source, "--include", "*"], cache, HF_HUB_OFFLINE="1").strip()
        wrong = [] if path.endswith(commit) else [path]
        wrong += [f"{name}: other bytes" for name, data in files.items() if (Path(path) / name).read_bytes() != data]
        self.run([self.binary, "cache", "verify", source], cache, HF_HUB_OFFLINE="1")
        self.tell(f"bumblebee reads and verifies {what} offline", wrong)


def publish(mock, folder, twins):
    """Two commits of org/name, of `main` and of `feature/x`; returns the first, and the files of both."""
    first, second = fill(folder / "one", 1, twins), fill(folder / "two", 2, twins)
    commit = mock.command({"op": "commit", "repo": "org/name", "dir": str(folder / "one"), "branch": "main", "tag": "v1", "pull": "7"})["commit"]
    mock.command({"op": "commit", "repo": "org/name", "dir": str(folder / "two"), "branch": "feature/x"})
    mock.command({"op": "repo", "repo": "org/name", "xet": True, "page_size": 4})
    return commit, first, second


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, default=ROOT / "build" / "release" / "bumblebee")
    arguments = parser.parse_args()
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as scratch, Mock() as mock:
        scratch = Path(scratch)
        it = Comparison(arguments.binary, mock, scratch)
        modes = {"links": {}, "no links": {"HF_HUB_DISABLE_SYMLINKS": "1"}}
        for mode, more in modes.items():
            # Without links, huggingface_hub moves a blob to its first name and then misses it for a second one.
            folder = scratch / mode.replace(" ", "_")
            commit, first, second = publish(mock, folder, twins=not more)
            for revisions in (["-"], ["-", "feature/x"], ["v1", "refs/pr/7"], [commit], ["-", "-"]):
                ours, theirs = scratch / "ours", scratch / "theirs"
                it.ours(ours, revisions, **more)
                it.theirs(theirs, revisions, **more)
                it.compare(f"{mode}, {', '.join(revisions).replace('-', 'main', 1)}", ours, theirs)
                ref = "main" if revisions[0] == "-" else revisions[0]
                a = it.python_reads("ours", ours, commit, [ref], first)
                b = it.python_reads("its own", theirs, commit, [ref], first)
                it.tell("huggingface_hub scans both alike", [] if a == b else [f"{a} and {b}"])
                it.we_read("theirs", theirs, commit, ref, first)
                shutil.rmtree(ours)
                shutil.rmtree(theirs)
        # One begins, the other goes on: nothing is fetched twice, nothing is left over.
        for who, begin, go_on in (("we go on after huggingface_hub", it.theirs, it.ours), ("huggingface_hub goes on after us", it.ours, it.theirs)):
            cache, alone = scratch / "shared", scratch / "alone"
            begin(cache, ["-"])
            mock.clear()
            go_on(cache, ["-", "feature/x"])
            it.theirs(alone, ["-", "feature/x"])
            it.compare(who, cache, alone)
            shutil.rmtree(cache)
            shutil.rmtree(alone)
        assert second.keys() == first.keys()
    print("the caches " + ("agree" if not it.wrong else f"differ in {it.wrong} ways"))
    return 1 if it.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
