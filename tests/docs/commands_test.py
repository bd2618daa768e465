# Runs the commands that the pages show, each page's in the order of the page, and compares what they print with what the page shows.
# Usage: commands_test.py PROGRAM [--update] [PAGE...]; --update writes the outputs that differ into the pages.
#
#   ```sh            run by bash in a copy of the repository's folder (an example's in its own); has to exit with 0
#   ```sh exit=N     the same, and has to exit with N
#   ```sh net        wants the Hub: run without one, each line. The program has to understand it, and to say that it is offline
#   ```sh chat       a conversation: what the next block shows after "> " is typed
#   ```sh server     starts a server: not run here; pages_test.py looks at its flags
#   ```sh curl       asks one: run by tests/serve/program/program_test.py
#   ```sh build      builds, installs or tests the project: not run here; the files that it names have to exist
#   ```text          the output of the block before: the same, "…" being anything (a line of its own: any lines)
#   ```text numbers  the same but for numbers and their units: figures of a machine
#   ```text sample   one output of many: only has to be one
#
#   ```cpp           of the README: compiled by tests/install, whose program CMake names in BB_README_PROGRAM; run on MODEL
#
# In the folder, `./demo --where` prints the demo's model, and the word MODEL and the variable of that name mean it. `bumblebee` is PROGRAM.
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
import pages  # noqa: E402

NUMBER = r"[+-]?\d[\d.,:]*([eE][+-]?\d+)?( ?(ns|µs|ms|s|min|h|B|kB|MB|GB|TB|%)(?![\w]))?"


def differences(shown, got, words):
    """What is wrong with the output, or None."""
    if "sample" in words:
        return None if got.strip() and shown.strip() else f"expected some output, and one on the page; got:\n{got}"

    def plain(line):
        return re.sub(r"\s+", " ", re.sub(NUMBER, "#", line) if "numbers" in words else line).strip()

    pattern = ""
    for line in shown.rstrip("\n").split("\n"):
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += r"[^\n]*?".join(re.escape(part) for part in plain(line).split("…")) + r"\n"
    lines = [plain(line) for line in got.rstrip("\n").split("\n")]
    if re.fullmatch(pattern, "\n".join(lines) + "\n"):
        return None
    return f"expected:\n{shown}\ngot:\n{got}"


def processor_flags():
    info = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)$", info.read_text() if info.exists() else "", re.M)
    return flags[1].split() if flags else []


class Folder:
    """A copy of what the commands of a page find around them, gone at the end."""

    def __init__(self, program, model, page):
        self._temporary = tempfile.TemporaryDirectory(prefix="docs-")
        self.path, self.model = Path(self._temporary.name) / "bumblebee", model
        for name in ("docs", "examples"):
            shutil.copytree(pages.ROOT / name, self.path / name)
        for name in ("README.md", "LICENSE", "tests/data/apps/tiny.gguf"):
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(pages.ROOT / name, self.path / name)
        (self.path / "build/release").mkdir(parents=True)
        (self.path / "build/release/bumblebee").symlink_to(program)
        demo = self.path / "demo"
        demo.write_text(f'#!/bin/sh\n[ "$*" = --where ] || exit 1\necho "{model}"\n')
        demo.chmod(0o755)
        self.work = self.path / page.relative_to(pages.ROOT).parent if page.parent.parent.name == "examples" else self.path
        home = Path(self._temporary.name) / "home"
        home.mkdir()
        self.environment = {
            "PATH": f"{self.path / 'build/release'}:{os.environ['PATH']}", "HOME": str(home), "MODEL": str(model), "LC_ALL": "C.UTF-8",
            "TZ": "UTC", "HF_HUB_OFFLINE": "1", "TERM": "dumb"}
        # Answers on the pages are those of sets without products of bf16, which agree; with them attention has other bits (decision 37).
        if "avx512_bf16" in processor_flags():
            self.environment["BB_CPU"] = "avx512_vnni"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._temporary.cleanup()

    def run(self, script, typed=""):
        """Exit status and what is printed, standard error included, with paths as a page writes them."""
        script = re.sub(r"(?<![\w$\"{-])MODEL(?![\w=])", '"$MODEL"', script)
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=self.work, env=self.environment, input=typed.encode(),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout.decode(errors="replace").replace(str(self.model), "…/" + self.model.name)


