#!/usr/bin/env python3
# Holds the conformance tests to the contract of a device: every operation of src/backend/ops.h and src/backend/grad_ops.h has a group of
# cases of its name in tests/ops/cases/registry.cpp, and no group is of an operation that is gone. (That a group is not empty, and runs on
# every backend and instruction set, ops_test checks itself.)
# Usage: check_op_cases.py [ROOT]. Prints one line per violation; exits with 1 if there is any.
import os
import re
import sys

CONTRACT = (("src/backend/ops.h", "Ops"), ("src/backend/grad_ops.h", "GradOps"))
REGISTRY = "tests/ops/cases/registry.cpp"

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
METHOD = re.compile(r"\bvirtual\b[^;{}()~]*?\b(\w+)\s*\(")
GROUP = re.compile(r'\{\s*"(\w+)"\s*,\s*(\w+)\s*\}')


def methods(text, name):
    """Virtual methods of class `name`, in order, each once."""
    text = COMMENT.sub("", text)
    start = re.search(rf"\bclass\s+{name}\b[^;{{]*\{{", text)
    if not start:
        return []
    depth, end = 1, start.end()
    while depth > 0 and end < len(text):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return list(dict.fromkeys(METHOD.findall(text[start.end():end])))


def groups(text):
    """Names of the table of operations, in order."""
    return [name for name, add in GROUP.findall(COMMENT.sub("", text)) if add == f"add_{name}"]


def check(read):
    """Violations, given a function from a path to its text."""
    wanted = []
    for path, name in CONTRACT:
        found = methods(read(path), name)
        if not found:
            yield f"{path}: expected operations of class {name}, found none"
        wanted += [(path, method) for method in found]
    there = groups(read(REGISTRY))
    names = [method for _, method in wanted]
    for path, method in wanted:
        if method not in there:
            yield f"{path}: operation {method}: expected a group of cases of that name in {REGISTRY}, got none"
    for name in there:
        if name not in names:
            yield f"{REGISTRY}: group {name}: expected an operation of that name, got none"
        if there.count(name) > 1:
            yield f"{REGISTRY}: group {name}: expected once, got {there.count(name)}"


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else "."

    def read(path):
        with open(os.path.join(root, path), encoding="utf-8") as file:
            return file.read()

    violations = list(dict.fromkeys(check(read)))
    for violation in violations:
        print(violation)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
