#!/usr/bin/env python3
# Writes the C++ of a Markdown file to a source file, so that the build compiles what the documentation shows.
# Usage: extract_snippets.py FILE.md OUTPUT.cpp. Every block that is fenced as ```cpp is taken, in order; there must be at least one.
import re
import sys


def snippets(markdown):
    return re.findall(r"^```cpp\n(.*?)^```$", markdown, flags=re.MULTILINE | re.DOTALL)


def main():
    source, output = sys.argv[1:]
    with open(source, encoding="utf-8") as file:
        found = snippets(file.read())
    if not found:
        print(f"{source}: no ```cpp block", file=sys.stderr)
        return 1
    with open(output, "w", encoding="utf-8") as file:
        file.write(f"// The C++ of {source.rsplit('/', 1)[-1]}, extracted by the build.\n" + "\n".join(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
