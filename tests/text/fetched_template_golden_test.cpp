// Chat templates of the fetched tokenizers, which are not all free to be copied: byte for byte jinja2's.
#include "tests/text/template_goldens.h"

namespace bumblebee::txt {
namespace {

TEST(ChatTemplateGoldens, FetchedTemplates) {
  const OrderedJson conversations = testing::conversations();
  for (const char* name : {"qwen3", "llama3_1", "gemma3", "smollm2", "gemma4", "deepseek_v3"}) {
    SCOPED_TRACE(name);
    const std::filesystem::path folder = std::filesystem::path(BB_TEST_TOKENIZERS) / name;
    const OrderedJson config = OrderedJson::parse(testing::read_text(folder / "tokenizer_config.json"));
    const OrderedJson goldens = OrderedJson::parse(testing::read_text(
        std::filesystem::path(BB_TEST_DATA) / "text/rendered_fetched" / (std::string(name) + ".json")));
    EXPECT_EQ(testing::compare_template(config.at("chat_template").get<std::string>(), goldens, conversations), 36u);
  }
}

}  // namespace
}  // namespace bumblebee::txt
