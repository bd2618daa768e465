// Hostile JSON is refused with a position or a name; typed access names where, key, expectation and finding.
#include "base/json.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"

namespace bumblebee {
namespace {

/// The text of the Error that `body` throws with `code`; a test failure when it does not.
template <class F>
std::string error_of(ErrorCode code, F body) {
  try {
    body();
  } catch (const Error& e) {
    EXPECT_EQ(to_string(e.code()), to_string(code)) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

std::string parse_error(std::string_view text, const JsonLimits& limits = {}) {
  return error_of(ErrorCode::bad_file, [&] { parse_json(text, "config.json", limits); });
}

TEST(ParseJson, ReadsValues) {
  const Json json = parse_json(R"( {"a": [1, -2, 3.5, true, null, "é\n"], "b": {}} )", "x");
  EXPECT_EQ(json["a"].size(), 6u);
  EXPECT_EQ(json["a"][1], -2);
  EXPECT_EQ(json["a"][5], "é\n");
  EXPECT_TRUE(json["b"].is_object());
}

TEST(ParseJson, OrderedKeepsTheOrderOfKeys) {
  const OrderedJson json = parse_ordered_json(R"({"z": 1, "a": 2, "m": 3})", "x");
  EXPECT_EQ(json.dump(), R"({"z":1,"a":2,"m":3})");
}

TEST(ParseJson, NamesFileAndPosition) {
  EXPECT_EQ(parse_error("{\"a\": 1,}").find("[config.json] invalid JSON at byte 9: "), 0u)
      << parse_error("{\"a\": 1,}");
  EXPECT_NE(parse_error("").find("invalid JSON at byte 1"), std::string::npos) << parse_error("");
}

TEST(ParseJson, RefusesWhatIsNotJson) {
  for (const std::string text :
       {"{", "[1, 2", "{\"a\" 1}", "nul", "'a'", "[01]", "[1.]", "[+1]", "[nan]", "[inf]", "[+Infinity]", "[NaNs]",
        "\"\x01\"", "\"\\x\"", "\"\\ud800\"", "\"\xff\"", "// comment\n1", "{a: 1}"}) {
    EXPECT_NE(parse_error(text), "") << text;
  }
}

TEST(ParseJson, RefusesTextAfterTheValue) {
  EXPECT_NE(parse_error("{} {}").find("invalid JSON at byte"), std::string::npos);
  EXPECT_NE(parse_error("1 x"), "");
  EXPECT_EQ(parse_error(std::string_view("{}\0 junk", 8)),
            "[config.json] invalid JSON at byte 3: unexpected zero byte");
}

/// As in Python; a remark names them, or the caller hears of it.
TEST(ParseJson, OfAKeyThatIsThereTwiceTheLastValueCounts) {
  std::vector<std::string> notes;
  set_log_sink([&](LogLevel, std::string_view line) { notes.emplace_back(line); }, LogLevel::warning);
  EXPECT_EQ(parse_json(R"({"a": 1, "b": 2, "a": 3})", "x.json")["a"], 3);
  EXPECT_EQ(parse_json(R"({"a": {"k": 1}, "\u0061": [2]})", "x.json")["a"], Json::array({2}));
  EXPECT_EQ(parse_ordered_json(R"({"a": 1, "b": 2, "a": {"c": 3}})", "x.json").dump(), R"({"a":{"c":3},"b":2})");
  ASSERT_EQ(notes.size(), 3u);
  EXPECT_EQ(notes[0], "[x.json] more than once in an object, the last value counts: 'a'");
  bool repeated = false;
  parse_json(R"([{"x": {"k": 1, "k": 1}}])", "x.json", {.repeated = &repeated});
  EXPECT_TRUE(repeated);
  repeated = false;
  parse_json(R"([{"a": 1}, {"a": 2}, {"b": {"a": 3}}])", "x", {.repeated = &repeated});
  EXPECT_FALSE(repeated) << "the same key in different objects";
  EXPECT_EQ(notes.size(), 3u);
  set_log_sink({});
}

/// Python writes and reads these; here they are no numbers, so that nothing is computed with them.
TEST(ParseJson, TakesWhatPythonWritesForNumbersThatAreNone) {
  const Json json =
      parse_json(R"({"a": NaN, "b": [Infinity, -Infinity, 1e999, -1e999, 1], "c": "NaN, \"Infinity", "NaN": 2})", "x");
  EXPECT_EQ(json["a"].dump(), R"({"__float__":"NaN"})");
  EXPECT_EQ(
      json["b"].dump(),
      R"([{"__float__":"Infinity"},{"__float__":"-Infinity"},{"__float__":"Infinity"},{"__float__":"-Infinity"},1])");
  EXPECT_EQ(json["c"], "NaN, \"Infinity");
  EXPECT_EQ(json["NaN"], 2);
  EXPECT_NE(error_of(ErrorCode::bad_config, [&] { number_or(json, "a", "x", 1); }).find("a finite number"),
            std::string::npos);
  const std::string broken = parse_error("{\"a\": NaN, ]");
  EXPECT_NE(broken.find("invalid JSON"), std::string::npos) << broken;
  EXPECT_EQ(broken.find("at byte"), std::string::npos) << "the place is none of the file's: " << broken;
  EXPECT_EQ(broken.find("__float__"), std::string::npos) << broken;
  EXPECT_NE(parse_error("[NaN]", {.finite = true}).find("invalid JSON at byte 2"), std::string::npos);
}

TEST(ParseJson, SaysWhatLiesThereInPlaceOfTheFile) {
  EXPECT_NE(parse_error("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 2471645608\n")
                .find("a Git LFS pointer, not the file itself (2.47 GB)"),
            std::string::npos);
  EXPECT_NE(parse_error("\n<!DOCTYPE html>\n<html>").find("an HTML page"), std::string::npos);
  EXPECT_NE(parse_error("<html lang=en>").find("an HTML page"), std::string::npos);
  EXPECT_NE(parse_error("Entry not found").find("the Hub's answer 'Entry not found'"), std::string::npos);
  EXPECT_NE(parse_error("version 1").find("invalid JSON"), std::string::npos);
}

TEST(ParseJson, BoundsDepth) {
  const auto nested = [](int depth, char open, char close) {
    return std::string(size_t(depth), open) + std::string(size_t(depth), close);
  };
  EXPECT_NO_THROW(parse_json(nested(64, '[', ']'), "x"));
  EXPECT_EQ(parse_error(nested(65, '[', ']')), "[config.json] JSON nested too deeply: expected at most 64 levels");
  EXPECT_NE(parse_error(std::string(10'000'000, '[')).find("nested too deeply"),
            std::string::npos);  // costs neither stack nor memory
  std::string objects;
  for (int i = 0; i < 3; ++i) objects += "{\"a\":";
  EXPECT_NE(parse_error(objects + "1}}}", {.bytes = 100, .depth = 2}).find("at most 2 levels"), std::string::npos);
}

TEST(ParseJson, BoundsSize) {
  EXPECT_NO_THROW(parse_json("[1, 2]", "x", {.bytes = 6, .depth = 4}));
  EXPECT_EQ(parse_error("[1, 2] ", {.bytes = 6, .depth = 4}),
            "[config.json] JSON too large: expected at most 6 bytes, got 7");
}

TEST(RequireInt, TakesIntegersInRange) {
  const Json json = parse_json(R"({"n": 7, "whole": 8192.0, "low": -3})", "x");
  EXPECT_EQ(require_int(json, "n", "x", 1, 7), 7);
  EXPECT_EQ(require_int(json, "whole", "x", 1, 10000), 8192);
  EXPECT_EQ(require_int(json, "low", "x", -3, 3), -3);
}

TEST(RequireInt, NamesWhatIsWrong) {
  const Json json = parse_json(
      R"({"n": 7, "s": "7", "f": 7.5, "b": true, "huge": 18446744073709551615, "null": null, "big": 1e300})", "x");
  const auto error = [&](const char* key) {
    return error_of(ErrorCode::bad_config, [&] { require_int(json, key, "c.json", 1, 6); });
  };
  EXPECT_EQ(error("n"), "[c.json] 'n': expected an integer from 1 to 6, got 7");
  EXPECT_EQ(error("s"), "[c.json] 's': expected an integer from 1 to 6, got \"7\"");
  EXPECT_EQ(error("f"), "[c.json] 'f': expected an integer from 1 to 6, got 7.5");
  EXPECT_EQ(error("b"), "[c.json] 'b': expected an integer from 1 to 6, got true");
  EXPECT_EQ(error("huge"), "[c.json] 'huge': expected an integer from 1 to 6, got 18446744073709551615");
  EXPECT_NE(error("big").find("expected an integer"), std::string::npos);
  EXPECT_EQ(error("null"), "[c.json] missing key 'null': expected an integer");
  EXPECT_EQ(error("absent"), "[c.json] missing key 'absent': expected an integer");
}

TEST(Fallbacks, ServeAbsentAndNullOnly) {
  const Json json = parse_json(R"({"null": null, "i": 2, "d": 2.5, "t": true, "s": "x"})", "x");
  EXPECT_EQ(int_or(json, "null", "x", 0, 9, 5), 5);
  EXPECT_EQ(int_or(json, "absent", "x", 0, 9, 5), 5);
  EXPECT_EQ(int_or(json, "i", "x", 0, 9, 5), 2);
  EXPECT_EQ(number_or(json, "d", "x", 1), 2.5);
  EXPECT_EQ(number_or(json, "i", "x", 1), 2.0);
  EXPECT_EQ(number_or(json, "null", "x", 1), 1.0);
  EXPECT_TRUE(bool_or(json, "t", "x", false));
  EXPECT_TRUE(bool_or(json, "absent", "x", true));
  EXPECT_EQ(string_or(json, "s", "x", "y"), "x");
  EXPECT_EQ(string_or(json, "null", "x", "y"), "y");
  error_of(ErrorCode::bad_config, [&] { int_or(json, "s", "x", 0, 9, 5); });
  error_of(ErrorCode::bad_config, [&] { number_or(json, "t", "x", 1); });
  error_of(ErrorCode::bad_config, [&] { bool_or(json, "i", "x", false); });
  error_of(ErrorCode::bad_config, [&] { string_or(json, "i", "x", "y"); });
}

TEST(Fallbacks, RefuseAnythingButAnObject) {
  const Json json = parse_json("[1]", "x");
  EXPECT_EQ(error_of(ErrorCode::bad_config, [&] { int_or(json, "n", "c.json", 0, 9, 5); }),
            "[c.json] expected an object with 'n', got [1]");
}

TEST(Brief, CutsLongValuesAndNeverThrows) {
  EXPECT_EQ(brief(Json(5)), "5");
  EXPECT_EQ(brief(Json(std::string(500, 'a'))).size(), 60u);
  EXPECT_NO_THROW(brief(Json("\xff\xfe")));  // not UTF-8
}

}  // namespace
}  // namespace bumblebee
