"""Makes the CUDA build of torch that the package index serves importable on a machine without the CUDA libraries.

The wheel links every CUDA library at load, some two gigabytes of packages that the oracles never call. This script puts
stand-ins beside torch's own libraries: shared objects of the wanted names whose functions only answer "no device".
Run it inside the environment that holds torch; it does nothing where `import torch` already works.
"""
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

NO_DEVICE = 100  # cudaErrorNoDevice; any value but zero is an error to the other libraries as well


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def works():
    return subprocess.run([sys.executable, "-c", "import torch; torch.zeros(2).double().sum()"],
                          capture_output=True).returncode == 0


def make_stand_in(path, symbols, scratch):
    lines = [".text"]
    for name in sorted(symbols):
        answer = 0 if name.startswith("__cuda") else NO_DEVICE  # module registration runs at load and must pass
        body = "lea no_device(%rip), %rax" if re.search(r"Error(String|Name)$", name) else f"mov ${answer}, %eax"
        lines.append(f".globl {name}\n.type {name},@function\n{name}:\n{body}\nret")
    lines.append('.section .rodata\nno_device: .asciz "this is a stand-in: there is no device"')
    lines.append('.section .note.GNU-stack,"",@progbits')
    script = ""
    for tag in sorted(set(symbols.values()) - {""}) or [path.name]:
        names = "".join(f" {n};" for n, t in sorted(symbols.items()) if t == tag)
        script += f"{tag} {{ {'global:' + names if names else ''} }};\n"
    (scratch / "body.s").write_text("\n".join(lines) + "\n")
    (scratch / "versions").write_text(script)
    run("gcc", "-shared", "-nostdlib", f"-Wl,-soname,{path.name}", f"-Wl,--version-script={scratch / 'versions'}",
        "-o", str(path), str(scratch / "body.s"))


def main():
    if works():
        return 0
    folder = Path(sysconfig.get_paths()["purelib"]) / "torch" / "lib"
    libraries = sorted(folder.glob("*.so*"))
    if not libraries:
        print("cpu_torch: torch is not installed here", file=sys.stderr)
        return 1
    present = {path.name for path in libraries}
    owner = {}  # version tag -> the library that the loader expects it in
    wanted = {}  # library -> symbol -> version tag or ""
    for library in libraries:
        for name in re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-dW", str(library))):
            if re.match(r"lib(cu|nv|nccl)", name) and name not in present:
                wanted.setdefault(name, {})
        file = ""
        for line in run("readelf", "-VW", str(library)).splitlines():
            if found := re.search(r"File: (\S+)", line):
                file = found[1]
            elif found := re.search(r"Name: (\S+)\s+Flags", line):
                owner[found[1]] = file
    any_library = next(name for name in wanted if name.startswith("libcudart"))  # home of the symbols without a tag
    for library in libraries:
        for line in run("nm", "-D", "--undefined-only", "--with-symbol-versions", str(library)).splitlines():
            name, _, tag = line.split()[-1].partition("@")
            if re.match(r"(__cuda|cu|nccl|nv)", name):
                wanted.setdefault(owner.get(tag, any_library), {}).setdefault(name, tag)
    with tempfile.TemporaryDirectory() as scratch:
        for name, symbols in wanted.items():
            if name not in present:
                make_stand_in(folder / name, symbols, Path(scratch))
    if not works():
        print("cpu_torch: torch still does not load; install its CUDA packages (pip install torch)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
