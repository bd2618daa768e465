// huggingface_hub's variables: their order, and values that mean nothing.
#include "hub/settings.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <string>

#include "base/error.h"

namespace fs = std::filesystem;

namespace bumblebee::hub {
namespace {

class SettingsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    home_ = fs::path(::testing::TempDir()) / ("bb_settings_" + std::to_string(::getpid()));
    fs::create_directories(home_);
    clear();
  }
  void TearDown() override {
    clear();
    fs::remove_all(home_);
  }
  void clear() {
    for (const char* name : {"HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN", "HF_HOME",
                             "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_HUB_OFFLINE",
                             "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_SYMLINKS", "HF_HUB_DISABLE_IMPLICIT_TOKEN",
                             "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT", "BUMBLEBEE_HUB_BACKOFF"})
      ::unsetenv(name);
    ::setenv("HOME", home_.c_str(), 1);
  }
  Settings with(const std::map<std::string, std::string>& variables) {
    clear();
    for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
    return settings_from_environment();
  }
  fs::path home_;
};

TEST_F(SettingsTest, WithoutAnyVariable) {
  const Settings settings = with({});
  EXPECT_EQ(settings.endpoint, "https://huggingface.co");
  EXPECT_EQ(settings.token, "");
  EXPECT_EQ(settings.cache, home_ / ".cache/huggingface/hub");
  EXPECT_FALSE(settings.offline);
  EXPECT_TRUE(settings.symlinks);
  EXPECT_EQ(settings.api_timeout, Milliseconds(10000));
  EXPECT_EQ(settings.download_timeout, Milliseconds(10000));
}

TEST_F(SettingsTest, TheCache) {
  EXPECT_EQ(with({{"XDG_CACHE_HOME", "/x"}}).cache, "/x/huggingface/hub");
  EXPECT_EQ(with({{"XDG_CACHE_HOME", "/x"}, {"HF_HOME", "/h"}}).cache, "/h/hub");
  EXPECT_EQ(with({{"HF_HOME", "/h"}, {"HUGGINGFACE_HUB_CACHE", "/o"}}).cache, "/o");
  EXPECT_EQ(with({{"HUGGINGFACE_HUB_CACHE", "/o"}, {"HF_HUB_CACHE", "/n"}}).cache, "/n");
  EXPECT_EQ(with({{"HF_HUB_CACHE", ""}}).cache, home_ / ".cache/huggingface/hub");
  EXPECT_EQ(with({{"HF_HUB_CACHE", "~/c"}}).cache, home_ / "c");
  EXPECT_EQ(with({{"HF_HUB_CACHE", "$HOME/c"}}).cache, home_ / "c");
  EXPECT_EQ(with({{"HF_HUB_CACHE", "${HOME}/c$"}}).cache, home_ / "c$");
  EXPECT_EQ(with({{"HF_HUB_CACHE", "/a/$NOT_SET_ANYWHERE/${NEITHER}/${open"}}).cache,
            "/a/$NOT_SET_ANYWHERE/${NEITHER}/${open");
  EXPECT_EQ(cache_directory("~/chosen"), home_ / "chosen");
}

TEST_F(SettingsTest, Words) {
  for (const char* word : {"1", "ON", "on", "YES", "True"}) {
    EXPECT_TRUE(with({{"HF_HUB_OFFLINE", word}}).offline) << word;
    EXPECT_TRUE(with({{"TRANSFORMERS_OFFLINE", word}}).offline) << word;
    EXPECT_FALSE(with({{"HF_HUB_DISABLE_SYMLINKS", word}}).symlinks) << word;
  }
  for (const char* word : {"", "0", "no", "2", "offline"})
    EXPECT_FALSE(with({{"HF_HUB_OFFLINE", word}}).offline) << word;
  EXPECT_FALSE(with({{"HF_HUB_OFFLINE", "0"}, {"TRANSFORMERS_OFFLINE", "1"}}).offline)
      << "as in Python, the first that is set";
}

TEST_F(SettingsTest, Times) {
  EXPECT_EQ(with({{"HF_HUB_ETAG_TIMEOUT", "3"}}).api_timeout, Milliseconds(3000));
  EXPECT_EQ(with({{"HF_HUB_DOWNLOAD_TIMEOUT", "0.25"}}).download_timeout, Milliseconds(250));
  EXPECT_EQ(with({{"HF_HUB_ETAG_TIMEOUT", "0"}}).api_timeout, Milliseconds(10000)) << "as in Python";
  EXPECT_EQ(with({{"BUMBLEBEE_HUB_BACKOFF", "0"}}).retry.first_wait, Milliseconds(0));
  for (const char* text : {"x", "-1", "1s", "nan", "inf", "1e99", "100000"})
    EXPECT_THROW(with({{"HF_HUB_ETAG_TIMEOUT", text}}), Error) << text;
}

TEST_F(SettingsTest, Endpoints) {
  EXPECT_EQ(with({{"HF_ENDPOINT", "https://hf-mirror.com/"}}).endpoint, "https://hf-mirror.com");
  EXPECT_EQ(with({{"HF_ENDPOINT", " http://127.0.0.1:80// "}}).endpoint, "http://127.0.0.1:80");
  for (const char* text : {"huggingface.co", "ftp://x", "file:///etc"})
    EXPECT_THROW(with({{"HF_ENDPOINT", text}}), Error) << text;
}

TEST_F(SettingsTest, Tokens) {
  fs::create_directories(home_ / ".cache/huggingface");
  std::ofstream(home_ / ".cache/huggingface/token") << " hf_file\n";
  std::ofstream(home_ / "other") << "hf_other";
  EXPECT_EQ(with({}).token, "hf_file");
  EXPECT_EQ(with({{"HF_TOKEN_PATH", (home_ / "other").string()}}).token, "hf_other");
  EXPECT_EQ(with({{"HF_TOKEN_PATH", (home_ / "none").string()}}).token, "");
  EXPECT_EQ(with({{"HF_TOKEN", "hf_variable"}}).token, "hf_variable");
  EXPECT_EQ(with({{"HUGGING_FACE_HUB_TOKEN", "hf_old"}}).token, "hf_old");
  EXPECT_EQ(with({{"HF_TOKEN", "hf_a"}, {"HUGGING_FACE_HUB_TOKEN", "hf_old"}}).token, "hf_a");
  EXPECT_EQ(with({{"HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"}}).token, "");
  for (const char* token : {"a b", "a\r\nX: y", "\x01", "\xc3\xa4"}) {
    try {
      with({{"HF_TOKEN", token}});
      ADD_FAILURE() << token;
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find(token), std::string::npos) << "a token is never printed";
    }
  }
}

}  // namespace
}  // namespace bumblebee::hub
