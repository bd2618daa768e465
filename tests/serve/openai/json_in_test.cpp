// Bodies that are no JSON, or not such as a server should read.
#include "serve/openai/json_in.h"

#include <gtest/gtest.h>

#include "tests/serve/openai/support.h"

namespace bumblebee::serve {
namespace {

std::string body_refusal(const std::string& body) {
  return refusal([&] { read_body(body); });
}

TEST(ReadBody, RefusesWhatIsNoJson) {
  const auto invalid = [](const std::string& body) {
    const std::string said = body_refusal(body);
    EXPECT_TRUE(said.starts_with("400 invalid_json -: invalid JSON at byte ")) << body.substr(0, 80) << " -> " << said;
  };
  for (const char* body : {"",
                           " ",
                           "{",
                           "{} {}",
                           "{},",
                           "{\"a\": }",
                           "{\"a\": 1,}",
                           "{'a': 1}",
                           "{\"a\": NaN}",
                           "{\"a\": Infinity}",
                           "{\"a\": -Infinity}",
                           "{\"a\": 01}",
                           "{\"a\": +1}",
                           "{\"a\": 1e400}",
                           "{\"a\": -1e400}",
                           "{\"a\": .5}",
                           "{\"a\": \"\x01\"}",
                           "{\"a\": /* */ 1}",
                           "{\"a\": \"\\ud800\"}",
                           "{\"a\": \"\\udc00\"}",
                           "{\"a\": \"\\ud800\\u0041\"}",
                           "{\"a\": \"\\udc00\\ud800\"}",
                           "{\"a\": \"\xFF\"}",
                           "{\"a\": \"\xC0\x80\"}",
                           "{\"a\": \"\xED\xA0\x80\"}",
                           "{\"a\": \"\xE2\x82\"}",
                           "{\"\xFF\": 1}",
                           "\xEF\xBB\xBF{}"}) {
    invalid(body);
  }
  invalid(std::string("{}\0", 3));
  invalid(std::string("{\"a\": \"x\0\"}", 12));
  invalid("\xFE\xFF{}");
}

TEST(ReadBody, WantsAnObject) {
  EXPECT_EQ(body_refusal("[]"), "400 invalid_type -: expected a JSON object as the body, got an array");
  EXPECT_EQ(body_refusal("null"), "400 invalid_type -: expected a JSON object as the body, got null");
  EXPECT_EQ(body_refusal("1"), "400 invalid_type -: expected a JSON object as the body, got a number");
}

TEST(ReadBody, NamesTheKeyThatIsThereTwice) {
  EXPECT_EQ(body_refusal(R"({"n": 1, "m": 2, "n": 1})"),
            "400 invalid_json n: n: expected every key once in an object, got it twice");
  EXPECT_EQ(
      body_refusal(R"({"messages": [{"role": "user"}, {"content": "a", "role": "b", "content": "c"}]})"),
      "400 invalid_json messages[1].content: messages[1].content: expected every key once in an object, got it twice");
  EXPECT_EQ(body_refusal(R"({"a": {"b": 1, "b": 2}})"),
            "400 invalid_json a.b: a.b: expected every key once in an object, got it twice");
  EXPECT_EQ(body_refusal(R"({"a": 1, "\u0061": 2})"),
            "400 invalid_json a: a: expected every key once in an object, got it twice");
}

TEST(ReadBody, HasLimits) {
  const auto nested = [](int levels) {  // the body is one of them
    return "{\"a\":" + std::string(size_t(levels - 1), '[') + std::string(size_t(levels - 1), ']') + "}";
  };
  EXPECT_EQ(body_refusal(nested(64)), "");
  EXPECT_EQ(body_refusal(nested(65)), "400 invalid_json -: expected JSON of at most 64 levels");
  EXPECT_EQ(body_refusal("{\"a\":" + std::string(1'000'000, '[')),
            "400 invalid_json -: expected JSON of at most 64 levels");

  std::string large = "{\"a\": \"";
  large.resize((size_t{8} << 20) - 2, 'x');
  EXPECT_EQ(body_refusal(large + "\"}"), "");
  EXPECT_EQ(body_refusal(large + "x\"}"),
            "413 body_too_large -: expected a body of at most 8388608 bytes, got 8388609");

  std::string ones = "{\"a\": [1";
  for (int i = 0; i < 999'997; ++i) ones += ",1";
  EXPECT_EQ(body_refusal(ones + "]}"), "");
  EXPECT_EQ(body_refusal(ones + ",1]}"), "400 invalid_json -: expected at most 1000000 values");

  std::string keys = "{\"a\": 0";
  for (int i = 1; i < 4096; ++i) keys += cat(",\"k", i, "\": 0");
  EXPECT_EQ(body_refusal(keys + "}"), "");
  EXPECT_EQ(body_refusal(keys + ",\"b\": 0}"), "400 invalid_json -: expected at most 4096 keys in an object");
}

TEST(ReadBody, KeepsOrderAndText) {
  const OrderedJson body = read_body("  {\"z\": 1, \"a\": {\"y\": [], \"b\": \"\\ud83d\\ude00\\u00e9\"}}\n");
  EXPECT_EQ(body.dump(), "{\"z\":1,\"a\":{\"y\":[],\"b\":\"\xF0\x9F\x98\x80\xC3\xA9\"}}");
}

TEST(JsonIn, ReadsWholeNumbersOnly) {
  const auto read = [](const std::string& value) {
    const OrderedJson body = read_body("{\"list\": [{\"n\": " + value + "}]}");
    const JsonIn whole(body);
    const JsonIn list = whole["list"];
    const JsonIn first = list.at(0);
    return first["n"].integer(-5, 10);
  };
  EXPECT_EQ(read("10"), 10);
  EXPECT_EQ(read("-5"), -5);
  EXPECT_EQ(read("-0"), 0);
  EXPECT_EQ(read("3.0"), 3);
  EXPECT_EQ(read("1e1"), 10);
  for (const char* value : {"\"1\"", "true", "[1]", "{}", "null"}) {
    EXPECT_EQ(refusal([&] { read(value); }).substr(0, 29), "400 invalid_type list[0].n: l") << value;
  }
  for (const char* value :
       {"1.5", "11", "-6", "9223372036854775808", "-9223372036854775809", "18446744073709551616", "1e300", "1e16"}) {
    EXPECT_EQ(refusal([&] { read(value); }).substr(0, 30), "400 invalid_value list[0].n: l") << value;
  }
  EXPECT_EQ(refusal([&] { read("1.5"); }),
            "400 invalid_value list[0].n: list[0].n: expected a whole number from -5 to 10, got 1.5");
}

TEST(JsonIn, ShowsNoMoreThanALine) {
  const OrderedJson body = read_body("{\"a\": \"" + std::string(1 << 20, 'x') + "\", \"b\": [1, 2], \"" +
                                     std::string(1 << 20, 'k') + "\": 1}");
  EXPECT_EQ(refusal([&] { JsonIn(body)["a"].boolean(); }),
            "400 invalid_type a: a: expected true or false, got a string of 1048576 bytes");
  EXPECT_EQ(refusal([&] { JsonIn(body)["b"].boolean(); }),
            "400 invalid_type b: b: expected true or false, got an array of 2");
  EXPECT_EQ(JsonIn(body).member(std::string(1 << 20, 'k'), body["b"]).path(), std::string(64, 'k'));
}

}  // namespace
}  // namespace bumblebee::serve
