// docs/serving.md has the tables that the parsers read by. With BB_UPDATE_DOCS=1 it gets them.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>

#include "serve/openai/fields.h"
#include "tests/serve/openai/support.h"

namespace bumblebee::serve {
namespace {

constexpr Endpoint kEndpoints[] = {Endpoint::chat,          Endpoint::completions,    Endpoint::tokenize,
                                   Endpoint::detokenize,    Endpoint::apply_template, Endpoint::load_adapter,
                                   Endpoint::unload_adapter};

void expect_in_page(const std::string& name, const std::string& table) {
  const std::string path = BB_DOCS "/serving.md";
  std::ifstream file(path, std::ios::binary);
  std::string page(std::istreambuf_iterator<char>(file), {});
  const std::string begin = cat("<!-- from the code: ", name, " -->\n"), end = "<!-- end -->\n";
  const size_t start = page.find(begin);
  ASSERT_NE(start, page.npos) << "docs/serving.md lacks " << begin;
  const size_t stop = page.find(end, start);
  ASSERT_NE(stop, page.npos);
  const size_t from = start + begin.size();
  if (page.substr(from, stop - from) == table) return;
  if (std::getenv("BB_UPDATE_DOCS") != nullptr) {
    std::ofstream(path, std::ios::binary) << page.replace(from, stop - from, table);
    return;
  }
  FAIL() << "docs/serving.md differs from the code: run this test with BB_UPDATE_DOCS=1. The code has\n" << table;
}

TEST(FieldTables, AreThePages) {
  for (const Endpoint endpoint : kEndpoints)
    expect_in_page(cat("fields of ", path_of(endpoint)), field_table(endpoint));
  expect_in_page("errors", error_table());
}

TEST(FieldTables, NameEveryFieldOnce) {
  for (const Endpoint endpoint : kEndpoints) {
    std::set<std::string_view> names;
    for (const Field& field : fields_of(endpoint)) EXPECT_TRUE(names.insert(field.name).second) << field.name;
  }
}

// Each field does what its row says: an object is of no accepted field's type that is not read, and none is ignored.
TEST(FieldTables, AreWhatTheParsersDo) {
  for (const Endpoint endpoint : {Endpoint::chat, Endpoint::completions}) {
    for (const Field& field : fields_of(endpoint)) {
      const std::string own = cat("\"", field.name, "\": {\"no such key\": [1]}");
      // The field that is always needed is there, unless it is the one in question.
      const std::string needed =
          endpoint == Endpoint::chat ? R"("messages": [{"role": "user", "content": "a"}])" : R"("prompt": "a")";
      const bool is_needed = needed.starts_with(cat("\"", field.name, "\""));
      const std::string body = is_needed ? "{" + own + "}" : "{" + needed + ", " + own + "}";
      std::vector<std::string> ignored;
      const std::string said = refusal([&] {
        ignored = endpoint == Endpoint::chat ? read_chat_request(body, rules()).ignored
                                             : read_completion_request(body, rules()).ignored;
      });
      SCOPED_TRACE(cat(path_of(endpoint), " ", field.name, ": ", said));
      EXPECT_TRUE(ignored.empty());
      if (field.name == "stream_options") continue;  // whose unknown keys are ignored
      switch (field.use) {
        case FieldUse::accepted:
          EXPECT_TRUE(said.starts_with("400 invalid_") || said.starts_with("400 missing_") ||
                      said.starts_with("400 unsupported_parameter tool_choice"));
          break;
        case FieldUse::ignored: EXPECT_EQ(said, ""); break;
        case FieldUse::refused:
        case FieldUse::later: EXPECT_TRUE(said.starts_with(cat("400 unsupported_parameter ", field.name, ": "))); break;
      }
    }
  }
}

}  // namespace
}  // namespace bumblebee::serve
