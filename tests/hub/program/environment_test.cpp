// The variables that huggingface_hub's users set: tokens, places, endpoints, offline, proxies.
#include <cstdlib>

#include "tests/hub/program/hub_test.h"

namespace fs = std::filesystem;

namespace bumblebee::hub_test {
namespace {

class Variables : public HubTest {
 protected:
  void SetUp() override {
    HubTest::SetUp();
    commit_ = publish(small_model(1000));
  }
  /// The Authorization header of the first request of a run, or "" without one.
  std::string authorization(const Environment& more) {
    mock().command({{"op", "clear"}});
    run({"pull", "org/name"}, more);
    const std::vector<Request> requests = mock().requests("hub");
    if (requests.empty()) return "no request";
    return requests[0].has("authorization") ? requests[0].headers.at("authorization") : "";
  }
  /// Whether a run with only these variables fills this cache.
  void fills(const fs::path& cache, Environment more) {
    SCOPED_TRACE(cache);
    Launch what = launch({"pull", "org/name"}, more);
    if (!more.contains("HF_HUB_CACHE")) what.environment.erase("HF_HUB_CACHE");
    const Outcome got = Process(what).wait();
    EXPECT_EQ(got.status, 0) << got.err;
    EXPECT_TRUE(fs::exists(cache / "models--org--name" / "refs" / "main"));
    fs::remove_all(cache);
  }
  fs::path home() const { return root_ / "home"; }
  Commit commit_;
};

TEST_F(Variables, Tokens) {
  EXPECT_EQ(authorization({}), "");
  EXPECT_EQ(authorization({{"HF_TOKEN", "hf_one"}}), "Bearer hf_one");
  EXPECT_EQ(authorization({{"HUGGING_FACE_HUB_TOKEN", "hf_old"}}), "Bearer hf_old");
  EXPECT_EQ(authorization({{"HF_TOKEN", "hf_one"}, {"HUGGING_FACE_HUB_TOKEN", "hf_old"}}), "Bearer hf_one");
  EXPECT_EQ(authorization({{"HF_TOKEN", "  hf_one\n"}}), "Bearer hf_one") << "as pasted";
  EXPECT_EQ(authorization({{"HF_TOKEN", ""}}), "");
}

TEST_F(Variables, TokenFiles) {
  write_file(home() / ".cache/huggingface/token", "hf_home\n");
  EXPECT_EQ(authorization({}), "Bearer hf_home");
  write_file(root_ / "test-hf/token", "hf_hfhome\n");
  EXPECT_EQ(authorization({{"HF_HOME", (root_ / "test-hf").string()}}), "Bearer hf_hfhome");
  write_file(root_ / "test-token", "\n hf_path \n");
  EXPECT_EQ(
      authorization({{"HF_HOME", (root_ / "test-hf").string()}, {"HF_TOKEN_PATH", (root_ / "test-token").string()}}),
      "Bearer hf_path");
  EXPECT_EQ(authorization({{"HF_TOKEN", "hf_one"}, {"HF_TOKEN_PATH", (root_ / "test-token").string()}}),
            "Bearer hf_one");
  EXPECT_EQ(authorization({{"HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"}}), "");
  write_file(root_ / "test-token", "");
  EXPECT_EQ(authorization({{"HF_TOKEN_PATH", (root_ / "test-token").string()}}), "");
}

TEST_F(Variables, TokensThatWouldBreakTheHeader) {
  for (const char* token : {"hf_a\r\nX-Evil: 1", "hf_a\nb", "hf_\x01", "hf_\xc3\xa4"}) {
    SCOPED_TRACE(token);
    mock().command({{"op", "clear"}});
    const Outcome got = run({"pull", "org/name"}, {{"HF_TOKEN", token}});
    expect_error(got, {"HF_TOKEN"});
    EXPECT_EQ(got.err.find("hf_a"), std::string::npos) << "not printed";
    for (const Request& request : mock().requests()) EXPECT_FALSE(request.has("x-evil"));
  }
}

TEST_F(Variables, PlacesOfTheCache) {
  const std::string at = root_.string();
  fills(home() / ".cache/huggingface/hub", {});
  fills(root_ / "test-xdg/huggingface/hub", {{"XDG_CACHE_HOME", at + "/test-xdg"}});
  fills(root_ / "test-home/hub", {{"XDG_CACHE_HOME", at + "/test-xdg"}, {"HF_HOME", at + "/test-home"}});
  fills(root_ / "test-old", {{"HF_HOME", at + "/test-home"}, {"HUGGINGFACE_HUB_CACHE", at + "/test-old"}});
  fills(root_ / "test-new", {{"HUGGINGFACE_HUB_CACHE", at + "/test-old"}, {"HF_HUB_CACHE", at + "/test-new"}});
  fills(home() / "cache", {{"HF_HUB_CACHE", "~/cache"}});
  fills(home() / "expanded/x", {{"HF_HUB_CACHE", "$HOME/expanded/x"}});
  fills(root_ / "test-braces/x", {{"HF_HUB_CACHE", "${PLACE}/x"}, {"PLACE", at + "/test-braces"}});
}

TEST_F(Variables, Endpoints) {
  pull("org/name", {{"HF_ENDPOINT", mock().hub + "/"}});
  expect_complete(commit_);
  for (const char* endpoint :
       {"huggingface.co", "ftp://127.0.0.1", "file:///etc", "http://", "http://a b/", "http://127.0.0.1:99999"}) {
    SCOPED_TRACE(endpoint);
    expect_error(pull_fails("org/other", {{"HF_ENDPOINT", endpoint}}), {});
  }
}

TEST_F(Variables, OfflineWords) {
  pull();
  for (const char* name : {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"})
    for (const char* word : {"1", "ON", "YES", "TRUE", "true", "yes", "on"}) {
      SCOPED_TRACE(std::string(name) + "=" + word);
      mock().command({{"op", "clear"}});
      pull("org/name", {{name, word}});
      EXPECT_TRUE(mock().requests().empty());
    }
  for (const char* word : {"0", "", "no", "FALSE"}) {
    SCOPED_TRACE(word);
    mock().command({{"op", "clear"}});
    pull("org/name", {{"HF_HUB_OFFLINE", word}});
    EXPECT_FALSE(mock().requests().empty());
  }
}

TEST_F(Variables, Timeouts) {
  mock().fault({{"where", "hub"}, {"delay", 60}, {"times", 1}});
  pull("org/name", {{"HF_HUB_ETAG_TIMEOUT", "0.3"}});
  expect_complete(commit_);
  for (const char* text : {"soon", "-1", "nan", "1e400"})
    expect_error(pull_fails("org/name", {{"HF_HUB_ETAG_TIMEOUT", text}}), {"HF_HUB_ETAG_TIMEOUT"});
}

TEST_F(Variables, WhoAsks) {
  pull();
  for (const Request& request : mock().requests()) {
    ASSERT_TRUE(request.has("user-agent"));
    EXPECT_TRUE(request.headers.at("user-agent").starts_with("bumblebee/")) << request.headers.at("user-agent");
    EXPECT_EQ(request.headers.at("user-agent").find(root_.filename().string()), std::string::npos);
  }
}

TEST_F(Variables, NothingIsDrawnWithoutATerminal) {
  const Outcome got = pull("org/name");
  EXPECT_EQ(got.err.find('\r'), std::string::npos) << got.err;
  EXPECT_EQ(got.err.find('\x1b'), std::string::npos) << got.err;
  EXPECT_EQ(got.out, (snapshot(commit_)).string() + "\n") << "for $(bumblebee pull org/name)";
}

TEST_F(Variables, ACertificateThatNobodySigned) {
  const std::string cert = (root_ / "test-cert.pem").string(), key = (root_ / "test-key.pem").string();
  const std::string make =
      "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost "
      "-keyout " +
      key + " -out " + cert + " 2>/dev/null";
  if (std::system(make.c_str()) != 0) GTEST_SKIP() << "needs the openssl program to make a certificate";
  const std::string origin = mock().command({{"op", "tls"}, {"cert", cert}, {"key", key}}).at("origin");
  const Outcome got = pull_fails("org/name", {{"HF_ENDPOINT", origin}, {"HF_TOKEN", "hf_one"}});
  expect_error(got, {"certificate"});
  EXPECT_TRUE(mock().requests("tls").empty()) << "nothing was asked, no token sent";
}

// Proxies: the hosts behind them exist only there.

TEST_F(Variables, AProxyForHttp) {
  mock().command({{"op", "cdn"}, {"origin", "http://cdn.invalid"}});
  for (const char* name : {"http_proxy", "all_proxy", "ALL_PROXY"}) {
    SCOPED_TRACE(name);
    fs::remove_all(cache_);
    mock().command({{"op", "clear"}});
    pull("org/name", {{"HF_ENDPOINT", "http://hub.invalid"}, {name, mock().proxy}});
    expect_complete(commit_);
    EXPECT_TRUE(mock().requests("hub").empty());
    EXPECT_TRUE(mock().requests("cdn").empty());
  }
}

TEST_F(Variables, TheTokenDoesNotReachTheCdnThroughAProxy) {
  mock().command({{"op", "cdn"}, {"origin", "http://cdn.invalid"}});
  pull("org/name", {{"HF_ENDPOINT", "http://hub.invalid"}, {"http_proxy", mock().proxy}, {"HF_TOKEN", "hf_one"}});
  int with = 0;
  for (const Request& request : mock().requests("proxy")) {
    const bool to_cdn = request.target.starts_with("http://cdn.invalid");
    EXPECT_EQ(request.has("authorization"), !to_cdn) << request.target;
    with += request.has("authorization");
  }
  EXPECT_GT(with, 0);
}

TEST_F(Variables, AProxyWithPassword) {
  mock().command({{"op", "cdn"}, {"origin", "http://cdn.invalid"}});
  std::string proxy = mock().proxy;
  proxy.insert(proxy.find("//") + 2, "user:secret@");
  const Outcome got = pull("org/name", {{"HF_ENDPOINT", "http://hub.invalid"}, {"http_proxy", proxy}});
  for (const Request& request : mock().requests("proxy")) {
    ASSERT_TRUE(request.has("proxy-authorization"));
    EXPECT_EQ(request.headers.at("proxy-authorization"), "Basic dXNlcjpzZWNyZXQ=");
  }
  EXPECT_EQ((got.out + got.err).find("secret"), std::string::npos);
}

TEST_F(Variables, HostsThatNeedNoProxy) {
  for (const char* name : {"no_proxy", "NO_PROXY"}) {
    SCOPED_TRACE(name);
    fs::remove_all(cache_);
    mock().command({{"op", "clear"}});
    pull("org/name", {{"http_proxy", mock().proxy}, {name, "127.0.0.1,localhost"}});
    EXPECT_TRUE(mock().requests("proxy").empty());
  }
}

TEST_F(Variables, AProxyThatRefusesATunnel) {
  expect_error(pull_fails("org/name", {{"HF_ENDPOINT", "https://hub.invalid"}, {"https_proxy", mock().proxy}}),
               {"proxy"});
  const std::vector<Request> asked = mock().requests("proxy", "CONNECT");
  ASSERT_FALSE(asked.empty());
  EXPECT_EQ(asked[0].target, "hub.invalid:443");
}

TEST_F(Variables, AProxyThatIsNotThere) {
  expect_error(pull_fails("org/name", {{"http_proxy", "http://127.0.0.1:1"}}), {"proxy"});
  EXPECT_TRUE(mock().requests("hub").empty()) << "nobody goes around a proxy in silence";
}

}  // namespace
}  // namespace bumblebee::hub_test
