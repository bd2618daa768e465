// OpenSSL's EVP, which uses the processor's SHA instructions where it has them.
#include "hub/digest.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/hex.h"

namespace bumblebee::hub {

struct Digest::Context {
  EVP_MD_CTX* evp = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(evp); }
  Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
};

Digest::Digest(const std::string& expected, uint64_t size) : context_(std::make_unique<Context>()) {
  const bool git = expected.size() == 40;
  if (context_->evp == nullptr || EVP_DigestInit_ex(context_->evp, git ? EVP_sha1() : EVP_sha256(), nullptr) != 1)
    throw Error(ErrorCode::unsupported, "hash", cat("OpenSSL offers no ", git ? "SHA-1" : "SHA-256"));
  if (git) {
    const std::string header = cat("blob ", size);
    update(std::as_bytes(std::span(header.c_str(), header.size() + 1)));
  }
}
Digest::~Digest() = default;
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;

void Digest::update(std::span<const std::byte> bytes) {
  BB_CHECK(EVP_DigestUpdate(context_->evp, bytes.data(), bytes.size()) == 1);
}

std::string Digest::finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> raw{};
  unsigned length = 0;
  BB_CHECK(EVP_DigestFinal_ex(context_->evp, raw.data(), &length) == 1);
  return hex({raw.data(), length});
}

std::string hash_file(const std::filesystem::path& path, const std::string& expected,
                      const std::function<bool(uint64_t bytes)>& go_on) {
  const auto fail = [&](const char* action) {
    throw Error(ErrorCode::bad_file, path.string(), cat("cannot ", action, ": ", std::strerror(errno)));
  };
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("open");
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } closer{fd};
  const off_t size = ::lseek(fd, 0, SEEK_END);
  if (size < 0 || ::lseek(fd, 0, SEEK_SET) != 0) fail("read");
  Digest digest(expected, uint64_t(size));
  std::vector<std::byte> buffer(size_t{1} << 20);
  for (;;) {
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("read");
    if (n == 0) return digest.finish();
    digest.update(std::span(buffer).first(size_t(n)));
    if (go_on && !go_on(uint64_t(n))) throw Error(ErrorCode::cancelled, path.string(), "cancelled while hashing");
  }
}

}  // namespace bumblebee::hub
