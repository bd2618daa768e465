// Who may ask: keys, Host and Origin.
#include "serve/guard.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace bumblebee::serve {
namespace {

class GuardTest : public testing::Test {
 protected:
  GuardTest() : folder_(std::filesystem::temp_directory_path() / ("bb_guard_" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~GuardTest() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path file(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return folder_ / name;
  }
  static HttpHead head(Headers headers) {
    HttpHead made;
    made.method = "GET";
    made.path = "/version";
    made.headers = std::move(headers);
    bool host = false;
    for (const auto& [name, value] : made.headers) host = host || name == "host";
    if (!host) made.headers.emplace_back("host", "127.0.0.1:8080");
    return made;
  }
  static int status(const std::optional<ApiError>& denied) { return denied ? denied->status() : 200; }
  static int key(const Guard& guard, Headers headers, Scope scope = Scope::user) {
    Caller caller;
    return status(guard.check_key(head(std::move(headers)), scope, caller));
  }
  static int origin(const Guard& guard, Headers headers) {
    return status(guard.check_origin(head(std::move(headers))));
  }

  const std::filesystem::path folder_;
};

TEST_F(GuardTest, KeysOfBothHeaders) {
  ServerOptions options;
  options.api_key_file = file("keys", "# of the team\n\n  first-key \nsecond-key\n");
  options.admin_key_file = file("admin", "admin-key\n");
  const Guard guard(options, true);
  EXPECT_EQ(key(guard, {{"authorization", "Bearer first-key"}}), 200);
  EXPECT_EQ(key(guard, {{"authorization", "bearer second-key"}}), 200);
  EXPECT_EQ(key(guard, {{"x-api-key", "second-key"}}), 200);
  EXPECT_EQ(key(guard, {{"authorization", "Bearer admin-key"}}), 200);
  EXPECT_EQ(key(guard, {{"authorization", "Bearer admin-key"}}, Scope::admin), 200);
  EXPECT_EQ(key(guard, {{"authorization", "Bearer first-key"}}, Scope::admin), 403);
  EXPECT_EQ(key(guard, {}, Scope::admin), 401);
  EXPECT_EQ(key(guard, {}, Scope::open), 200);
  for (const Headers& headers : std::vector<Headers>{
           {},
           {{"authorization", ""}},
           {{"authorization", "Bearer "}},
           {{"authorization", "Bearer"}},
           {{"authorization", "Basic first-key"}},
           {{"authorization", "first-key"}},
           {{"authorization", "Bearer first-ke"}},
           {{"authorization", "Bearer first-keyy"}},
           {{"authorization", "Bearer # of the team"}},
           {{"authorization", "Bearer first-key"}, {"authorization", "Bearer first-key"}},
           {{"x-api-key", ""}},
           {{"x-api-key", std::string(1 << 20, 'k')}},
       })
    EXPECT_EQ(key(guard, headers), 401) << (headers.empty() ? "" : headers[0].second.substr(0, 40));
}

TEST_F(GuardTest, KeysTellClientsApart) {
  ServerOptions options;
  options.api_key_file = file("keys", "first-key\nsecond-key\n");
  const Guard guard(options, true);
  Caller first, again, second;
  EXPECT_FALSE(guard.check_key(head({{"x-api-key", "first-key"}}), Scope::user, first));
  EXPECT_FALSE(guard.check_key(head({{"authorization", "Bearer first-key"}}), Scope::user, again));
  EXPECT_FALSE(guard.check_key(head({{"x-api-key", "second-key"}}), Scope::user, second));
  EXPECT_EQ(first.client, again.client);
  EXPECT_NE(first.client, second.client);
  EXPECT_EQ(first.client.find("first"), std::string::npos);
}

TEST_F(GuardTest, AKeyInTheQueryIsNone) {
  ServerOptions options;
  options.api_key_file = file("keys", "first-key\n");
  const Guard guard(options, true);
  HttpHead asked = head({});
  asked.query = "api_key=first-key&key=first-key";
  Caller caller;
  EXPECT_EQ(status(guard.check_key(asked, Scope::user, caller)), 401);
}

TEST_F(GuardTest, AdministrationWithoutItsKeys) {
  ServerOptions options;
  EXPECT_EQ(key(Guard(options, true), {}, Scope::admin), 200) << "one's own machine, nothing locked";
  EXPECT_EQ(key(Guard(options, false), {}, Scope::admin), 403);
  options.api_key_file = file("keys", "first-key\n");
  EXPECT_EQ(key(Guard(options, true), {{"x-api-key", "first-key"}}, Scope::admin), 403);
  options.api_key_file.clear();
  options.admin_key_file = file("admin", "admin-key\n");
  EXPECT_EQ(key(Guard(options, true), {}), 200);
  EXPECT_EQ(key(Guard(options, true), {}, Scope::admin), 401);
}

TEST_F(GuardTest, FilesThatAreNone) {
  EXPECT_THROW(KeySet::read(folder_ / "absent"), Error);
  EXPECT_THROW(KeySet::read(folder_), Error);
  EXPECT_THROW(KeySet::read(file("empty", "# nothing\n\n")), Error);
  EXPECT_THROW(KeySet::read(file("blank", "two words\n")), Error);
  EXPECT_THROW(KeySet::read(file("long", std::string(2000, 'k'))), Error);
}

TEST_F(GuardTest, ReloadingKeepsWhatItHasWhereItFails) {
  ServerOptions options;
  options.api_key_file = file("keys", "old-key\n");
  Guard guard(options, true);
  file("keys", "new-key\n");
  EXPECT_EQ(key(guard, {{"x-api-key", "new-key"}}), 401);
  guard.reload();
  EXPECT_EQ(key(guard, {{"x-api-key", "new-key"}}), 200);
  EXPECT_EQ(key(guard, {{"x-api-key", "old-key"}}), 401);
  file("keys", "third-key\n");
  EXPECT_THROW(guard.reload([] { throw Error(ErrorCode::bad_file, "certificate", "broken"); }), Error);
  EXPECT_EQ(key(guard, {{"x-api-key", "third-key"}}), 401) << "both or none";
  file("keys", "\n");
  EXPECT_THROW(guard.reload([] { ADD_FAILURE() << "not after keys that cannot be read"; }), Error);
  EXPECT_EQ(key(guard, {{"x-api-key", "new-key"}}), 200);
}

TEST_F(GuardTest, HostsThatPagesCanMakeUp) {
  ServerOptions options;
  options.allowed_hosts = {"Models.Example"};
  const Guard guard(options, true);
  for (const char* host :
       {"127.0.0.1", "127.0.0.1:8080", "localhost:9", "LOCALHOST", "[::1]:8080", "10.1.2.3", "models.example:80"})
    EXPECT_EQ(origin(guard, {{"host", host}}), 200) << host;
  for (const char* host :
       {"evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "evil.example:8080"})
    EXPECT_EQ(origin(guard, {{"host", host}}), 403) << host;
  EXPECT_EQ(origin(guard, {{"host", "127.0.0.1"}, {"host", "evil.example"}}), 400);
  HttpHead none;
  EXPECT_EQ(status(guard.check_origin(none)), 400);
  none.version = 10;
  EXPECT_EQ(status(guard.check_origin(none)), 200) << "HTTP/1.0 needs no Host, and browsers do not speak it";
  options.insecure = true;
  EXPECT_EQ(origin(Guard(options, true), {{"host", "evil.example"}}), 200);
}

TEST_F(GuardTest, PagesOfOthers) {
  ServerOptions options;
  options.allowed_origins = {"https://chat.example"};
  const Guard guard(options, true);
  EXPECT_EQ(origin(guard, {{"origin", "https://chat.example"}}), 200);
  EXPECT_EQ(origin(guard, {{"origin", "http://127.0.0.1:8080"}}), 200) << "its own";
  for (const char* page : {"null", "", "https://evil.example", "http://chat.example", "https://chat.example.evil",
                           "http://127.0.0.1:9090"})
    EXPECT_EQ(origin(guard, {{"origin", page}}), 403) << page;
  EXPECT_EQ(origin(guard, {{"origin", "https://chat.example"}, {"origin", "https://evil.example"}}), 403);

  EXPECT_FALSE(guard.cors(head({{"origin", "https://chat.example"}})).empty());
  EXPECT_TRUE(guard.cors(head({{"origin", "http://127.0.0.1:8080"}})).empty());
  EXPECT_TRUE(guard.cors(head({})).empty());
  EXPECT_FALSE(guard.cors_preflight(head({{"origin", "https://chat.example"}}), "GET").empty());
  const auto allowed = [&](std::string asked) {
    for (const auto& [name, value] : guard.cors_preflight(
             head({{"origin", "https://chat.example"}, {"access-control-request-headers", std::move(asked)}}),
             "POST")) {
      if (name == "access-control-allow-headers") return value;
    }
    return std::string();
  };
  EXPECT_EQ(allowed("authorization,content-type,x-stainless-lang"), "authorization,content-type,x-stainless-lang");
  const std::string usual = "authorization, content-type, x-api-key, x-request-id";
  EXPECT_EQ(allowed("x\r\nset-cookie: a"), usual);
  EXPECT_EQ(allowed(std::string(1025, 'x')), usual);
  options.allowed_origins.clear();
  EXPECT_TRUE(Guard(options, true).cors(head({{"origin", "https://chat.example"}})).empty());
}

}  // namespace
}  // namespace bumblebee::serve
