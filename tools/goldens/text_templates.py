"""Golden renderings of chat templates by jinja2 as transformers sets it up, for tests/text/chat_template_golden_test.cpp.

    python tools/goldens/text_templates.py --templates tests/data/text/templates --out tests/data/text/rendered
    python tools/goldens/text_templates.py --tokenizers DIR --out tests/data/text/rendered_fetched

Renders every NAME.jinja, or the template of every NAME/tokenizer_config.json that has one, with every conversation of tests/data/text/conversations.json and writes NAME.json: {conversation: text}, with
{"error": true} where the template refuses. Needs `transformers` and `jinja2`.
"""
import argparse
import datetime
import json
import pathlib

import transformers.utils.chat_template_utils as chat_templates

HERE = pathlib.Path(__file__).resolve().parent
CONVERSATIONS = HERE.parents[1] / "tests/data/text/conversations.json"
NOW = 1768478400  # 2026-01-15 12:00 UTC: the same date in most places


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW)


def render(source, case, named_tokens):
    try:
        rendered, _ = chat_templates.render_jinja_template(
            conversations=[case["messages"]], tools=case.get("tools"), chat_template=source,
            add_generation_prompt=case.get("add_generation_prompt", True), **{**named_tokens, **case.get("kwargs", {})})
        return rendered[0]
    except Exception as refused:  # whatever stops jinja2 must stop us
        return {"error": f"{type(refused).__name__}: {refused}"[:80]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--templates", type=pathlib.Path)
    parser.add_argument("--tokenizers", type=pathlib.Path, help="what tools/fetch_tokenizers.sh fetched")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    chat_templates.datetime = FixedClock
    conversations = json.loads(CONVERSATIONS.read_text())
    args.out.mkdir(parents=True, exist_ok=True)
    sources = {path.stem: path.read_text() for path in sorted(args.templates.glob("*.jinja"))} if args.templates else {}
    for path in sorted(args.tokenizers.glob("*/tokenizer_config.json")) if args.tokenizers else []:
        source = json.loads(path.read_text()).get("chat_template")
        if isinstance(source, str):
            sources[path.parent.name] = source
    for name, source in sources.items():
        result = {case["name"]: render(source, case, conversations["named_tokens"]) for case in conversations["cases"]}
        (args.out / f"{name}.json").write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
