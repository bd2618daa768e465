# The project's pages as data: fenced blocks, headings, links, code spans. No Markdown library: the pages keep to what is read here.
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Block:
    """A fenced block. `words` are what follows the language, as in ```sh net."""
    line: int  # of the opening fence
    language: str
    words: list
    text: str


def all_pages():
    """Every page that the project keeps."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"), *ROOT.glob("bench/**/*.md")]
    return sorted(found)


def user_pages():
    """The pages that teach the use of the program: their commands and flags are held to it."""
    return [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/**/README.md"))]


def blocks(text):
    out, fence = [], None
    for number, line in enumerate(text.split("\n"), 1):
        if fence is None and line.startswith("```"):
            words = line[3:].split()
            fence = Block(number, words[0] if words else "", words[1:], "")
        elif fence is not None and line == "```":
            out.append(fence)
            fence = None
        elif fence is not None:
            fence.text += line + "\n"
    if fence is not None:
        raise ValueError(f"line {fence.line}: a block that does not end")
    return out


def prose(text):
    """The lines outside of fenced blocks, as (number, line)."""
    inside = False
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            yield number, line


def own_cells(text):
    """The lines of prose, of tables that compare with other programs only the cells of the column `bumblebee`."""
    column = None
    for number, line in prose(text):
        if not line.startswith("|"):
            column = None
            yield number, line
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if column is None:
            column = cells.index("bumblebee") if "bumblebee" in cells else -1
        yield number, line if column < 0 else cells[column]


def spans(line):
    return re.findall(r"`([^`]+)`", line)


def links(line):
    """Targets of links to files, as (path, anchor); not of those into the net."""
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", line)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(text):
    """The names that GitHub gives to headings."""
    return {re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-") for _, line in prose(text) if line.startswith("#")}
