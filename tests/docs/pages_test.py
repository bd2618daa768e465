# Pages that keep up with the program: links lead somewhere, and every verb and flag that a page names exists.
# Usage: pages_test.py PROGRAM
import json
import re
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
import pages  # noqa: E402
from commands_test import differences  # noqa: E402

PROGRAM = sys.argv.pop(1)
NO_VERB = {"-h", "--help", "--version", "-v"}


def known_flags():
    """The flags of each verb by its names, from the program's own parser."""
    out = {}
    for verb in json.loads(subprocess.run([PROGRAM, "help", "--json"], capture_output=True, check=True).stdout)["verbs"]:
        flags = {name for option in verb["options"] for name in option["names"]}
        for name in [verb["name"], *verb["aliases"]]:
            out[name] = flags
    return out


def peers_flags():
    """Flags of other programs that the parser answers."""
    return set(re.findall(r'\{"(-[^"]+)"', (pages.ROOT / "apps/options/words.cpp").read_text()))


def unknown(command, flags):
    """What of a command line the program does not know. Flags are the words that begin with a dash and are no numbers."""
    words = re.sub(r"""(["']).*?\1""", "TEXT", command.split(" #")[0]).split()
    words = words[words.index("bumblebee") + 1:]
    for end, word in enumerate(words):
        if word in ("|", ">", "2>", "2>&1", "&&", "||", ";", "</dev/null"):
            words = words[:end]
            break
    if not words or words[0] in NO_VERB or not re.fullmatch(r"[a-z]+", words[0]):
        return []
    if words[0] not in flags:
        return [words[0]]
    return [word for word in words[1:] if re.match(r"--?[a-zA-Z]", word) and not is_flag(word.rstrip("]").split("=")[0], flags[words[0]])]


def is_flag(word, flags):
    return word in flags or (not word.startswith("--") and word[:2] in flags)  # -n5


class Pages(unittest.TestCase):
    def each(self, chosen, check):
        for page in chosen:
            with self.subTest(page=str(page.relative_to(pages.ROOT))):
                check(page, page.read_text())

    def test_links_lead_to_files_and_headings(self):
        def check(page, text):
            for number, line in pages.prose(text):
                for path, anchor in pages.links(line):
                    target = page.parent / path if path else page
                    self.assertTrue(target.exists(), f"line {number}: {path}")
                    if anchor and target.suffix == ".md":
                        self.assertIn(anchor, pages.anchors(target.read_text()), f"line {number}: {path}")

        self.each(pages.all_pages(), check)

    def test_every_user_page_can_be_reached_from_the_readme(self):
        reached, todo = set(), [pages.ROOT / "README.md"]
        while todo:
            page = todo.pop().resolve()
            if page.is_dir():
                page /= "README.md"
            if page in reached or not page.exists() or page.suffix != ".md":
                continue
            reached.add(page)
            todo += [page.parent / path for _, line in pages.prose(page.read_text()) for path, _ in pages.links(line) if path]
        for page in [*pages.user_pages(), *pages.ROOT.glob("docs/internals/*.md")]:
            self.assertIn(page.resolve(), reached)

    def test_commands_and_flags_exist(self):
        flags = known_flags()
        everywhere = set.union(*flags.values()) | NO_VERB | peers_flags()

        def check(_, text):
            said = [(number, span) for number, line in pages.own_cells(text) for span in pages.spans(line)]
            for number, span in said:
                if re.match(r"bumblebee [a-z]", span):
                    self.assertEqual(unknown(span, flags), [], f"line {number}: {span}")
                for word in re.findall(r"^--?[a-zA-Z][a-zA-Z-]*", span):
                    self.assertTrue(is_flag(word, everywhere), f"line {number}: {word}")
            for block in pages.blocks(text):
                for line in block.text.replace("\\\n", " ").split("\n") if block.language == "sh" else []:
                    if re.search(r"(^|/| )bumblebee [a-z]", line):
                        self.assertEqual(unknown(line.replace("build/release/", ""), flags), [], f"block of line {block.line}: {line}")

        self.each(pages.user_pages(), check)


class Reading(unittest.TestCase):
    def test_blocks(self):
        (block, output) = pages.blocks("a\n```sh net\nls\n```\n```text\nx\n```\n")
        self.assertEqual((block.line, block.language, block.words, block.text), (2, "sh", ["net"], "ls\n"))
        self.assertEqual(output.text, "x\n")
        with self.assertRaises(ValueError):
            pages.blocks("```sh\nls\n")

    def test_tables_that_compare_show_only_their_own_column(self):
        table = "| theirs | bumblebee |\n|---|---|\n| `--x` | `--y` |\n\n`--z`"
        self.assertEqual([s for _, line in pages.own_cells(table) for s in pages.spans(line)], ["--y", "--z"])

    def test_unknown(self):
        flags = {"generate": {"-n", "--model"}}
        self.assertEqual(unknown("bumblebee generate --model X -n5 -1", flags), [])
        self.assertEqual(unknown("bumblebee generate --modle X", flags), ["--modle"])
        self.assertEqual(unknown("bumblebee genrate", flags), ["genrate"])
        self.assertEqual(unknown('bumblebee generate "--text" | head -c 5', flags), [])

    def test_outputs_are_compared(self):
        self.assertEqual(differences("a\nb 1 s\n", "a\nb 1 s\n", []), None)
        self.assertIn("b 2 s", differences("a\nb 1 s\n", "a\nb 2 s\n", []))
        self.assertEqual(differences("a\nb 1.5 s\n", "a\nb    120 ms\n", ["numbers"]), None)
        self.assertEqual(differences("took 4.2 s\n", "took 2 min\n", ["numbers"]), None)
        self.assertIsNotNone(differences("a\nb 1.5 s\n", "a\nc 1.5 s\n", ["numbers"]))
        self.assertEqual(differences("…\nb\n", "x\ny\nb\n", []), None)
        self.assertEqual(differences("a …/m\n", "a /home/m\n", []), None)
        self.assertIsNotNone(differences("a\n", "a\nb\n", []))
        self.assertIsNotNone(differences("x\n", "\n", ["sample"]))
        self.assertIsNotNone(differences("\n", "x\n", ["sample"]))


if __name__ == "__main__":
    unittest.main()
