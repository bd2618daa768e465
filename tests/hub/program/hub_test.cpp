// The fixture of the hub's tests, and what makes a cache sound.
#include "tests/hub/program/hub_test.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <fstream>
#include <sstream>

namespace fs = std::filesystem;

namespace bumblebee::hub_test {
namespace {

bool same_bytes(const fs::path& a, const fs::path& b) {
  std::error_code failed;
  return fs::is_regular_file(a, failed) && fs::file_size(a, failed) == fs::file_size(b, failed) &&
         read_file(a) == read_file(b);
}

std::string lower(std::string text) {
  for (char& c : text) c = char(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

}  // namespace

std::string noise(size_t size, uint32_t seed) {
  std::string out(size, '\0');
  uint64_t state = seed * 0x9E3779B97F4A7C15ull + 1;
  for (size_t i = 0; i < size; i += 8) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    std::memcpy(out.data() + i, &state, std::min<size_t>(8, size - i));
  }
  return out;
}

Files small_model(size_t size, uint32_t seed) {
  return {{"config.json", "{\"model_type\": \"llama\"}\n"},
          {"tokenizer.json", "{\"version\": \"1.0\"}\n"},
          {"model.safetensors", noise(size, seed)},
          {"parts/deep/notes.json", "{}\n"},
          {"special_tokens_map.json", ""}};
}

void write_file(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream out(path, std::ios::binary);
  out << text;
  out.close();
  ASSERT_TRUE(out.good()) << path;
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  std::ostringstream text;
  text << in.rdbuf();
  return std::move(text).str();
}

void HubTest::SetUp() {
  std::string name = (fs::temp_directory_path() / "bumblebee-hub-XXXXXX").string();
  ASSERT_NE(::mkdtemp(name.data()), nullptr);
  root_ = name;
  cache_ = root_ / "hub";
  fs::create_directories(root_ / "home");
  mock().command({{"op", "reset"}});
}

void HubTest::TearDown() {
  std::error_code ignored;
  fs::remove_all(root_, ignored);
}

Commit HubTest::publish(const Files& files, const std::string& repository, nlohmann::json options) {
  const fs::path directory = root_ / "sources" / std::to_string(commits_.size());
  fs::create_directories(directory);
  for (const auto& [path, text] : files) write_file(directory / path, text);
  nlohmann::json order = {{"op", "commit"}, {"repo", repository}, {"dir", directory.string()}};
  order.update(options.is_null() ? nlohmann::json{{"branch", "main"}} : options);
  const nlohmann::json answer = mock().command(order);
  Commit commit{repository, answer.at("commit"), {}};
  for (const auto& [path, file] : answer.at("files").items())
    commit.files[path] = {directory / path, file.at("size"), file.at("etag"), file.at("lfs")};
  commits_.push_back(commit);
  return commit;
}

Environment HubTest::environment() const {
  return {{"PATH", "/usr/bin:/bin"},   {"HOME", (root_ / "home").string()}, {"LC_ALL", "C.UTF-8"},
          {"HF_ENDPOINT", mock().hub}, {"BUMBLEBEE_HUB_BACKOFF", "0.01"},   {"HF_HUB_CACHE", cache_.string()}};
}

Launch HubTest::launch(std::vector<std::string> arguments, const Environment& more) const {
  Launch out{std::move(arguments), environment(), 0};
  for (const auto& [name, value] : more) out.environment[name] = value;
  return out;
}

Outcome HubTest::run(std::vector<std::string> arguments, const Environment& more) const {
  return Process(launch(std::move(arguments), more)).wait();
}

Outcome HubTest::pull(const std::string& source, const Environment& more) const {
  Outcome got = run({"pull", source}, more);
  EXPECT_EQ(got.status, 0) << got.err;
  expect_sound();
  return got;
}

Outcome HubTest::pull_fails(const std::string& source, const Environment& more) const {
  Outcome got = run({"pull", source}, more);
  expect_error(got, {});
  expect_sound();
  return got;
}

Environment HubTest::broken_disk(const std::string& fault) const {
  return {{"LD_PRELOAD", BB_FAULT_IO}, {"BB_FAULT", fault}, {"BB_FAULT_DIR", cache_.string()}};
}

fs::path HubTest::folder(const std::string& repository) const {
  std::string name = "models--" + repository;
  name.replace(name.find('/'), 1, "--");
  return cache_ / name;
}

void HubTest::expect_sound_repository(const fs::path& folder) const {
  std::map<std::string, const PublishedFile*> by_etag;
  std::map<std::string, const Commit*> by_sha;
  for (const Commit& commit : commits_) {
    by_sha[commit.sha] = &commit;
    for (const auto& [path, file] : commit.files) by_etag[file.etag] = &file;
  }
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder / "blobs", none)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".incomplete") || name.ends_with(".lock")) continue;
    ASSERT_TRUE(by_etag.contains(name)) << "a blob that nobody published: " << name;
    EXPECT_TRUE(same_bytes(entry.path(), by_etag[name]->source)) << "wrong bytes in blob " << name;
  }
  for (const auto& entry : fs::directory_iterator(folder / "snapshots", none)) {
    const std::string sha = entry.path().filename().string();
    ASSERT_TRUE(by_sha.contains(sha)) << "a snapshot that nobody published: " << sha;
    for (const auto& file : fs::recursive_directory_iterator(entry.path())) {
      if (file.is_directory() && !file.is_symlink()) continue;
      const fs::path path = fs::relative(file.path().parent_path(), entry.path()) / file.path().filename();
      const std::string name = path.lexically_normal().generic_string();
      ASSERT_TRUE(by_sha[sha]->files.contains(name)) << "a file that nobody published: " << name;
      const PublishedFile& published = by_sha[sha]->files.at(name);
      EXPECT_TRUE(same_bytes(file.path(), published.source)) << "wrong bytes in " << name;
      if (!file.is_symlink()) continue;
      fs::path target = "../../blobs";
      for (char c : name) target = c == '/' ? fs::path("..") / target : target;
      EXPECT_EQ(fs::read_symlink(file.path()), target / published.etag) << name;
    }
  }
  for (const auto& entry : fs::recursive_directory_iterator(folder / "refs", none)) {
    if (entry.is_directory()) continue;
    EXPECT_TRUE(by_sha.contains(read_file(entry.path()))) << "ref " << entry.path() << ": " << read_file(entry.path());
  }
}

