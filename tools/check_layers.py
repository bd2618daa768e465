#!/usr/bin/env python3
# Holds the source tree to its architecture: who may include whom (docs/internals/architecture.md), that only src/backend/registry.cpp names
# concrete backends, where build switches may be tested, how long a file may be, and that each file says what it is.
# Usage: check_layers.py [ROOT]. Prints one line per violation, `path:line: rule: what`; exits with 1 if there is any.
import os
import re
import sys

MAX_LINES = 700

# layer -> layers it may include besides itself. "public" is include/bumblebee, "error" of it error.h and log.h alone.
BELOW_NN = ["backend", "quant", "tensor", "base", "error"]
BELOW_ENGINE = ["exec", "models", "lora", "text", "hub", "io", "nn"] + BELOW_NN + ["public"]
ALLOWED = {
    "public": ["error"],
    "base": ["error"],
    "tensor": ["base", "error"],
    "quant": ["tensor", "base", "error"],
    "io": ["quant", "tensor", "base", "error"],
    "rust": ["base", "error"],
    "text": ["rust", "base", "error"],
    "hub": ["base", "error"],
    "backend": ["quant", "tensor", "base", "error"],
    "nn": BELOW_NN,
    "models": ["nn"] + BELOW_NN,
    "lora": ["nn", "io", "rust"] + BELOW_NN,
    "exec": ["lora", "models", "nn"] + BELOW_NN,
    "engine": ["exec", "lora", "public"] + BELOW_NN,
    "dataset": ["text", "io", "quant", "tensor", "base", "error", "public"],
    "train": ["dataset"] + BELOW_ENGINE,
    "api": ["engine", "train", "dataset"] + BELOW_ENGINE,
    "serve": ["public", "rust", "base", "error"],
    "apps": ["public", "error"],
}
BACKENDS = ["ref", "cpu", "cuda", "mlx"]
for name in BACKENDS:
    ALLOWED[f"backend/{name}"] = ["backend", "quant", "tensor", "base", "error"]

# The program's commands that work on files rather than on models, or write one, may use the file layers.
FILE_COMMANDS = re.compile(r"^apps/.*(adapter|conver(t|sion|sation)|fuse|inspect|logits|output_directory|quantize)")
FILE_LAYERS = ["lora", "io", "quant", "tensor", "base"]

REGISTRY = "src/backend/registry.cpp"
# Build switches: the registry, the backends themselves, the debug-only check macro, and the one file that knows the optional line editor.
SWITCHES_ALLOWED = re.compile(
    r"^(src/(backend/registry\.cpp|backend/(ref|cpu|cuda|mlx)/|base/(check|error)\.h)|apps/ui/line_reader\.cpp)")

CODE = (".h", ".cpp", ".cu", ".cuh", ".rs")
COMMENTED = CODE + (".py", ".sh")
TREES = ["include", "src", "apps", "tests", "fuzz", "bench", "examples", "tools", "bindings"]

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
SWITCH = re.compile(r"^\s*#\s*(if|ifdef|ifndef|elif)\b.*\bBB_\w+")
CONCRETE = re.compile(r"\b(Ref|Cpu|Cuda|Mlx)Backend\b|\bmake_(ref|cpu|cuda|mlx)_backend\b")


def layer_of(path):
    """The layer a repository path belongs to, or None for what has no rule (tests, tools)."""
    parts = path.split("/")
    if parts[0] == "include":
        return "public"
    if parts[0] == "apps":
        return "apps"
    if parts[0] != "src" or len(parts) < 3:
        return None
    if parts[1] == "backend" and len(parts) > 3:
        return f"backend/{parts[2]}"
    return parts[1]


