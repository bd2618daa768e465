// Real chat templates against jinja2 as transformers sets it up: byte for byte, over the conversations of
// tests/data/text. A directory of further templates can be given as BB_TEST_TEMPLATES (with rendered/ inside) to hold
// more of them against fresh goldens.
#include <algorithm>

#include "tests/text/template_goldens.h"

namespace bumblebee::txt {
namespace {

void compare_all(const std::filesystem::path& templates, const std::filesystem::path& rendered, size_t at_least) {
  const OrderedJson conversations = testing::conversations();
  size_t compared = 0;
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(templates)) {
    if (entry.path().extension() == ".jinja") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) {
    SCOPED_TRACE(path.stem().string());
    const OrderedJson goldens = OrderedJson::parse(testing::read_text(rendered / (path.stem().string() + ".json")));
    compared += testing::compare_template(testing::read_text(path), goldens, conversations);
  }
  EXPECT_GE(compared, at_least);
}

TEST(ChatTemplateGoldens, CommittedTemplates) {
  const std::filesystem::path data = std::filesystem::path(BB_TEST_DATA) / "text";
  compare_all(data / "templates", data / "rendered", size_t{2} * 18 * 24);
}

#ifdef BB_TEST_TEMPLATES
TEST(ChatTemplateGoldens, FurtherTemplates) {
  const std::filesystem::path data = BB_TEST_TEMPLATES;
  compare_all(data, data / "rendered", 1);
}
#endif

}  // namespace
}  // namespace bumblebee::txt
