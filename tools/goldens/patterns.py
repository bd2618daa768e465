"""Makes tests/data/goldens/patterns.json: what Python's re says of patterns for names of modules, as PEFT asks it (re.fullmatch).

Run with Python 3.11 or newer: python tools/goldens/patterns.py
`matters` are lists of names with [pattern, a digit per name: whether it matches]; the other lists are of single patterns. Beside written
patterns there are random ones, from a grammar of what patterns are made of.
"""
import argparse
import json
import random
import re
import warnings
from pathlib import Path

OUT = Path(__file__).resolve().parents[2] / "tests" / "data" / "goldens" / "patterns.json"

MODULES = [
    "", "lm_head", "model.embed_tokens", "model.norm", "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj",
    "model.layers.1.mlp.down_proj", "model.layers.11.self_attn.v_proj", "model.layers.11.mlp.experts.7.gate_proj",
    "model.language_model.layers.23.mlp.up_proj", "model.vision_tower.blocks.3.attn.qkv", "model.visual.blocks.3.attn.proj",
    "Model.Layers.0.Q_Proj", "q_proj", "xq_proj",
]

# What configs of published adapters and PEFT's own documentation have.
OF_CONFIGS = [
    r".*", r".*_proj", r".*\.q_proj", r".*\.(q|k|v)_proj", r"^(?!.*lm_head).*proj$", r"(?!.*vision).*_proj", r"^(?!.*(vision|visual)).*(q|v)_proj$",
    r"^(?:(?!vision).)*proj$", r".*(?<!x)q_proj", r".*(?<=mlp\.)(?:up|down)_proj", r"model\.layers\.\d+\.self_attn\..*",
    r"model\.layers\.(1[0-9]|2[0-3])\..*", r".*layers\.(?:[0-9]|1[01])\.mlp\.(?:gate|up|down)_proj", r".*\.experts\.\d+\.(gate|up)_proj",
    r"(?i).*\.q_proj", r"(?i:model)\.layers\.0\.q_proj", r"model\.language_model\..*(?:proj)$", r".*\.layers\.\d{1,2}\.(self_attn|mlp)\.\w+",
    r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|k_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention)\.(?:(?:q_proj|k_proj)))",
    r"(?:.*?(?:vision|image|visual|patch|language|text).*?(?:attn|mlp).*?(?:qkv|proj|up_proj).*?)", r"(.*\.)?(q_proj)$", r"(.*\.)?(layers.0.self_attn.q_proj)$",
    r"(.*\.)?(.*\.1\..*)$", r"(.*\.)?(mlp|self_attn)\..*$", r"(.*\.)?((\w)_proj)$", r"(?P<part>self_attn|mlp)", r".*\.(?P<part>self_attn|mlp)\.(?P<last>\w+)",
    r"^model\.layers\.[^.]+\.mlp\.[^.]+$", r"(?=.*mlp).*down.*", r"(?=.*mlp)(?!.*experts).*", r".*[qk]_proj\Z", r"\Alm_head\Z", r"lm_head|.*norm", r"",
]