def layer_of_include(path, target, root):
    """The layer an #include leads to. Includes are relative to src/ or include/ (in apps/ to apps/), or to the including file's folder."""
    if target in ("bumblebee/error.h", "bumblebee/log.h"):
        return "error"
    if target.startswith("bumblebee/"):
        return "public"
    if path.startswith("apps/") and os.path.exists(os.path.join(root, "apps", target)):
        return "apps"
    beside = os.path.normpath(os.path.join(os.path.dirname(path), target))
    if not os.path.exists(os.path.join(root, "src", target)) and os.path.exists(os.path.join(root, beside)):
        return layer_of(beside)
    return layer_of("src/" + target)


def allowed_includes(path, layer):
    names = [layer] + ALLOWED[layer]
    if layer == "apps" and FILE_COMMANDS.match(path):
        names += FILE_LAYERS
    if path == REGISTRY:
        names += [f"backend/{name}" for name in BACKENDS]
    return names


def check_includes(path, lines, root):
    layer = layer_of(path)
    if layer is None:
        return
    if layer not in ALLOWED:
        yield 1, "layers", f"'{layer}' is not a layer that tools/check_layers.py knows"
        return
    allowed = allowed_includes(path, layer)
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if match:
            target = layer_of_include(path, match.group(1), root)
            if target is not None and target not in allowed:
                yield number, "layers", f"{layer} may not include {target} (\"{match.group(1)}\")"


def check_concrete_backends(path, lines):
    layer = layer_of(path)
    if layer is None or layer.startswith("backend/") or path == REGISTRY:
        return
    for number, line in enumerate(lines, 1):
        match = CONCRETE.search(line.split("//")[0])
        if match:
            yield number, "backends", f"only {REGISTRY} names a concrete backend, not '{match.group(0)}' here"


def check_switches(path, lines):
    if layer_of(path) is None or SWITCHES_ALLOWED.match(path):
        return
    for number, line in enumerate(lines, 1):
        if SWITCH.match(line):
            yield number, "switches", "a build switch is tested outside the registry and the backends"


def check_opening(path, lines):
    rest = [line for line in lines if not line.startswith("#!")]
    first = rest[0].strip() if rest else ""
    marks = ("//", "/*") if path.endswith(CODE) else ("#", '"""', "'''")
    if not first.startswith(marks):
        yield 1, "opening", "the first line must be a comment that says what lives here"
    if path.endswith((".h", ".cuh")) and not any(line.strip() == "#pragma once" for line in lines):
        yield 1, "opening", "a header needs #pragma once"


def check_length(lines):
    if len(lines) > MAX_LINES:
        yield MAX_LINES, "length", f"{len(lines)} lines, at most {MAX_LINES}"


def check_file(path, text, root):
    lines = text.splitlines()
    yield from check_length(lines)
    yield from check_opening(path, lines)
    if path.endswith(CODE) and not path.endswith(".rs"):
        yield from check_includes(path, lines, root)
        yield from check_concrete_backends(path, lines)
        yield from check_switches(path, lines)


def files_of(root):
    for tree in TREES:
        for folder, folders, names in os.walk(os.path.join(root, tree)):
            folders[:] = sorted(f for f in folders if f not in ("target", "data", "corpus", "__pycache__", "build"))
            for name in sorted(names):
                if name.endswith(COMMENTED):
                    yield os.path.relpath(os.path.join(folder, name), root)


def check_tree(root):
    """All violations of the tree at `root`, as (path, line, rule, message)."""
    found = []
    for path in files_of(root):
        with open(os.path.join(root, path), encoding="utf-8") as file:
            text = file.read()
        found += [(path, *violation) for violation in check_file(path, text, root)]
    return found


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    count = sum(1 for _ in files_of(root))
    if count == 0:
        print(f"no source files under {root}", file=sys.stderr)
        return 2
    violations = check_tree(root)
    for path, line, rule, message in violations:
        print(f"{path}:{line}: {rule}: {message}")
    if violations:
        print(f"{len(violations)} violations in {count} files")
        return 1
    print(f"{count} files keep the rules")
    return 0


if __name__ == "__main__":
    sys.exit(main())
