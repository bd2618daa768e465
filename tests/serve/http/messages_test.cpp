// Messages that are wrong, odd or at a limit, each with its answer: exactly one, after which a broken connection ends.
#include <gtest/gtest.h>

#include "base/format.h"
#include "tests/serve/http/client.h"
#include "tests/serve/http/test_server.h"

namespace bumblebee::serve {
namespace {

struct Case {
  std::string name;
  std::string bytes;
  int status;
};

std::string headers(std::string_view lines) { return cat("POST /echo HTTP/1.1\r\nHost: test\r\n", lines, "\r\n"); }
std::string chunked(std::string_view chunks) { return headers("Transfer-Encoding: chunked\r\n") + std::string(chunks); }

size_t count(const std::string& text, std::string_view word) {
  size_t n = 0;
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++n;
  return n;
}

// What must neither be read two ways nor reach the handler as a request.
std::vector<Case> broken() {
  const std::string te = "Transfer-Encoding: chunked\r\n", cl = "Content-Length: 5\r\n", last = "0\r\n\r\n";
  const auto fill = [](size_t size) { return std::string(size, 'a'); };
  std::string many;
  for (int i = 0; i < 100; ++i) many += cat("x-", i, ": 1\r\n");
  return {
      {"length, then chunked", headers(cl + te) + last, 400},
      {"chunked, then length", headers(te + cl) + last, 400},
      {"transfer-encoding gzip", headers("Transfer-Encoding: gzip\r\n"), 400},
      {"gzip, chunked", headers("Transfer-Encoding: gzip, chunked\r\n") + last, 400},
      {"chunked, chunked", headers("Transfer-Encoding: chunked, chunked\r\n") + last, 400},
      {"chunked on two lines", headers(te + te) + last, 400},
      {"identity", headers("Transfer-Encoding: identity\r\n") + last, 400},
      {"chunked with a vertical tab", headers("Transfer-Encoding: \vchunked\r\n") + last, 400},
      {"chunked in 1.0", "POST /echo HTTP/1.0\r\nHost: test\r\n" + te + "\r\n" + last, 400},
      {"chunk of -2", chunked("-2\r\nab\r\n") + last, 400},
      {"chunk of 2^64", chunked("10000000000000000\r\nab\r\n") + last, 400},
      {"chunk size of 17 digits", chunked("00000000000000002\r\nab\r\n") + last, 400},
      {"chunk size with 0x", chunked("0x2\r\nab\r\n") + last, 400},
      {"chunk size missing", chunked("\r\nab\r\n") + last, 400},
      {"chunk size with a space", chunked("2 \r\nab\r\n") + last, 400},
      {"chunk size ends in LF", chunked("2\nab\r\n") + last, 400},
      {"chunk ends in LF", chunked("2\r\nab\n") + last, 400},
      {"chunk longer than said", chunked("2\r\nabc\r\n") + last, 400},
      {"chunk extension", chunked("2;a=b\r\nab\r\n") + last, 400},
      {"chunk extension of 1 MB", chunked("2;" + fill(1 << 20) + "\r\nab\r\n") + last, 400},
      {"chunk extension with a quoted LF", chunked("2;a=\"\n\"\r\nab\r\n") + last, 400},
      {"trailer", chunked("0\r\nContent-Length: 5\r\n\r\n"), 400},
      {"LF for CRLF", "GET /echo HTTP/1.1\nHost: test\n\n", 400},
      {"one LF", "GET /echo HTTP/1.1\r\nHost: test\nX: 1\r\n\r\n", 400},
      {"CR alone", "GET /echo HTTP/1.1\r\nHost: test\rX: 1\r\n\r\n", 400},
      {"two lengths", headers("Content-Length: 5\r\nContent-Length: 6\r\n") + "abcde", 400},
      {"two equal lengths", headers(cl + cl) + "abcde", 400},
      {"length +5", headers("Content-Length: +5\r\n") + "abcde", 400},
      {"length -1", headers("Content-Length: -1\r\n"), 400},
      {"length 5, 5", headers("Content-Length: 5, 5\r\n") + "abcde", 400},
      {"length 5 5", headers("Content-Length: 5 5\r\n") + "abcde", 400},
      {"length 0x5", headers("Content-Length: 0x5\r\n") + "abcde", 400},
      {"empty length", headers("Content-Length: \r\n"), 400},
      {"length of 20 digits", headers("Content-Length: 00000000000000000005\r\n") + "abcde", 400},
      {"length 9e18 and no body", headers("Content-Length: 9000000000000000000\r\n"), 413},
      {"length 2^64 - 1", headers("Content-Length: 18446744073709551615\r\n"), 400},
      {"two hosts", headers("Host: other\r\n"), 400},
      {"two equal hosts", headers("Host: test\r\n"), 400},
      {"no host", "GET /echo HTTP/1.1\r\n\r\n", 400},
      {"two hosts in 1.0", "GET /echo HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400},
      {"another host in the target", get("http://other/echo"), 400},
      {"header of 16 KB + 1", headers("X: " + fill((16 << 10) + 1 - headers("X: \r\n").size()) + "\r\n"), 431},
      {"101 fields", headers(many), 431},
      {"endless line", "GET /" + fill(1 << 20), 431},
      {"endless empty lines",
       [] {
         std::string lines;
         for (int i = 0; i < 10000; ++i) lines += "\r\n";
         return lines;
       }(),
       431},
      {"NUL in a value", headers(std::string("X: a\0b\r\n", 8)), 400},
      {"NUL in a name", headers(std::string("X\0: a\r\n", 7)), 400},
      {"NUL in the target", std::string("GET /\0 HTTP/1.1\r\nHost: test\r\n\r\n", 31), 400},
      {"DEL in a value", headers("X: \x7f\r\n"), 400},
      {"folding", headers("X: a\r\n b\r\n"), 400},
      {"folding first", "GET /echo HTTP/1.1\r\n X: a\r\nHost: test\r\n\r\n", 400},
      {"space before the colon", headers("Content-Length : 5\r\n") + "abcde", 400},
      {"tab before the colon", headers("Content-Length\t: 5\r\n") + "abcde", 400},
      {"no colon", headers("Content-Length\r\n"), 400},
      {"no name", headers(": 5\r\n"), 400},
      {"space in a name", headers("Content Length: 5\r\n"), 400},
      {"name of UTF-8", headers("C\xC3\xB6ntent: 5\r\n"), 400},
      {"target of UTF-8", get("/\xC3\xB6"), 400},
      {"fragment", get("/echo#a"), 400},
      {"two spaces", "GET  /echo HTTP/1.1\r\nHost: test\r\n\r\n", 400},
      {"tab for a space", "GET\t/echo\tHTTP/1.1\r\nHost: test\r\n\r\n", 400},
      {"no version", "GET /echo\r\nHost: test\r\n\r\n", 400},
      {"HTTP/1.2", "GET /echo HTTP/1.2\r\nHost: test\r\n\r\n", 505},
      {"HTTP/2.0", "GET /echo HTTP/2.0\r\nHost: test\r\n\r\n", 505},
      {"http/1.1", "GET /echo http/1.1\r\nHost: test\r\n\r\n", 400},
      {"CONNECT", "CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\n\r\n", 405},
      {"TLS", std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11), 400},
      {"another protocol", "SSH-2.0-client\r\n\r\n", 400},
  };
}

TEST(Messages, BrokenOnesGetOneAnswerAndTheConnectionEnds) {
  TestServer server;
  uint64_t seen = 0;
  for (const auto& [name, bytes, status] : broken()) {
    SCOPED_TRACE(name);
    Client client(server.port);
    client.send(bytes);
    client.send(get("/echo"));  // what a smuggler would like to be read as a second request
    const std::string all = client.rest();
    EXPECT_EQ(all.substr(0, 13), cat("HTTP/1.1 ", status, " ")) << all.substr(0, 200);
    EXPECT_EQ(count(all, "HTTP/1.1 "), 1U) << all;
    EXPECT_NE(all.find("connection: close\r\n"), std::string::npos) << all;
    EXPECT_EQ(server.http->stats().broken_requests, ++seen);
  }
  EXPECT_EQ(server.handler.requests(), 0U);
}

TEST(Messages, OddOnesAreTakenForWhatTheyAre) {
  TestServer server;
  std::string many;
  for (int i = 0; i < 98; ++i) many += cat("x-", i, ": 1\r\n");
  const size_t bare = cat(headers("X: \r\nContent-Length: 0\r\n")).size();
  const std::vector<std::pair<std::string, std::string>> cases = {
      {post("/echo?a=%00&b", "body"), "POST /echo?a=%00&b body"},
      {chunked("2\r\nab\r\n00A\r\n0123456789\r\n0\r\n\r\n"), "POST /echo ab0123456789"},
      {headers("Transfer-Encoding: Chunked\r\n") + "0\r\n\r\n", "POST /echo "},
      {"\r\n\r\n" + get("/echo"), "GET /echo "},
      {get("/%2e%2e/%00"), "GET /%2e%2e/%00 "},
      {get("http://test/echo"), "GET /echo "},
      {get("/echo", "X:\t a\xC3\xB6 \r\n"), "GET /echo "},
      {headers("X: " + std::string((16 << 10) - bare, 'a') + "\r\nContent-Length: 0\r\n"), "POST /echo "},
      {headers(many + "Content-Length: 0\r\n"), "POST /echo "},
      {get("/echo", "Connection: upgrade\r\nUpgrade: websocket\r\n"), "GET /echo "},
      {get("/echo", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
       "GET /echo "},
      {"X-ODD!~ /echo HTTP/1.1\r\nhOST:test\r\n\r\n", "X-ODD!~ /echo "},
      {post("/echo", std::string(1 << 20, 'b')), cat("POST /echo ", std::string(1 << 20, 'b'))},
      {"GET /echo HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n", "GET /echo "},
      {"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET /echo "},  // which needs no host
  };
  Client client(server.port);  // all on one connection
  for (const auto& [bytes, body] : cases) {
    ASSERT_TRUE(client.send(bytes));
    const Answer answer = client.answer();
    EXPECT_EQ(answer.status, 200) << bytes.substr(0, 200);
    EXPECT_EQ(answer.body.size(), body.size());
    EXPECT_TRUE(answer.body == body) << answer.body.substr(0, 200);
  }
  EXPECT_EQ(server.http->stats().accepted, 1U);
  EXPECT_EQ(server.http->stats().broken_requests, 0U);
}

TEST(Messages, AHeadReachesTheHandlerAsItWasSent) {
  TestServer server;
  Client client(server.port);
  client.send("PUT /echo?x=/%20? HTTP/1.1\r\nHost: Test:1\r\nX-Two: a\r\nx-tWO:  b \r\nContent-Length: 2\r\n\r\nhi");
  EXPECT_EQ(client.answer().body, "PUT /echo?x=/%20? hi");
  const HttpHead head = server.handler.heads().at(0);
  EXPECT_EQ(head.method, "PUT");
  EXPECT_EQ(head.path, "/echo");
  EXPECT_EQ(head.query, "x=/%20?");
  EXPECT_EQ(head.peer, "127.0.0.1");
  EXPECT_EQ(head.version, 11);
  EXPECT_FALSE(head.tls);
  EXPECT_EQ(head.content_length, 2U);
  EXPECT_EQ(head.header("host"), "Test:1");
  EXPECT_EQ(head.header("x-two"), std::nullopt);
  std::vector<std::string> two;
  for (const auto& [name, value] : head.headers) {
    if (name == "x-two") two.push_back(value);
  }
  EXPECT_EQ(two, (std::vector<std::string>{"a", "b"}));
}

TEST(Messages, AHundredPipelinedAreAnsweredInTheirOrder) {
  TestServer server;
  Client client(server.port);
  std::string all;
  for (int i = 0; i < 100; ++i)
    all += i % 2 == 0 ? get(cat("/echo?", i)) : post(cat("/echo?", i), std::string(1000, 'x'));
  ASSERT_TRUE(client.send(all));
  for (int i = 0; i < 100; ++i) {
    const Answer answer = client.answer();
    ASSERT_EQ(answer.status, 200);
    ASSERT_EQ(answer.body.find(cat(i % 2 == 0 ? "GET" : "POST", " /echo?", i, " ")), 0U) << answer.body.substr(0, 100);
  }
}

TEST(Messages, ABrokenOneBehindGoodOnesIsAnsweredLast) {
  TestServer server;
  Client client(server.port);
  client.send(get("/echo") + post("/echo", "a") + "nonsense\r\n\r\n" + get("/echo"));
  EXPECT_EQ(client.answer().status, 200);
  EXPECT_EQ(client.answer().status, 200);
  EXPECT_EQ(client.answer().status, 400);
  EXPECT_EQ(client.rest(), "");
  EXPECT_EQ(server.handler.requests(), 2U);
}

TEST(Messages, ByteByByte) {
  TestServer server;
  Client client(server.port);
  for (const char c : chunked("1\r\na\r\n2\r\nbc\r\n0\r\n\r\n") + get("/echo")) client.send({&c, 1});
  EXPECT_EQ(client.answer().body, "POST /echo abc");
  EXPECT_EQ(client.answer().body, "GET /echo ");
}

TEST(Messages, ExpectIsAnsweredOnlyWhenTheBodyIsWanted) {
  TestServer server;
  Client client(server.port);
  client.send("POST /echo HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_EQ(client.answer().status, 100);
  client.send("hi");
  EXPECT_EQ(client.answer().body, "POST /echo hi");
  client.send("POST /forbidden HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_EQ(client.answer().status, 403);
  EXPECT_EQ(client.rest(), "");
}

TEST(Messages, HeadHasNoBody) {
  TestServer server;
  Client client(server.port);
  client.send("HEAD /echo HTTP/1.1\r\nHost: test\r\n\r\n" + get("/echo"));
  const Answer answer = client.answer(true);
  EXPECT_EQ(answer.status, 200);
  EXPECT_TRUE(answer.has("content-length: 11\r\n")) << answer.head;
  EXPECT_EQ(client.answer().body, "GET /echo ");
  EXPECT_EQ(server.handler.gone(), 0U);
}

TEST(Messages, OldClientsGetNoChunksAndTheEndOfTheConnection) {
  TestServer server;
  Client client(server.port);
  client.send("GET /stream HTTP/1.0\r\nHost: test\r\n\r\n");
  const auto held = server.handler.take();
  held.exchange->write("a");
  held.exchange->write("b");
  held.exchange->end();
  const Answer answer = client.answer();
  EXPECT_EQ(answer.status, 200);
  EXPECT_FALSE(answer.has("transfer-encoding"));
  EXPECT_EQ(answer.body, "ab");
}

TEST(Messages, BodiesHaveALimitOfTheirOwnAndOneTogether) {
  TestServer server([](HttpOptions& options) {
    options.max_body_bytes = 100'000;
    options.max_bodies_bytes = 150'000;
  });
  {
    Client client(server.port);
    client.send(post("/echo", std::string(100'000, 'a')));
    EXPECT_EQ(client.answer().status, 200);
    client.send(post("/echo", std::string(100'001, 'a')));
    EXPECT_EQ(client.answer().status, 413);
    EXPECT_EQ(client.rest(), "");
  }
  {
    Client client(server.port);
    client.send(chunked(cat("186A1\r\n", std::string(100'001, 'a'), "\r\n0\r\n\r\n")));
    EXPECT_EQ(client.answer().status, 413);
  }
  Client one(server.port);
  one.send(cat("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 90000\r\n\r\n", std::string(80'000, 'a')));
  int status = 200;
  while (status == 200) {  // until the first one's bytes are counted
    Client two(server.port);
    two.send(post("/echo", std::string(80'000, 'b')));
    status = two.answer().status;
  }
  EXPECT_EQ(status, 503);
  one.send(std::string(10'000, 'a'));
  EXPECT_EQ(one.answer().status, 200);
  Client three(server.port);
  three.send(post("/echo", std::string(80'000, 'b')));
  EXPECT_EQ(three.answer().status, 200);
}

TEST(Messages, ARefusalWaitsForASmallBodyAndLingersForALargeOne) {
  TestServer server;
  Client client(server.port);
  client.send(post("/forbidden", std::string(64 << 10, 'a')) + chunked("2\r\nab\r\n0\r\n\r\n"));
  Answer answer = client.answer();
  EXPECT_EQ(answer.status, 403);
  EXPECT_EQ(answer.body, "no\n");
  EXPECT_TRUE(answer.has("x-why: test\r\n"));
  EXPECT_EQ(client.answer().status, 200) << "the connection is as good as before";
  // The client sends all of it before it reads: closed at once, it would see a reset.
  ASSERT_TRUE(client.send(post("/forbidden", std::string(4 << 20, 'a'))));
  answer = client.answer();
  EXPECT_EQ(answer.status, 403);
  EXPECT_EQ(answer.body, "no\n");
  EXPECT_EQ(client.rest(), "");
  EXPECT_EQ(server.handler.requests(), 1U);
}

struct Jester : TestHandler {
  HttpResponse on_broken(int status, std::string_view why) noexcept override {
    return {status, {{"content-type", "application/json"}, {"content-length", "7"}}, cat("{\"", why, "\"}")};
  }
};

TEST(Messages, TheHandlerWordsTheAnswerToABrokenOne) {
  Jester handler;
  HttpOptions options;
  options.addresses = {"127.0.0.1"};
  const auto http = start_http(options, handler);
  Client client(http->port());
  client.send("GET / HTTP/1.1\r\n\r\n");
  const Answer answer = client.answer();
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(answer.body, "{\"expected one host\"}");
  EXPECT_TRUE(answer.has("content-type: application/json\r\n"));
}

}  // namespace
}  // namespace bumblebee::serve