# (patterns, names): one matter a line.
MATTERS = [
    (["", "a|", "|a", "()", "(|a)", "(?:)", "a||b"], ["", "a", "b"]),
    (["(?:=a)", "(?:<a)", "(?:!a)", "(?!=a)=?", "(?==a)=a", "(?>=a)", "(?>!a)", "(?#<note)a"], ["", "a", "=a", "<a", "!a"]),
    (["a*", "a+", "a?", "a*?", "a+?", "a??", "ab*", "(ab)*", "(?:ab)+?", "a{2}", "a{2,}", "a{,2}", "a{1,2}", "a{,}", "a{0}", "a{2}?", "(a|b){2,3}",
      "(a*)*b", "(a*)+", "(?:a?){3}", "(a|a)*c"], ["", "a", "aa", "aaa", "ab", "abab", "ababa", "abbb", "aab", "b", "c"]),
    (["a{x}", "a{}", "a{", "a{1", "a{1,", "a{,x}", "{", "{}", "a{ 1}", "a{1}}", "{1,x}", "a{-1}", "x{1}{"],
     ["a{x}", "a{}", "a{", "a{1", "a{1,", "a{,x}", "{", "{}", "a{ 1}", "a", "a}", "{1,x}", "a{-1}", "x{", "aa"]),
    (["a*+", "a++b", "a?+a", "(?:ab)*+a", "[ab]*+b", "(?>a*)a", "(?>a|ab)c", "(?>ab|a)c"], ["", "a", "aa", "ab", "aab", "aba", "abb", "ac", "abc"]),
    (["a.c", "a\\.c", "a[.]c", "(?s)a.c", "(?s:a.)c", "a[^.]c"], ["abc", "a.c", "a c", "aéc", "ac"]),
    (["[a-c]+", "[^a-c]+", "[]a]+", "[^]a]+", "[a-]+", "[-a]+", "[a\\-c]+", "[\\d_]+", "[\\w.]+", "[^\\W\\d]+", "[\\s\\S]", "[a&&b]+", "[a||b]+",
      "[a~~b]+", "[[a]+", "[[:alpha:]]+", "[a[b]]", "[\\]]", "[\\\\]", "[\\[-\\]]+", "[^^]", "[$^.*+?(){}|]+", "[\\b]", "[\\x61-c]+", "[a-\\x63]+", "[\\101]",
      "[\\0]", "[#-&]+", "[ -~]+", "[é-ü]+", "[^\\d]+", "[\\D]+", "[+--]+", "[!-]+"],
     ["a", "abcabc", "xyz", "xbz", "]a", "a-a", "1_2", "a.b", "-", "&", "a&b", "|", "~", "[a", ":]", "alpha:]", "b]", "a]", "[b]", "\\", "]", "[", "[]", "^", "$^.*+?(){}|",
      "\x08", "A", "\x00", "#%", "é", "ü", "+,-", "!", "5", " "]),
    (["\\d+", "\\D+", "\\w+", "\\W+", "\\s", "\\S+", "\\x61", "\\u0061", "\\U00000061", "\\141", "\\01", "\\0", "\\a", "\\f", "\\v", "\\t", "\\r", "\\.", "\\-", "\\_", "\\ ", "\\é",
      "\\<", "\\>", "\\'", "\\`", "\\#", "\\&", "\\~", "\\/", "\\@", "\\%", "\\\"", "\\,", "\\{2\\}", "\\\\"],
     ["a", "1", "12", "٣", "é", "ß", "中", "²", "_", "-", ".", " ", "\t", "\x0b", "\x0c", "\r", "\x07", "\x00", "\x01", "\x1c", "\x85", "\xa0", "<", ">", "'", "`", "#", "&", "~", "/", "@", "%",
      "\"", ",", "{2}", "\\", "ab", "a1_"]),
    (["^a$", "a^b", "a$b", "^^a", "a$$", "(^a|b$)", "x*^a", "a\\b\\.b", "a\\bb", "a\\Bb", "\\ba\\b", "\\Aa\\Z", "(?:^|\\.)a", "\\b.*\\b", ".*\\bproj", "é\\b.", ".\\Bé"],
     ["a", "b", "ab", "a.b", ".a", "a-b", "q.proj", "q_proj", "é.", "éé", "aé"]),
    (["(?=a)a", "(?=b)a", "(?!a).", "(?!b)a", "a(?=b).", "a(?!b).", "(?=.*c)(?!.*b).*", "(?!)", "(?!)a|b", "(?=)a", "(?=(a+))\\1b", "(?!(a)b)a.", "((?!b).)*", "(?:(?!ab).)*",
      "(?=(?!b).)a"], ["", "a", "b", "ab", "ac", "aab", "cab", "aac", "c"]),
    (["(?<=a)b", ".(?<=a)b", ".(?<!a)b", "a(?<=a)", ".*(?<!_norm)", ".*(?<=x|y)", "(?<!a)b", "..(?<=ab)c", ".*(?<=[a-c]{2})d", ".*(?<=\\.)\\w+", "(?<=^)a", "(?<!^)a", ".(?<=(a))b", ".*(?<=é)b"],
     ["a", "b", "ab", "xb", "abc", "xbc", "q_norm", "norm", "x", "ax", "abd", "axd", "m.q", "éb", "eb"]),
    (["(a)\\1", "(a|b)\\1", "(a*)b\\1", "(?P<n>a|b)(?P=n)", "(?P<n>a|b)\\1", "(a)(b)\\2\\1", "(a)?\\1b", "(?:(a)|b)\\1", "(?i)(a)\\1", "(a)\\1+", "(a)\\1{2}", "(a)(?#x)\\1", "(.)(.)(.)(.)(.)(.)(.)(.)(.)(.)\\10",
      "(a)\\062"], ["", "a", "b", "aa", "bb", "ab", "aba", "abba", "aaa", "aA", "Aa", "abcdefghijj", "abcdefghija0", "aa2", "a2", "aab"]),
    (["(?i)AB", "(?i)[a-b]+", "(?i:a)b", "a(?i:b)", "(?i)a(?-i:b)", "(?i)é", "(?i)[^a]", "(?i)k", "(?i)ß", "(?si)a.", "(?i)(?s)a.", "(?u)a", "(?iu)a", "(?ii)a", "(?#c)(?i)a", "(?s-i:a.)", "(?i:a(?-i:b)c)"],
     ["ab", "AB", "aB", "Ab", "a", "A", "É", "é", "K", "K", "ß", "ẞ", "ss", "ax", "abc", "ABC", "AbC"]),
    (["a(?#a comment)b", "(?#)a", "a(?#x)*", "a*(?#x)b", "a # b", "a  b", "(?P<_1>a)", "(?P<é>a)", "(?:a)(?:b)", "((((a))))", "(a)|(b)", "(a|(b|(c)))", "~a", "a-b", "a/b", "a,b", "a:b", "a=b", "a!b", "a<b>", "a'b", "a\"b",
      "a@b", "a#b", "a%b", "a&b", "]", "}", "a]"],
     ["a", "b", "c", "ab", "aab", "a # b", "a  b", "~a", "a-b", "a/b", "a,b", "a:b", "a=b", "a!b", "a<b>", "a'b", "a\"b", "a@b", "a#b", "a%b", "a&b", "]", "}", "a]"]),
]

