// Mapping and reading whole files, and what is refused: absent, directories, devices, too large.
#include "base/mapped_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "base/error.h"
#include "tests/support/page_flags.h"

namespace bumblebee {
namespace {

namespace fs = std::filesystem;

class MappedFileTest : public testing::Test {
 protected:
  MappedFileTest() : folder_(fs::temp_directory_path() / cat("bb_mapped_file_", ::getpid())) {
    fs::create_directories(folder_);
  }
  ~MappedFileTest() override { fs::remove_all(folder_); }

  fs::path write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }

  static std::string error_of(const fs::path& path, void (*open)(const fs::path&)) {
    try {
      open(path);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::bad_file);
      EXPECT_NE(std::string(e.what()).find(path.string()), std::string::npos) << e.what();
      return e.what();
    }
    ADD_FAILURE() << "no error for " << path;
    return "";
  }

  const fs::path folder_;
};

void map(const fs::path& path) { MappedFile::open(path); }
void read(const fs::path& path) { read_text_file(path, 100); }

TEST_F(MappedFileTest, ShowsTheBytes) {
  std::string text = "abc";
  text += '\0';
  text += std::string(10000, 'x');
  const auto file = MappedFile::open(write("a", text));
  ASSERT_EQ(file->bytes().size(), text.size());
  EXPECT_EQ(std::memcmp(file->bytes().data(), text.data(), text.size()), 0);
  EXPECT_EQ(file->path(), folder_ / "a");
}

TEST_F(MappedFileTest, LargeFilesAreWishedIntoHugePagesButForWhatIsReadHereAndThere) {
  using testing_support::page_flags;
  const auto small = MappedFile::open(write("a", "abc"));
  if (page_flags(small->bytes().data()).empty() || ::sysconf(_SC_PAGESIZE) != 4096)
    GTEST_SKIP() << "the system has no huge pages of 2 MB";
  EXPECT_EQ(page_flags(small->bytes().data()).find(" hg "), std::string::npos);
  const auto file = MappedFile::open(write("b", std::string(size_t{4} << 20, 'x')));
  const std::byte* const middle = file->bytes().data() + (size_t{2} << 20);
  EXPECT_NE(page_flags(middle).find(" hg "), std::string::npos) << page_flags(middle);
  pages_here_and_there(file->bytes().subspan(size_t{2} << 20, 10000));
  EXPECT_NE(page_flags(middle).find(" nh "), std::string::npos) << page_flags(middle);
  EXPECT_NE(page_flags(file->bytes().data()).find(" hg "), std::string::npos);
  EXPECT_NE(page_flags(middle + 8192).find(" hg "), std::string::npos) << "the last page is not whole";
  EXPECT_EQ(middle[9999], std::byte('x'));
}

TEST_F(MappedFileTest, OutlivesTheName) {
  const fs::path path = write("a", "still here");
  const auto file = MappedFile::open(path);
  fs::remove(path);
  EXPECT_EQ(std::memcmp(file->bytes().data(), "still here", 10), 0);
}

TEST_F(MappedFileTest, AnEmptyFileHasNoBytes) {
  EXPECT_TRUE(MappedFile::open(write("empty", ""))->bytes().empty());
  EXPECT_EQ(read_text_file(folder_ / "empty", 0), "");
}

TEST_F(MappedFileTest, RefusesWhatIsNotARegularFile) {
  for (const auto open : {map, read}) {
    EXPECT_NE(error_of(folder_ / "absent", open).find("cannot open: No such file"), std::string::npos);
    EXPECT_NE(error_of(folder_, open).find("expected a regular file"), std::string::npos);
    EXPECT_NE(error_of("/dev/null", open).find("expected a regular file"), std::string::npos);
  }
}

TEST_F(MappedFileTest, ReadsTextWithinTheLimit) {
  EXPECT_EQ(read_text_file(write("t", std::string(100, 'y')), 100), std::string(100, 'y'));
  EXPECT_NE(error_of(write("u", std::string(101, 'y')), read).find("expected at most 100 bytes, got 101"),
            std::string::npos);
}

}  // namespace
}  // namespace bumblebee
