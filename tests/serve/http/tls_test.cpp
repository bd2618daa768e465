// TLS with a certificate that the openssl program makes at test time, spoken to by libcurl: HTTP/1.1, HTTP/2, and a new
// certificate.
#include <curl/curl.h>

#include <cstdlib>
#include <fstream>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/format.h"
#include "tests/serve/http/client.h"
#include "tests/serve/http/test_server.h"

namespace bumblebee::serve {
namespace {

namespace fs = std::filesystem;

class Tls : public testing::Test {
 protected:
  void SetUp() override {
    if (std::system("openssl version > /dev/null 2>&1") != 0) GTEST_SKIP() << "not run: there is no openssl program";
    folder_ = fs::path(testing::TempDir()) / cat("bumblebee-tls-", ::getpid());
    fs::create_directories(folder_);
    make_certificate();
    server_ = std::make_unique<TestServer>([&](HttpOptions& options) {
      options.tls_certificate = folder_ / "certificate.pem";
      options.tls_key = folder_ / "key.pem";
    });
  }
  void TearDown() override {
    server_.reset();
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  void make_certificate() {
    const std::string command =
        cat("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1 ",
            "-addext subjectAltName=IP:127.0.0.1 -keyout ", (folder_ / "key.pem").string(), " -out ",
            (folder_ / "certificate.pem").string(), " > /dev/null 2>&1");
    ASSERT_EQ(std::system(command.c_str()), 0);
    fs::copy_file(folder_ / "certificate.pem", folder_ / "trusted.pem", fs::copy_options::overwrite_existing);
  }

  // The body, or curl's error.
  std::string fetch(long version, const std::string& body = "") {
    CURL* curl = curl_easy_init();
    std::string answer;
    const std::string url = cat("https://127.0.0.1:", server_->port, "/echo"),
                      trusted = (folder_ / "trusted.pem").string();
    curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
    curl_easy_setopt(curl, CURLOPT_CAINFO, trusted.c_str());
    curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, version);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    if (!body.empty()) curl_easy_setopt(curl, CURLOPT_COPYPOSTFIELDS, body.c_str());
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
    curl_easy_setopt(
        curl, CURLOPT_WRITEFUNCTION, +[](char* data, size_t one, size_t count, void* out) {
          static_cast<std::string*>(out)->append(data, one * count);
          return one * count;
        });
    const CURLcode code = curl_easy_perform(curl);
    curl_easy_cleanup(curl);
    return code == CURLE_OK ? answer : curl_easy_strerror(code);
  }

  fs::path folder_;
  std::unique_ptr<TestServer> server_;
};

TEST_F(Tls, BothProtocolsByWhatTheClientOffers) {
  const std::string body(100'000, 'b');
  EXPECT_EQ(fetch(CURL_HTTP_VERSION_1_1), "GET /echo ");
  EXPECT_TRUE(fetch(CURL_HTTP_VERSION_1_1, body) == "POST /echo " + body);
  EXPECT_EQ(fetch(CURL_HTTP_VERSION_2TLS), "GET /echo ");
  EXPECT_TRUE(fetch(CURL_HTTP_VERSION_2TLS, body) == "POST /echo " + body);
  const auto heads = server_->handler.heads();
  EXPECT_EQ(heads.at(0).version, 11);
  EXPECT_EQ(heads.at(2).version, 20);
  EXPECT_TRUE(heads.at(0).tls);
}

TEST_F(Tls, PlainRequestsToItsPortAreRefused) {
  Client client(server_->port);
  client.send(get("/echo"));
  client.half_close();
  EXPECT_EQ(client.rest().find("HTTP/1.1"), std::string::npos);
  EXPECT_EQ(server_->handler.requests(), 0U);
  EXPECT_EQ(fetch(CURL_HTTP_VERSION_1_1), "GET /echo ");
}

TEST_F(Tls, ANewCertificateIsTakenAndABrokenOneIsNot) {
  make_certificate();
  EXPECT_NE(fetch(CURL_HTTP_VERSION_1_1), "GET /echo ") << "the old one is still served";
  server_->http->reload_tls();
  EXPECT_EQ(fetch(CURL_HTTP_VERSION_1_1), "GET /echo ");
  std::ofstream(folder_ / "certificate.pem") << "no certificate";
  try {
    server_->http->reload_tls();
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::bad_file);
    EXPECT_NE(std::string_view(error.what()).find("certificate.pem"), std::string_view::npos) << error.what();
  }
  EXPECT_EQ(fetch(CURL_HTTP_VERSION_1_1), "GET /echo ");
}

}  // namespace
}  // namespace bumblebee::serve
