#!/usr/bin/env python3
# Closes the ODR trap of code compiled several times: an object of src/backend/cpu/isa/X.cpp may define no symbol that another object
# could define too, because the linker keeps one copy for all, and that copy may use instructions the processor lacks. Every global
# or weak definition must live in bumblebee::cpu::X, but for X_kernels(), which hands out the table.
# Usage: check_isa_symbols.py BUILD_DIR [--nm NM].
import argparse
import glob
import os
import re
import subprocess
import sys

# GNU nm's letters for global and weak definitions: text, data, read-only data, bss, common, weak, unique, indirect.
DEFINED = set("TDRBCGSWVuiA")
# What the compiler emits beside a function or table of ours, named after it.
PREFIXES = re.compile(r"^(vtable for|typeinfo for|typeinfo name for|guard variable for|VTT for|non-virtual thunk to|reference temporary #\d+ for) ")


def defined_symbols(nm_output):
    """(letter, demangled name) of every global or weak definition that `nm -C` printed."""
    for line in nm_output.splitlines():
        match = re.match(r"^[0-9a-fA-F]* ?([A-Za-z]) (.+)$", line.strip())
        if match and match.group(1) in DEFINED:
            yield match.group(1), match.group(2)


def is_inside(symbol, namespace):
    """Whether a demangled symbol is defined in `namespace`. Template instances print their return type first."""
    symbol = PREFIXES.sub("", symbol)
    head = symbol.split("(")[0]
    depth, words, word = 0, [], ""
    for character in head:  # words outside of <>
        depth += character == "<"
        depth -= character == ">"
        if character == " " and depth == 0:
            words.append(word)
            word = ""
        else:
            word += character
    return word.lstrip("*&").startswith(namespace + "::")


def offenders(nm_output, namespace):
    accessor = f"{namespace}_kernels()"
    return [(letter, name) for letter, name in defined_symbols(nm_output) if name != accessor and not is_inside(name, namespace)]


def isa_objects(build):
    """(ISA, object path) for every object that was compiled from src/backend/cpu/isa."""
    for path in sorted(glob.glob(os.path.join(build, "src/backend/cpu/CMakeFiles/*.dir/isa/*.o"))):
        yield os.path.basename(path).split(".")[0], path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--nm", default="nm")
    arguments = parser.parse_args()
    objects = list(isa_objects(arguments.build))
    if not objects:
        print(f"no objects of src/backend/cpu/isa under {arguments.build}: build bumblebee_backend_cpu first", file=sys.stderr)
        return 2
    failed = False
    for isa, path in objects:
        output = subprocess.run([arguments.nm, "-C", path], check=True, capture_output=True, text=True).stdout
        if not any(defined_symbols(output)):
            print(f"{isa}: the object defines nothing: {path}")
            failed = True
        for letter, name in offenders(output, f"bumblebee::cpu::{isa}"):
            print(f"{isa}: '{letter}' {name} is outside bumblebee::cpu::{isa}")
            failed = True
    if not failed:
        print(f"{len(objects)} objects keep to their namespaces: {', '.join(isa for isa, _ in objects)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
