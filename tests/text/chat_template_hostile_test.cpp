// Templates and requests from hostile hands: every one ends soon, with a named error or a bounded text, and takes
// bounded memory.
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/resource.h>

#include <functional>

#include "base/error.h"
#include "text/chat_template.h"

namespace bumblebee::txt {
namespace {

struct Hostile {
  const char* name;
  std::string source;
};

std::string repeat(std::string_view unit, int times) {
  std::string text;
  for (int i = 0; i < times; ++i) text += unit;
  return text;
}

long peak_kilobytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

/// Code of the error, or nothing where the template was harmless after all.
std::optional<ErrorCode> outcome(const std::string& source,
                                 std::string_view messages = R"([{"role":"user","content":"hi"}])") {
  try {
    const ChatTemplate chat = ChatTemplate::from_parts({{"default", source}}, {}, {"<s>"});
    chat.render(messages);
    return std::nullopt;
  } catch (const Error& error) {
    EXPECT_TRUE(std::string_view(error.what()).starts_with("[chat template")) << error.what();
    return error.code();
  }
}

class HostileTemplate : public ::testing::TestWithParam<Hostile> {};

TEST_P(HostileTemplate, GivesANamedErrorInBoundedMemory) {
  [[maybe_unused]] const long before = peak_kilobytes();
  const auto code = outcome(GetParam().source);
  ASSERT_TRUE(code.has_value()) << "rendered";
  EXPECT_TRUE(*code == ErrorCode::bad_request || *code == ErrorCode::bad_file);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(peak_kilobytes() - before, 160 << 10);
#endif
}

const Hostile kHostile[] = {
    {"NestedLoops",
     "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}x{% endfor %}{% endfor %}{% "
     "endfor %}"},
    {"EmptyNestedLoops", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"},
    {"RepeatedString", "{{ 'x' * 10**9 }}"},
    {"RepeatedStringTwice", "{% set a = 'x' * 99999999 %}{{ a * 99 }}"},
    {"RepeatedList", "{{ ([0] * 10**9) | length }}"},
    {"HugeRange", "{% for i in range(10**12) %}x{% endfor %}"},
    {"HugeRangeList", "{{ range(10**12) | list | length }}"},
    {"DoublingConcat",
     "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s "
     "}}"},
    {"DoublingPlus",
     "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s "
     "}}"},
    {"DoublingList",
     "{% set ns = namespace(s=[1]) %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s | list | "
     "length }}"},
    {"SharedListJson",
     "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson "
     "}}"},
    {"SharedListText",
     "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}"},
    {"SharedListString",
     "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | string "
     "| length }}"},
    {"SharedMapJson",
     "{% set ns = namespace(s={'a': 1}) %}{% for i in range(60) %}{% set ns.s = {'a': ns.s, 'b': ns.s} %}{% endfor "
     "%}{{ ns.s | tojson }}"},
    {"DeepListJson",
     "{% set ns = namespace(s=[]) %}{% for i in range(50000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s | tojson }}"},
    {"EndlessMacro", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"},
    {"MutualMacros", "{% macro f(x) %}{{ g(x) }}{% endmacro %}{% macro g(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"},
    {"CallerMacro",
     "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}{% endcall %}{% endmacro %}{{ "
     "g() }}"},
    {"RecursiveLoop", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"},
    {"GrowingReplace",
     "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(64) %}{% set ns.s = ns.s.replace('a', 'aaaaaaaa') %}{% "
     "endfor %}"},
    {"GrowingReplaceFilter",
     "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(64) %}{% set ns.s = ns.s | replace('a', 'aaaaaaaa') %}{% "
     "endfor %}"},
    {"ReplaceEmpty",
     "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(64) %}{% set ns.s = ns.s.replace('', ns.s) %}{% endfor "
     "%}"},
    {"BigJoin", "{% set s = 'x' * 1000000 %}{{ s.join(range(99999)) }}"},
    {"BigJoinFilter", "{% set s = 'x' * 1000000 %}{{ range(99999) | join(s) }}"},
    {"BigIndent", "{% set s = 'x\\n' * 100000 %}{{ s | indent(100000) }}"},
    {"BigIndentString", "{{ ('x\\n' * 100000) | indent('y' * 100000) }}"},
    {"JsonIndent", "{{ [1, 2] | tojson(indent=1000000000) }}"},
    {"JsonNegativeSeparators", "{{ [1, 2] | tojson(separators=1) }}"},
    {"FormatWidth", "{{ '%1000000000d' % 1 }}{{ '{:>1000000000}'.format(1) }}"},
    {"FormatFilter", "{{ '%1000000000d' | format(1) }}"},
    {"CenterFilter", "{{ 'x' | center(1000000000) }}"},
    {"BatchFill", "{{ [1] | batch(1000000000, 'x') | list | length }}"},
    {"SliceFill", "{{ [1] | slice(1000000000, 'x') | list | length }}"},
    {"SplitMany", "{% for i in range(1000) %}{% set x = ('a,' * 100000).split(',') %}{% endfor %}"},
    {"SortMany", "{% for i in range(1000) %}{% set x = range(90000) | sort | list %}{% endfor %}"},
    {"CaptureBlock",
     "{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = "
     "t %}{% endfor %}"},
    {"PowerTower", "{{ 9 ** 9 ** 9 ** 9 }}"},
    {"StrftimeWidth", "{{ strftime_now('%1000000000Y') }}"},
    {"StrftimeNul", "{{ strftime_now('a\\x00b') }}"},
    {"Include", "{% include '/etc/passwd' %}"},
    {"Import", "{% import 'os' as os %}{{ os }}"},
    {"Extends", "{% extends '/etc/passwd' %}"},
    {"ClassWalk", "{{ ''.__class__.__mro__[1].__subclasses__() }}"},
    {"GlobalsWalk", "{{ raise_exception.__globals__['os'].system('true') }}"},
    {"UnknownFilter", "{{ 'x' | magic }}"},
    {"UnknownFunction", "{{ magic() }}"},
    {"UnknownMethod", "{{ 'x'.magic() }}"},
    {"DivideByZero", "{{ 1 // 0 }}"},
    {"UnclosedTag", "{% for x in messages %}"},
    {"UnclosedString", "{{ 'abc }}"},
    {"UnknownTag", "{% magic %}"},
    {"LoneEnd", "{% endfor %}"},
    {"DeepParentheses", "{{ " + repeat("(", 100000) + "1" + repeat(")", 100000) + " }}"},
    {"DeepLists", "{{ " + repeat("[", 100000) + repeat("]", 100000) + " }}"},
    {"DeepIfs", repeat("{% if true %}", 20000) + repeat("{% endif %}", 20000)},
    {"DeepNots", "{{ " + repeat("not ", 100000) + "1 }}"},
    {"DeepMinus", "{{ " + repeat("-", 100000) + "1 }}"},
    {"DeepElifs", "{% if false %}" + repeat("{% elif false %}", 20000) + "{{ magic() }}{% endif %}{{ magic() }}"},
    {"LongSum", "{{ 1" + repeat(" + 1", 100000) + " + magic() }}"},
    {"LongAttributes", "{{ x" + repeat(".a", 100000) + " }}"},
    {"LongFilters", "{{ 'x'" + repeat("|upper", 100000) + "|magic }}"},
    {"LongTernary", "{{ 1" + repeat(" if x else 1", 50000) + " + magic() }}"},
    // Just under the limits: what is left must fit the stack.
    {"AllowedNots", "{{ " + repeat("not ", 4000) + "magic() }}"},
    {"AllowedMinus", "{{ " + repeat("-", 4000) + "magic() }}"},
    {"AllowedSum", "{{ magic()" + repeat(" + 1", 2000) + " }}"},
    {"AllowedElifs", "{% if magic() %}" + repeat("{% elif false %}", 4000) + "{% endif %}"},
    {"AllowedFilters", "{{ 'x'" + repeat("|upper", 2000) + "|magic }}"},
    {"SharedListSum",
     "{% set ns = namespace(s=[1]) %}{% for i in range(64) %}{% set ns.s = [ns.s, ns.s] | sum(start=[]) %}{% endfor "
     "%}"},
    {"DoublingTuple",
     "{% set ns = namespace(s=(1,)) %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}"},
    {"ComparedLists",
     "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, "
     "ns.b] %}"
     "{% endfor %}{{ ns.a == ns.b }}{{ ns.a in [ns.b] }}{{ magic() }}"},
    {"SharedKeys",
     "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ {ns.a: "
     "1}[ns.a] }}{{ magic() }}"},
    {"SharedFormat",
     "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ '%s' % ns.a "
     "}}{{ '{}'.format(ns.a) }}"},
    {"SharedJoin",
     "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a | "
     "join(',') }}"},
    {"SharedMethodJoin",
     "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ "
     "','.join(ns.a) }}"},
    {"SharedRaise",
     "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ "
     "raise_exception(ns.a) }}"},
    {"SharedUpper",
     "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a | upper "
     "}}"},
    {"SharedUnique",
     "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ [ns.a, ns.a] "
     "| unique | list }}"},
    {"SharedPprint",
     "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a | pprint "
     "}}"},
    {"SharedEscape",
     "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a | e }}"},
    {"RepeatedListJoin", "{{ (['xxxxxxxxxxxxxxxx'] * 99999999) | join }}"},
    {"RepeatedListTwice", "{{ (([0] * 99999999) * 99999999) | list }}"},
    {"RepeatedListLast",
     "{{ ([0] * 99999999) | last }}{{ ([0] * 99999999) | reverse | first }}{{ ([0] * 99999999)[::-1] | list }}"},
    {"RepeatedListIn", "{% for i in range(9999) %}{{ 1 in [0] * 99999999 }}{% endfor %}"},
    {"DebugFunction", "{% set x = 'y' * 10000000 %}{% for i in range(100) %}{{ debug() }}{% endfor %}"},
    {"NamespaceOfItself", "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns | upper }}"},
    {"NamespaceInAList", "{% set l = [namespace()] %}{% for n in l %}{% set n.a = l %}{% endfor %}{{ l | upper }}"},
    {"NamespaceAlias", "{% set f = namespace %}{% set n = f() %}{% set n.a = n %}{{ n | upper }}"},
    {"NamespaceInAMap", "{% set m = {'n': namespace()} %}{% set n = m.n %}{% set n.a = m %}{{ m | upper }}"},
    {"NamespaceByMacro", "{% macro f(n) %}{% set n.a = n %}{{ n | upper }}{% endmacro %}{{ f(namespace()) }}"},
    {"MappedDefaults",
     "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = [x, x] | map('default', ns.a) | list %}{% "
     "endfor %}"
     "{{ ns.a | upper }}"},
    {"BatchedDoubles",
     "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = (ns.a * 2) | batch(2) | list %}{% endfor %}"
     "{{ ns.a | upper }}"},
    {"DictDoubles",
     "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = dict(a=ns.a, b=ns.a) %}{% endfor %}{{ ns.a "
     "| upper }}"},
    {"RepeatedBigString", "{{ (['x' * 100000] * 10000) | upper }}"},
    {"HugeSource", repeat("x", (1 << 20) + 1)},
    {"NotUtf8", "\xFF\xFE{{ x }}"},
};

INSTANTIATE_TEST_SUITE_P(Templates, HostileTemplate, ::testing::ValuesIn(kHostile),
                         [](const auto& test_info) { return std::string(test_info.param.name); });

TEST(HostileRequest, BrokenMessagesAreNamed) {
  for (const std::string& messages :
       {std::string(), std::string("{"), std::string("{}"), std::string("[1]"), std::string("[null]"),
        std::string("\"x\""), std::string("[{\"role\": \"\xFF\"}]"), repeat("[", 100000),
        "[{\"a\":" + repeat("[", 100) + repeat("]", 100) + "}]"}) {
    const auto code = outcome("{{ messages | length }}", messages);
    if (messages.empty()) {
      EXPECT_EQ(code, ErrorCode::bad_request) << "no messages at all";
      continue;
    }
    EXPECT_EQ(code, ErrorCode::bad_request) << messages.substr(0, 40);
  }
}

TEST(HostileRequest, BudgetsAreThoseThatWereGiven) {
  const std::string messages = R"([{"role":"user","content":")" + repeat("x", 5000) + "\"}]";
  const auto render = [&](const TemplateLimits& limits) {
    return ChatTemplate::from_parts({{"default", "{{ messages[0].content }}"}}, {}, {}, limits)
        .render(messages)
        .text.size();
  };
  EXPECT_EQ(render({}), 5000u);
  EXPECT_THROW(render({.input_bytes = 1000}), Error);
  EXPECT_THROW(render({.output_bytes = 1000}), Error);
  EXPECT_THROW(render({.source_bytes = 10}), Error);
}

TEST(HostileRequest, LongConversationsFitTheBudget) {
  std::string messages = "[";
  for (int i = 0; i < 5000; ++i)
    messages +=
        std::string(i == 0 ? "" : ",") + R"({"role":"user","content":"some words of a message, as people write them"})";
  messages += "]";
  const char* source =
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content.strip() + '<|im_end|>\\n' }}{% endfor %}";
  EXPECT_GT(ChatTemplate::from_parts({{"default", source}}, {}, {"<|im_start|>"}).render(messages).text.size(),
            5000u * 60);
}

TEST(HostileTemplateStack, SmallCallerStackIsEnough) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 256 << 10);
  pthread_t thread;
  std::function<void()> work = [] {
    for (const Hostile& hostile : kHostile) {
      if (std::string_view(hostile.name).starts_with("Deep")) {
        EXPECT_TRUE(outcome(hostile.source).has_value());
      }
    }
  };
  const auto run = [](void* raw) -> void* {
    (*static_cast<std::function<void()>*>(raw))();
    return nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &attributes, run, &work), 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

}  // namespace
}  // namespace bumblebee::txt