MALFORMED = [
    "(a", "a)", "((a)", "[a", "[", "[]", "[^]", "[a-", "[b-a]", "[a--b]", "(a)\\12", "[a-\\d]", "[\\d-a]", "[\\w-\\d]", "*a", "+", "?", "a|*", "(*a)", "(?:+)", "^*", "$+", "\\b?", "a**", "a+*", "a???", "a{2}{3}", "a{2}*", "a*+*", "{2}", "({2})",
    "a{3,2}", "a\\", "[\\", "\\y", "\\e", "\\h", "\\K", "\\G", "\\z", "\\R", "\\X", "\\p{L}", "\\Q", "\\c", "\\x1", "\\x", "\\xg0", "\\u123", "\\U0000006", "\\U99999999", "\\400", "[\\400]", "[\\8]", "[\\y]", "[\\B]", "[\\A]", "\\1",
    "(a)\\2", "\\9", "(?P=n)", "(?P<n>a)(?P=m)", "(?P<n>a)(?P<n>b)", "(?P<1>a)", "(?P<>a)", "(?P<n", "(?P<a b>c)", "(?P>n)", "(?Pn)", "(?<n>a)", "(?<a", "(?'n'a)", "(?", "(?:", "(?=", "(?#", "(?#a", "(?z)", "(?i", "(?i-", "(?-i)",
    "(?i-:a)", "(?-:a)", "(?i-i:a)", "a(?i)b", "(a(?i)b)", "|(?i)a", "(?L)a", "(?<=a*)b", "(?<=a+)b", "(?<=a{1,2})b", "(?<!a?)b", "(?|a)", "(?&n)", "(?+1)", "(?1)", "(?R)", "(?~a)", "(?^:a)", "(?~|a|b)", "(?*)", "(?{a})",
]

