// Routes: each by its path with and without /v1, nothing else by any spelling.
#include "serve/router.h"

#include <gtest/gtest.h>

#include <string>

namespace bumblebee::serve {
namespace {

using Kind = Match::Kind;

TEST(Router, EveryRouteWithAndWithoutVersion) {
  for (const Route& route : routes()) {
    const std::string path = std::string(route.path) + (route.id == RouteId::model ? "some" : "");
    for (const std::string& spelled : {path, "/v1" + path}) {
      const Match found = match(route.method, spelled);
      ASSERT_EQ(found.kind, Kind::route) << spelled;
      EXPECT_EQ(found.route->id, route.id) << spelled;
    }
  }
  EXPECT_EQ(routes().size(), size_t(kRouteCount));
}

TEST(Router, RoutesThatChangeSomethingAreForAdministration) {
  for (const Route& route : routes()) {
    const bool changes = route.path.find("load_lora") != std::string_view::npos;
    EXPECT_EQ(route.scope == Scope::admin, changes) << route.path;
    const bool open = route.id == RouteId::health || route.id == RouteId::ready;
    EXPECT_EQ(route.scope == Scope::open, open) << route.path;
  }
}

TEST(Router, OtherSpellingsLeadNowhere) {
  for (const char* path : {"",
                           "/",
                           "/v1",
                           "/v1/",
                           "/v2/models",
                           "//health",
                           "/health/",
                           "/Health",
                           "/v1/v1/health",
                           "/%68ealth",
                           "/health%00",
                           "/v1/../health",
                           "/v1/%2e%2e/metrics",
                           "/chat",
                           "/models/",
                           "/models/%",
                           "/models/%0",
                           "/models/%zz",
                           "/models/%00",
                           "/models/a%0ab",
                           "/models/%ff",
                           "/tokenize?x",
                           "/load_lora_adapter/x"})
    EXPECT_EQ(match("GET", path).kind, Kind::no_such_path) << path;
}

TEST(Router, NamesOfModelsAreDecoded) {
  EXPECT_EQ(match("GET", "/v1/models/org%2Fname").argument, "org/name");
  EXPECT_EQ(match("GET", "/v1/models/org/name").argument, "org/name");
  EXPECT_EQ(match("GET", "/models/base%3Aadapter").argument, "base:adapter");
  EXPECT_EQ(match("GET", "/models/..").argument, "..") << "a name like any other: it is looked up, not opened";
}

TEST(Router, Methods) {
  EXPECT_EQ(match("HEAD", "/health").kind, Kind::route);
  EXPECT_EQ(match("OPTIONS", "/v1/chat/completions").kind, Kind::options);
  EXPECT_EQ(match("OPTIONS", "/v1/chat/completions").allow, "POST, OPTIONS");
  EXPECT_EQ(match("GET", "/v1/chat/completions").kind, Kind::wrong_method);
  EXPECT_EQ(match("HEAD", "/v1/chat/completions").kind, Kind::wrong_method);
  EXPECT_EQ(match("POST", "/health").kind, Kind::wrong_method);
  EXPECT_EQ(match("POST", "/health").allow, "GET, HEAD, OPTIONS");
  EXPECT_EQ(match("get", "/health").kind, Kind::wrong_method);
  EXPECT_EQ(match("DELETE", "/v1/models/x").kind, Kind::wrong_method);
}

}  // namespace
}  // namespace bumblebee::serve
