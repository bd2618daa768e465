// URLs: which host one leads to decides about the token, so every disguise counts.
#include "hub/http.h"

#include <gtest/gtest.h>

namespace bumblebee::hub {
namespace {

TEST(Http, Origins) {
  EXPECT_EQ(origin_of("https://huggingface.co/org/name"), "https://huggingface.co:443");
  EXPECT_EQ(origin_of("https://huggingface.co"), "https://huggingface.co:443");
  EXPECT_EQ(origin_of("http://127.0.0.1:8080/x?y#z"), "http://127.0.0.1:8080");
  EXPECT_EQ(origin_of("http://Example.COM/"), "http://example.com:80");
  EXPECT_EQ(origin_of("HTTPS://huggingface.co:443/"), "https://huggingface.co:443");
  EXPECT_NE(origin_of("http://huggingface.co/"), origin_of("https://huggingface.co/"));
  EXPECT_NE(origin_of("https://huggingface.co:444/"), origin_of("https://huggingface.co/"));
  for (const char* url : {"", "/relative", "//host/x", "file:///etc/passwd", "ftp://huggingface.co/", "javascript:x",
                          "http://", "http://[::1/x", "http://a:99999/"})
    EXPECT_EQ(origin_of(url), "") << url;
}

TEST(Http, OriginsInDisguise) {
  // Hosts that only begin like the Hub's, and credentials that look like a host.
  for (const char* url : {"https://huggingface.co.evil.invalid/", "https://evil.invalid/huggingface.co",
                          "https://huggingface.co@evil.invalid/", "https://evil.invalid#@huggingface.co/",
                          "https://evil.invalid?@huggingface.co/", "https://huggingface.co:443@evil.invalid/"})
    EXPECT_NE(origin_of(url), "https://huggingface.co:443") << url;
}

TEST(Http, PercentEncoding) {
  EXPECT_EQ(percent_encode("model-00001.safetensors_~", false), "model-00001.safetensors_~");
  EXPECT_EQ(percent_encode("refs/pr/1", false), "refs%2Fpr%2F1");
  EXPECT_EQ(percent_encode("a/b c#?%&+.json", true), "a/b%20c%23%3F%25%26%2B.json");
  EXPECT_EQ(percent_encode("\xC3\xA4", true), "%C3%A4");
  EXPECT_EQ(percent_encode(std::string_view("\0\n", 2), true), "%00%0A");
}

TEST(Http, WhatMayPass) {
  for (int status : {408, 429, 500, 502, 503, 504}) EXPECT_TRUE(is_retryable(status)) << status;
  for (int status : {200, 206, 301, 400, 401, 403, 404, 410, 416, 451, 501})
    EXPECT_FALSE(is_retryable(status)) << status;
}

}  // namespace
}  // namespace bumblebee::hub
