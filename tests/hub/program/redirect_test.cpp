// Where redirects may lead, and that the token never goes along to another host.
#include "tests/hub/program/hub_test.h"

namespace fs = std::filesystem;

namespace bumblebee::hub_test {
namespace {

const Environment kWithToken = {{"HF_TOKEN", kToken}};

class Redirect : public HubTest {
 protected:
  void SetUp() override {
    HubTest::SetUp();
    commit_ = publish(small_model());
    mock().command({{"op", "token"}, {"token", kToken}});
  }
  void succeeds() {
    pull("org/name", kWithToken);
    expect_complete(commit_);
  }
  void fails(const std::vector<std::string>& words) {
    const Outcome got = pull_fails("org/name", kWithToken);
    expect_error(got, words);
    expect_absent(commit_, kWeights);
    EXPECT_EQ((got.out + got.err).find(kToken), std::string::npos) << "the token is printed";
  }
  static void expect_no_token(const std::string& where) {
    const std::vector<Request> requests = mock().requests(where);
    EXPECT_FALSE(requests.empty());
    for (const Request& request : requests) {
      EXPECT_FALSE(request.has("authorization")) << request.method << " " << request.target;
      EXPECT_FALSE(request.has("cookie"));
      for (const auto& [name, value] : request.headers) EXPECT_EQ(value.find(kToken), std::string::npos) << name;
      EXPECT_EQ(request.target.find(kToken), std::string::npos);
    }
  }
  static void expect_token(const std::string& path_holds) {
    const std::vector<Request> requests = mock().requests("hub", "", path_holds);
    EXPECT_FALSE(requests.empty()) << path_holds;
    for (const Request& request : requests) {
      ASSERT_TRUE(request.has("authorization")) << request.target;
      EXPECT_EQ(request.headers.at("authorization"), "Bearer " + kToken);
    }
  }
  Commit commit_;
};

TEST_F(Redirect, TheTokenStaysOnTheHub) {
  succeeds();
  expect_token("/api/models/org/name/");
  expect_token("/resolve/");
  expect_token("/api/resolve-cache/");  // a relative redirect
  expect_no_token("cdn");
}

TEST_F(Redirect, AnotherPortOfTheSameHostIsAnotherHost) {
  const std::string port = mock().cdn.substr(mock().cdn.rfind(':'));
  mock().command({{"op", "cdn"}, {"origin", "http://127.0.0.1" + port}});
  succeeds();
  expect_no_token("cdn");
}

TEST_F(Redirect, NoTokenAfterABreakEither) {
  mock().fault({{"where", "cdn"}, {"truncate_at", 100'000}, {"times", 1}});
  mock().fault({{"where", "cdn"}, {"drop", "reset"}, {"skip", 1}, {"times", 1}});
  succeeds();
  expect_no_token("cdn");
  EXPECT_GE(mock().requests("cdn").size(), 3u);
}

TEST_F(Redirect, NoTokenThroughAChainOfHosts) {
  // hub -> cdn -> cdn -> cdn: another host, and again.
  mock().fault({{"where", "cdn"}, {"redirect", "{target}&Hop=1"}, {"times", 2}});
  succeeds();
  expect_no_token("cdn");
}

TEST_F(Redirect, TheTokenDoesNotComeBackThroughAnotherHost) {
  // A CDN that redirects to the hub must not be able to have a request signed.
  mock().fault({{"where", "cdn"}, {"redirect", "{hub}/org/name/resolve/" + commit_.sha + "/planted"}});
  const Outcome got = run({"pull", "org/name"}, kWithToken);
  EXPECT_NE(got.status, 0);
  expect_sound();
  for (const Request& request : mock().requests("hub", "", "/planted")) EXPECT_FALSE(request.has("authorization"));
}

TEST_F(Redirect, RenamedRepositoriesKeepTheToken) {
  mock().repository("org/old", {{"renamed_to", "org/name"}});
  const Outcome got = run({"pull", "org/old"}, kWithToken);
  EXPECT_EQ(got.status, 0) << got.err;
  expect_token("/api/models/org/name/");
  expect_no_token("cdn");
}

TEST_F(Redirect, AbsoluteRedirectsOnTheHubKeepTheToken) {
  mock().fault({{"where", "hub"},
                {"path", "/org/name/resolve/*/config.json"},
                {"redirect", "{hub}/api/resolve-cache/models/org/name/" + commit_.sha + "/config.json"}});
  succeeds();
  expect_token("/api/resolve-cache/");
}

TEST_F(Redirect, NoTokenFromTheApiEither) {
  mock().fault({{"where", "hub"}, {"path", "*/revision/*"}, {"redirect", "{cdn}/elsewhere"}});
  fails({"org/name"});
  expect_no_token("cdn");
}

TEST_F(Redirect, NoTokenToThePageOfAnotherHost) {
  mock().repository("org/name", {{"page_size", 2}});
  mock().fault(
      {{"where", "hub"}, {"path", "*/tree/*"}, {"set", {{"Link", "<" + mock().cdn + "/page2>; rel=\"next\""}}}});
  run({"pull", "org/name"}, kWithToken);
  expect_sound();
  expect_absent(commit_, kWeights);
  for (const Request& request : mock().requests("cdn")) EXPECT_FALSE(request.has("authorization"));
}

TEST_F(Redirect, LoopsEnd) {
  const nlohmann::json loops[] = {
      {{"where", "hub"}, {"path", "*/resolve/*"}, {"redirect", "{target}"}, {"status", 307}},
      {{"where", "hub"}, {"path", "*/revision/*"}, {"redirect", "{target}"}},
      {{"where", "hub"}, {"path", "*/tree/*"}, {"redirect", "{hub}{target}"}, {"status", 308}},
      {{"where", "cdn"}, {"redirect", "{cdn}{target}"}, {"status", 301}},
      {{"where", "cdn"}, {"redirect", "{hub}/org/name/resolve/" + commit_.sha + "/" + kWeights}},
      {{"where", "cdn"}, {"redirect", "{target}x"}},
  };
  for (const nlohmann::json& loop : loops) {
    SCOPED_TRACE(loop.dump());
    fs::remove_all(cache_);
    mock().command({{"op", "clear"}});
    mock().fault(loop);
    fails({"redirect"});
    EXPECT_LE(mock().requests().size(), 400u);
    expect_sound();
  }
}

TEST_F(Redirect, OtherProtocolsAreNotFollowed) {
  write_file(root_ / "test-secret", "secret of this machine");
  for (const std::string& target :
       {"file://" + (root_ / "test-secret").string(), std::string("ftp://127.0.0.1/x"),
        std::string("gopher://127.0.0.1:1/x"), std::string("javascript:alert(1)"), std::string("//"),
        std::string("http://"), std::string("http:///x"), std::string("http://[::1/x"),
        std::string("dict://127.0.0.1:1/"), std::string("")}) {
    SCOPED_TRACE(target);
    mock().command({{"op", "clear"}});
    mock().fault({{"where", "hub"}, {"path", "*/resolve/*/" + kWeights}, {"redirect", target}});
    fails({"org/name"});
  }
}

TEST_F(Redirect, ARedirectWithoutPlace) {
  mock().fault({{"where", "hub"}, {"path", "*/resolve/*/" + kWeights}, {"status", 302}});
  fails({"org/name"});
}

TEST_F(Redirect, NoTokenToAHostWithCredentials) {
  const std::string port = mock().cdn.substr(mock().cdn.rfind(':'));
  mock().command({{"op", "cdn"}, {"origin", "http://user:password@localhost" + port}});
  run({"pull", "org/name"}, kWithToken);
  expect_sound();
  for (const Request& request : mock().requests("cdn")) {
    for (const auto& [name, value] : request.headers) EXPECT_EQ(value.find(kToken), std::string::npos) << name;
  }
}

TEST_F(Redirect, ASignedUrlThatExpires) {
  // The first body breaks off; its URL is good no more, so the hub must be asked for another.
  mock().fault({{"where", "cdn"}, {"truncate_at", 100'000}, {"times", 1}});
  mock().fault({{"where", "cdn"}, {"status", 403}, {"ranged", true}, {"times", 1}});
  const Outcome got = run({"pull", "org/name"}, kWithToken);
  expect_sound();
  if (got.status != 0) expect_error(got, {"org/name"});
  succeeds();
  EXPECT_GE(mock().requests("hub", "GET", "/resolve/" + commit_.sha + "/" + kWeights).size(), 2u);
}

TEST_F(Redirect, LongNamesOfPlaces) {
  mock().fault(
      {{"where", "hub"}, {"path", "*/resolve/*/" + kWeights}, {"redirect", "{cdn}/" + std::string(60'000, 'a')}});
  fails({"org/name"});
}

TEST_F(Redirect, HeadersThatNeverEnd) {
  mock().fault({{"where", "cdn"}, {"set", {{"X-Filler", std::string(2 << 20, 'x')}}}});
  fails({"org/name"});
}

}  // namespace
}  // namespace bumblebee::hub_test