def run_block(folder, block, shown):
    """(what is wrong or None, the output)."""
    if "build" in block.words:
        named = {name or tool for name, tool in re.findall(r"\./(\w+)|(tools/[\w.]+)", block.text)}
        presets = {preset["name"] for preset in json.loads((pages.ROOT / "CMakePresets.json").read_text())["configurePresets"]}
        absent = [name for name in named if not (pages.ROOT / name).exists()]
        absent += [name for name in re.findall(r"--preset (\w+)", block.text) if name not in presets]
        return (f"do not exist: {absent}" if absent else None), ""
    if "net" in block.words:
        for line in block.text.replace("\\\n", " ").strip().split("\n"):
            status, got = folder.run(line)
            if status != 0 and not (status in (3, 9, 11) and "offline" in got):
                return f"{line}\nexpected to be refused as offline, got exit {status}:\n{got}", got
        return None, ""
    typed = ""
    if "chat" in block.words and shown:
        typed = "".join(line[2:] + "\n" for line in shown.text.split("\n") if line.startswith("> "))
    status, got = folder.run(block.text, typed)
    wanted = next((int(word[5:]) for word in block.words if word.startswith("exit=")), 0)
    if status != wanted:
        return f"expected exit {wanted}, got {status}:\n{got}", got
    if shown is None:
        return None, got
    if "chat" in block.words:  # typed lines are not echoed to a pipe
        kept = "".join(line + "\n" for line in shown.text.split("\n") if line and not line.startswith("> "))
        return differences(kept, re.sub(r"\n\n+", "\n", got), shown.words), got
    return differences(shown.text, got, shown.words), got


def run_page(program, model, page, update):
    """Complaints, each with its place."""
    text = page.read_text()
    found = pages.blocks(text)
    wrong, count, moved = [], 0, 0  # lines by which updates have moved what follows
    with Folder(program, model, page) as folder:
        for number, block in enumerate(found):
            if block.language == "cpp" and os.environ.get("BB_README_PROGRAM"):
                block.text = f"'{os.environ['BB_README_PROGRAM']}' \"$MODEL\""
            elif block.language != "sh" or "server" in block.words or "curl" in block.words:
                continue
            count += 1
            shown = found[number + 1] if number + 1 < len(found) and found[number + 1].language == "text" else None
            complaint, got = run_block(folder, block, shown)
            if complaint and update and shown and "chat" not in block.words and not complaint.startswith("expected exit"):
                lines = page.read_text().split("\n")
                at = next(i for i, line in enumerate(lines) if i >= block.line + moved and line.startswith("```text"))
                end = lines.index("```", at)
                new = got.rstrip("\n").split("\n")
                page.write_text("\n".join([*lines[:at + 1], *new, *lines[end:]]))
                moved += len(new) - (end - at - 1)
            elif complaint:
                wrong.append(f"{page.relative_to(pages.ROOT)}:{block.line}: {block.text.strip()}\n{complaint}")
    return count, wrong


def main(arguments):
    update = "--update" in arguments
    program, *chosen = [argument for argument in arguments if argument != "--update"]
    program = Path(program).resolve()
    model = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bumblebee/models/SmolLM2-135M-Instruct-MLX-4bit"
    if not (model / "config.json").exists():
        sys.exit(f"no model in {model}: ./demo --where makes it")
    wrong = []
    for page in [Path(name).resolve() for name in chosen] or pages.user_pages():
        start = time.monotonic()
        count, complaints = run_page(program, model, page, update)
        print(f"{page.relative_to(pages.ROOT)}: {count} blocks, {time.monotonic() - start:.1f} s, {len(complaints)} wrong", flush=True)
        wrong += complaints
    for complaint in wrong:
        print("\n" + complaint)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
