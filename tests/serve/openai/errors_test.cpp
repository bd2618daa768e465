// Refusals as clients hear them.
#include "serve/openai/errors.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include <algorithm>

namespace bumblebee::serve {
namespace {

std::string header(const HttpResponse& response, std::string_view name) {
  for (const auto& [key, value] : response.headers) {
    if (key == name) return value;
  }
  return "";
}

TEST(Errors, HaveTheFormOfOpenAI) {
  const HttpResponse response = error_response(ApiError(Refusal::invalid_value, "n: expected \"1\"", "n"));
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(
      response.body,
      R"({"error":{"message":"n: expected \"1\"","type":"invalid_request_error","param":"n","code":"invalid_value"}})");
  EXPECT_EQ(header(response, "content-type"), "application/json");
  EXPECT_EQ(header(response, "retry-after"), "");
  EXPECT_EQ(header(response, "x-should-retry"), "");
  EXPECT_EQ(error_body(ApiError(Refusal::loading, "loading")),
            R"({"error":{"message":"loading","type":"server_error","param":null,"code":"loading"}})");
  EXPECT_EQ(
      error_event(ApiError(Refusal::timed_out, "a\nb")),
      "data: {\"error\":{\"message\":\"a\\nb\",\"type\":\"server_error\",\"param\":null,\"code\":\"timed_out\"}}\n\n");
}

TEST(Errors, OfTheLibrary) {
  const auto status = [](ErrorCode code) { return ApiError(Error(code, "where", "what")).status(); };
  EXPECT_EQ(status(ErrorCode::bad_request), 400);
  EXPECT_EQ(status(ErrorCode::bad_file), 400);
  EXPECT_EQ(status(ErrorCode::bad_config), 400);
  EXPECT_EQ(status(ErrorCode::unsupported), 400);
  EXPECT_EQ(status(ErrorCode::forbidden), 400);
  EXPECT_EQ(status(ErrorCode::too_long), 400);
  EXPECT_EQ(status(ErrorCode::not_found), 404);
  EXPECT_EQ(status(ErrorCode::busy), 429);
  EXPECT_EQ(status(ErrorCode::cancelled), 499);
  EXPECT_EQ(status(ErrorCode::device), 500);
  EXPECT_EQ(status(ErrorCode::network), 502);
  EXPECT_EQ(status(ErrorCode::draining), 503);
  EXPECT_EQ(status(ErrorCode::out_of_memory), 503);
  EXPECT_EQ(status(ErrorCode::timed_out), 504);
  EXPECT_STREQ(ApiError(Error(ErrorCode::bad_request, "template", "no")).what(), "[template] no");
}

TEST(Errors, TooLongHasTheWordsThatClientsLookFor) {
  const ApiError error(TooLong("generation", "prompt", 5000, 4096));
  EXPECT_STREQ(error.kind().code, "context_length_exceeded");
  const std::string message = error.what();
  EXPECT_TRUE(message.starts_with("This model's maximum context length is 4096 tokens. However, ")) << message;
  EXPECT_NE(message.find("5000 tokens"), message.npos);
  EXPECT_EQ(error.param(), "");
  EXPECT_EQ(ApiError(TooLong("generation", "prompt", 5000, 4096), "prompt").param(), "prompt");
  EXPECT_NE(std::string(ApiError(Error(ErrorCode::too_long, "a", "b")).what()).find("maximum context length"),
            message.npos);
}

// The official clients ask again by themselves after 409, 429 and 5xx, and give up when told to wait for over 120 s.
TEST(Errors, SayWhetherToAskAgain) {
  const auto of = [](Refusal refusal) { return error_response(ApiError(refusal, "")); };
  EXPECT_EQ(header(of(Refusal::adapter_exists), "x-should-retry"), "false");
  EXPECT_EQ(header(of(Refusal::generation_differs), "x-should-retry"), "false");
  EXPECT_EQ(header(of(Refusal::out_of_memory), "x-should-retry"), "false");
  EXPECT_EQ(header(of(Refusal::queue_full), "x-should-retry"), "");
  EXPECT_EQ(header(of(Refusal::queue_full), "retry-after"), "1");
  EXPECT_EQ(header(of(Refusal::draining), "retry-after"), "5");
  EXPECT_EQ(header(of(Refusal::invalid_api_key), "www-authenticate"), "Bearer");
  for (const auto& [seconds, said] : {std::pair{0, "1"}, {-3, "1"}, {7, "7"}, {60, "60"}, {61, "60"}, {100000, "60"}}) {
    EXPECT_EQ(header(error_response(ApiError(Refusal::queue_full, "").retry_after(seconds)), "retry-after"), said);
  }
}

TEST(Errors, WriteValidJsonWhateverTheyQuote) {
  const std::string body =
      error_body(ApiError(Refusal::bad_request, "bad \xFF\xC3 \x01 \x7F \" \\ end\xE2\x82", "p\xFF"));
  const nlohmann::json json = nlohmann::json::parse(body);
  EXPECT_EQ(json["error"]["message"], "bad \uFFFD\uFFFD \x01 \x7F \" \\ end\uFFFD\uFFFD");
}

}  // namespace
}  // namespace bumblebee::serve