# Taken by re and refused by ours, by name.
REFUSED = ["(?=a)*a", "(?!b)+a", "(?:)?", "(a)?(?(1)b|c)", "(?P<n>a)?(?(n)b)", "a{1,2}+", "(?m)^a$", "(?x) a", "(?a)\\w", "(?x: a)", "\\N{EM DASH}", "[\\N{EM DASH}]", "a{1001}", "((a{100}){100}){100}", "(" * 100 + "a" + ")" * 100]
# Refused by re and taken by ours: each has one meaning only.
TAKEN = ["(?<=a|bc)d", "(\\1)"]

ATOMS = ["a", "b", "c", ".", "[ab]", "[^a]", "\\w", "\\.", "ab", "\\b", "^", "$"]


def takes_any(pattern):
    """Whether it can match more than nothing: the repetition of anything else is refused."""
    return re._parser.parse(f"(){pattern}").getwidth()[1] > 0


def random_pattern(dice, depth=0):
    branches = []
    for _ in range(1 if dice.random() < 0.7 else 2):
        out = ""
        for _ in range(dice.randint(0 if depth else 1, 3)):
            kind, repeatable = dice.random(), True
            if depth < 3 and kind < 0.4:
                inside = random_pattern(dice, depth + 1)
                group = dice.choice(["(", "(?:", "(?:", "(?=", "(?!", "(?>"])
                out += group + inside + ")"
                repeatable = group not in ("(?=", "(?!") and takes_any(inside)
            elif depth < 3 and kind < 0.45:
                out += dice.choice(["(?<=", "(?<!"]) + dice.choice(["a", "[ab]", "ab", "."]) + ")"
                repeatable = False
            elif kind < 0.5:
                out += "\\1"
            else:
                atom = dice.choice(ATOMS)
                out += atom
                repeatable = atom not in ("^", "$", "\\b")
            if repeatable and dice.random() < 0.35:
                out += dice.choice(["*", "+", "?", "*?", "+?", "{2}", "{1,2}", "*+", "{0,1}?"])
        branches.append(out)
    return "|".join(branches)


def compiled(pattern):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return re.compile(pattern)
        except (re.error, OverflowError):
            return None


def matter(patterns, names):
    return {"names": names, "patterns": [[p, "".join(str(int(compiled(p).fullmatch(n) is not None)) for n in names)] for p in patterns]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    for pattern in MALFORMED + TAKEN:
        assert compiled(pattern) is None, pattern
    for pattern in REFUSED:
        assert compiled(pattern) is not None, pattern
    dice = random.Random(11)
    drawn = [p for p in (random_pattern(dice) for _ in range(1200)) if compiled(p)]
    matters = [matter(OF_CONFIGS, MODULES), *(matter(*m) for m in MATTERS), matter(drawn, ["", "a", "ab", "aab", "abc", "a.b", "bca", "aabb.c"])]
    groups = {"matters": matters, "malformed": MALFORMED, "refused": REFUSED, "taken": TAKEN}
    text = ",\n".join(f'"{name}": [\n' + ",\n".join(map(json.dumps, group)) + "\n]" for name, group in groups.items())
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("{\n" + text + "\n}\n")
    print(f"{sum(len(m['patterns']) for m in matters)} patterns, {sum(len(m['patterns']) * len(m['names']) for m in matters)} answers, "
          f"{len(MALFORMED)} malformed")


if __name__ == "__main__":
    main()
