// Patterns as Python's fnmatch has them, and which files a model or an adapter needs.
#include "hub/select.h"

#include <gtest/gtest.h>

namespace bumblebee::hub {
namespace {

struct Match {
  const char *pattern, *name;
  bool expected;  // fnmatch.fnmatchcase(name, pattern)
};

TEST(Select, PatternsAsFnmatch) {
  const Match table[] = {
      {"*", "a/b.json", true},
      {"*.json", "a/b.json", true},
      {"*.json", "a.jsonl", false},
      {"a?c", "abc", true},
      {"a?c", "ac", false},
      {"?", "/", true},
      {"", "", true},
      {"", "a", false},
      {"**", "", true},
      {"[ab]c", "bc", true},
      {"[!ab]c", "bc", false},
      {"[!ab]c", "cc", true},
      {"[a-c]x", "bx", true},
      {"[a-c]x", "dx", false},
      {"[]]", "]", true},
      {"[!]]", "]", false},
      {"[!]]", "a", true},
      {"[a-]", "-", true},
      {"[", "[", true},
      {"[a", "[a", true},
      {"a[", "a[", true},
      {"[!", "[!", true},
      {"[^a]", "^", true},
      {"[^a]", "b", false},
      {"*a*b*c", "xxaxxbxxc", true},
      {"*a*b*c", "xxaxxbxx", false},
      {"A", "a", false},
      {"*[0-9].bin", "w-7.bin", true},
      {"a.c", "abc", false},
      {"a+", "aa", false},
      {"(a)", "(a)", true},
      {"\\a", "\\a", true},
  };
  for (const Match& m : table) EXPECT_EQ(matches(m.pattern, m.name), m.expected) << m.pattern << " on " << m.name;
}

TEST(Select, AFolderMeansEverythingBelow) {
  EXPECT_TRUE(matches("onnx/", "onnx/a/b.bin"));
  EXPECT_FALSE(matches("onnx/", "onnx"));
  EXPECT_FALSE(matches("onnx/", "x/onnx/a"));
}

/// A search that goes back would not end in a lifetime.
TEST(Select, HostilePatternsEnd) {
  std::string pattern;
  for (int i = 0; i < 200; ++i) pattern += "a*";
  const std::string name(2000, 'a');
  EXPECT_FALSE(matches(pattern + "b", name));
}

Tree tree_of(std::initializer_list<const char*> paths) {
  Tree tree;
  for (const char* path : paths) tree[path] = TreeFile{1, std::string(40, 'a'), "", 0, ""};
  return tree;
}

TEST(Select, WhatAModelNeeds) {
  const Tree tree = tree_of({".gitattributes",
                             "README.md",
                             "config.json",
                             "generation_config.json",
                             "tokenizer.json",
                             "tokenizer.model",
                             "tokenizer_config.json",
                             "chat_template.jinja",
                             "merges.txt",
                             "vocab.json",
                             "model.safetensors.index.json",
                             "model-00001-of-00002.safetensors",
                             "model-00002-of-00002.safetensors",
                             "pytorch_model.bin",
                             "pytorch_model.bin.index.json",
                             "tf_model.h5",
                             "flax_model.msgpack",
                             "model.gguf",
                             "model.onnx",
                             "onnx/model.onnx",
                             "onnx/config.json",
                             "original/params.json",
                             "consolidated.safetensors",
                             "training_args.bin",
                             "additional_chat_templates/tool_use.jinja",
                             ".cache/x.json",
                             "image.png",
                             "modeling.py"});
  const std::vector<std::string> expected = {"additional_chat_templates/tool_use.jinja",
                                             "chat_template.jinja",
                                             "config.json",
                                             "generation_config.json",
                                             "merges.txt",
                                             "model-00001-of-00002.safetensors",
                                             "model-00002-of-00002.safetensors",
                                             "model.safetensors.index.json",
                                             "tokenizer.json",
                                             "tokenizer.model",
                                             "tokenizer_config.json",
                                             "vocab.json"};
  EXPECT_EQ(select(tree, {}), expected);
}

TEST(Select, AnAdapterNeedsItsFiles) {
  const Tree tree =
      tree_of({"adapter_config.json", "adapter_model.safetensors", "adapters.safetensors", "adapter_model.bin"});
  EXPECT_EQ(select(tree, {}),
            (std::vector<std::string>{"adapter_config.json", "adapter_model.safetensors", "adapters.safetensors"}));
}

TEST(Select, WeightsOfSubfoldersOnlyWhereThereAreNoneAbove) {
  EXPECT_EQ(select(tree_of({"config.json", "model.safetensors", "x/model.safetensors", "x/config.json"}), {}),
            (std::vector<std::string>{"config.json", "model.safetensors", "x/config.json"}));
  EXPECT_EQ(select(tree_of({"config.json", "x/model.safetensors"}), {}),
            (std::vector<std::string>{"config.json", "x/model.safetensors"}));
}

TEST(Select, Subfolders) {
  const Tree tree =
      tree_of({"config.json", "a/config.json", "a/model.safetensors", "ab/config.json", "onnx/config.json"});
  Selection selection;
  selection.subdir = "a";
  EXPECT_EQ(select(tree, selection), (std::vector<std::string>{"a/config.json", "a/model.safetensors"}));
  selection.subdir = "onnx";
  EXPECT_EQ(select(tree, selection), (std::vector<std::string>{"onnx/config.json"})) << "asked for by name";
}

TEST(Select, IncludeAndExclude) {
  const Tree tree = tree_of({"config.json", "model.gguf", "model.safetensors", "sub/x.gguf"});
  Selection selection;
  selection.include = {"*.gguf"};
  EXPECT_EQ(select(tree, selection), (std::vector<std::string>{"model.gguf", "sub/x.gguf"}));
  selection.exclude = {"sub/"};
  EXPECT_EQ(select(tree, selection), (std::vector<std::string>{"model.gguf"}));
  selection.include.clear();
  selection.exclude = {"*.safetensors"};
  EXPECT_EQ(select(tree, selection), (std::vector<std::string>{"config.json"}));
}

}  // namespace
}  // namespace bumblebee::hub
