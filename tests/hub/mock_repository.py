# What the mock Hub serves: repositories with commits, branches, tags and pull requests, made from directories on disk. Hashes are git's
# and LFS's real ones, so that a client which verifies can be told from one which does not.
import fnmatch
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

COMMIT = re.compile(r"[0-9a-f]{40}")
LFS = ["*.safetensors", "*.bin", "*.gguf", "*.npz", "*.onnx", "*.model"]  # as the Hub's .gitattributes


def git_oid(size, blocks):
    """git's name of a blob: sha1 of "blob SIZE NUL" and its bytes."""
    digest = hashlib.sha1(b"blob %d\0" % size)
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def blocks_of(path):
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            yield block


@dataclass
class File:
    """One file of one commit; `sha256` is empty for what git holds itself."""
    source: Path
    size: int
    oid: str
    sha256: str = ""
    pointer_size: int = 0

    @classmethod
    def of(cls, source, lfs):
        size = source.stat().st_size
        if not lfs:
            return cls(source, size, git_oid(size, blocks_of(source)))
        digest = hashlib.sha256()
        for block in blocks_of(source):
            digest.update(block)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest.hexdigest()}\nsize {size}\n".encode()
        return cls(source, size, git_oid(len(pointer), [pointer]), digest.hexdigest(), len(pointer))

    @property
    def etag(self):
        return self.sha256 or self.oid

    @property
    def xet(self):
        return hashlib.sha256(b"xet" + self.etag.encode()).hexdigest()


@dataclass
class Repository:
    id: str
    commits: dict = field(default_factory=dict)  # sha -> {path: File}
    branches: dict = field(default_factory=dict)
    tags: dict = field(default_factory=dict)
    pulls: dict = field(default_factory=dict)  # "1" -> sha
    private: bool = False
    gated: bool = False
    accepted: bool = True  # whether a valid token has been granted access to the gated files
    renamed_to: str = ""
    xet: bool = False
    gzip: bool = False  # text leaves compressed, in chunks, for clients that allow it
    page_size: int = 1000
    redirect_text: bool = True  # files of git are one relative redirect away, as on the Hub

    def commit(self, directory, branch="", tag="", pull="", lfs=None):
        """A commit of all files below `directory`; returns its hash."""
        patterns, files = LFS if lfs is None else lfs, {}
        for source in sorted(Path(directory).rglob("*")):
            if source.is_file():
                path = source.relative_to(directory).as_posix()
                files[path] = File.of(source, any(fnmatch.fnmatchcase(path.rsplit("/", 1)[-1], p) for p in patterns))
        text = f"{self.id}\n" + "".join(f"{path} {file.etag}\n" for path, file in files.items())
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = files
        for refs, name in ((self.branches, branch), (self.tags, tag), (self.pulls, pull)):
            if name:
                refs[str(name)] = sha
        return sha

    def resolve(self, revision):
        """The commit that a branch, tag, pull request or hash names, or None."""
        if COMMIT.fullmatch(revision):
            return revision if revision in self.commits else None
        if revision.startswith("refs/pr/"):
            return self.pulls.get(revision[len("refs/pr/"):])
        for prefix in ("refs/heads/", "refs/tags/"):
            revision = revision.removeprefix(prefix)
        return self.branches.get(revision) or self.tags.get(revision)

    def tree(self, sha, below=""):
        """The entries of /tree, recursive: directories and files, as the Hub's JSON has them."""
        out, seen = [], set()
        for path, file in self.commits[sha].items():
            if below and not path.startswith(below + "/"):
                continue
            for at in (i for i, c in enumerate(path) if c == "/"):
                if path[:at] not in seen and len(path[:at]) > len(below):
                    seen.add(path[:at])
                    oid = hashlib.sha1(path[:at].encode()).hexdigest()
                    out.append({"type": "directory", "oid": oid, "size": 0, "path": path[:at]})
            entry = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
            if file.sha256:
                entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
                if self.xet:
                    entry["xetHash"] = file.xet
            out.append(entry)
        return out

    def info(self, sha, blobs):
        siblings = []
        for path, file in self.commits[sha].items():
            sibling = {"rfilename": path}
            if blobs:
                sibling |= {"size": file.size, "blobId": file.oid}
                if file.sha256:
                    sibling["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
            siblings.append(sibling)
        return {"_id": hashlib.sha1(self.id.encode()).hexdigest()[:24], "id": self.id, "modelId": self.id,
                "author": self.id.split("/")[0], "sha": sha, "private": self.private, "disabled": False,
                "gated": "manual" if self.gated else False, "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2025-01-01T00:00:00.000Z", "downloads": 0, "likes": 0, "tags": [], "siblings": siblings}

    def refs(self, pulls):
        def listed(names, prefix):
            return [{"name": name, "ref": prefix + name, "targetCommit": sha} for name, sha in names.items()]
        out = {"branches": listed(self.branches, "refs/heads/"), "tags": listed(self.tags, "refs/tags/"), "converts": []}
        if pulls:
            out["pullRequests"] = [{"name": f"refs/pr/{n}", "ref": f"refs/pr/{n}", "targetCommit": sha}
                                   for n, sha in self.pulls.items()]
        return out