void HubTest::expect_sound() const {
  for (const auto& entry : fs::directory_iterator(root_)) {
    const std::string name = entry.path().filename().string();
    EXPECT_TRUE(name == "home" || name == "sources" || name == "hub" || name.starts_with("test-"))
        << "written outside of the cache: " << entry.path();
  }
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(cache_, none)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("models--")) expect_sound_repository(entry.path());
  }
}

void HubTest::expect_complete(const Commit& commit, const std::vector<std::string>& paths) const {
  for (const auto& [path, file] : commit.files) {
    if (!paths.empty() && std::find(paths.begin(), paths.end(), path) == paths.end()) continue;
    EXPECT_TRUE(same_bytes(snapshot(commit) / path, file.source)) << path << " is missing or wrong";
  }
}

void HubTest::expect_absent(const Commit& commit, const std::string& path) const {
  EXPECT_FALSE(fs::exists(blob(commit, path))) << path;
  EXPECT_FALSE(fs::exists(snapshot(commit) / path)) << path;
}

void HubTest::expect_complete_or_error(const Outcome& got, const Commit& commit) const {
  expect_sound();
  if (got.status == 0) {
    expect_complete(commit);
  } else {
    expect_error(got, {"org/name"});
  }
}

void expect_error(const Outcome& got, const std::vector<std::string>& words, int status) {
  EXPECT_NE(got.status, 0) << got.out;
  EXPECT_LT(got.status, 128) << "ended by a signal: " << got.err;
  EXPECT_NE(got.status, 1) << "a defect of the program: " << got.err;
  if (status != 0) {
    EXPECT_EQ(got.status, status) << got.err;
  }
  const size_t at = got.err.find("bumblebee: error: ");
  ASSERT_NE(at, std::string::npos) << got.err;
  const std::string message = lower(got.err.substr(at));
  for (const std::string& word : words)
    EXPECT_NE(message.find(lower(word)), std::string::npos) << word << " in: " << got.err;
}

}  // namespace bumblebee::hub_test
