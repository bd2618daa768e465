// Connections: peers that are slow, leave, or are too many; exchanges that are dropped; and how a server ends.
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <atomic>
#include <thread>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/format.h"
#include "bumblebee/log.h"
#include "tests/serve/http/client.h"
#include "tests/serve/http/test_server.h"

namespace bumblebee::serve {
namespace {

using std::chrono::milliseconds;

// An address of this machine that is not loopback, if there is one.
std::string own_address() {
  ifaddrs* all = nullptr;
  std::string found;
  if (::getifaddrs(&all) != 0) return found;
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET) continue;
    char text[INET_ADDRSTRLEN] = {};
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(one->ifa_addr)->sin_addr, text, sizeof text);
    if (std::string_view(text).substr(0, 4) != "127.") found = text;
  }
  ::freeifaddrs(all);
  return found;
}

bool has_six() {
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return false;
  bool found = false;
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET6) continue;
    found = found || IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(one->ifa_addr)->sin6_addr);
  }
  ::freeifaddrs(all);
  return found;
}

TEST(Connections, ASlowHeadIsToldSoAndSilenceIsClosedWithoutAWord) {
  TestServer server([](HttpOptions& options) { options.header_timeout = milliseconds(50); });
  Client silent(server.port);
  EXPECT_EQ(silent.rest(), "");
  int status = 0;
  while (status == 0) {  // on a busy machine even the first bytes may come too late
    Client slow(server.port);
    slow.send("GET /echo HTTP/1.1\r\nHo");
    status = slow.answer().status;
    EXPECT_EQ(slow.rest(), "");
  }
  EXPECT_EQ(status, 408);
  EXPECT_EQ(server.http->stats().broken_requests, 1U);
}

TEST(Connections, ATrickleDoesNotExtendTheTimeOfAHead) {
  TestServer server([](HttpOptions& options) { options.header_timeout = milliseconds(100); });
  int status = 0;
  while (status == 0) {
    Client slow(server.port);
    std::string sent = "GET /echo HTTP/1.1\r\nHost: test\r\nX: ";
    while (slow.send(sent) && server.http->stats().broken_requests == 0) {
      sent = "a";
      std::this_thread::sleep_for(milliseconds(10));
    }
    status = slow.answer().status;
  }
  EXPECT_EQ(status, 408);
}

TEST(Connections, ASlowBodyIsToldSo) {
  TestServer server([](HttpOptions& options) { options.body_idle_timeout = milliseconds(50); });
  for (const auto* framing : {"Content-Length: 10", "Transfer-Encoding: chunked"}) {
    Client slow(server.port);
    slow.send(cat("POST /echo HTTP/1.1\r\nHost: test\r\n", framing, "\r\n\r\n5\r\nab"));
    EXPECT_EQ(slow.answer().status, 408);
    EXPECT_EQ(slow.rest(), "");
  }
  EXPECT_EQ(server.handler.requests(), 0U);
}

TEST(Connections, AnIdleOneIsClosedButNotOneThatWaits) {
  TestServer server([](HttpOptions& options) { options.idle_timeout = milliseconds(50); });
  Client client(server.port);
  client.send(get("/hold"));
  const auto held = server.handler.take();
  std::this_thread::sleep_for(milliseconds(300));
  held.exchange->respond({200, {}, "late"});
  EXPECT_EQ(client.answer().body, "late");
  EXPECT_EQ(client.rest(), "");
}

TEST(Connections, AReaderThatTakesNothingIsGone) {
  TestServer server([](HttpOptions& options) { options.write_stall = milliseconds(200); });
  Client client(server.port, "127.0.0.1", 4096);
  client.send(get("/stream"));
  const auto held = server.handler.take();
  const std::string piece(100'000, 'a');
  for (int i = 0; i < 100; ++i) held.exchange->write(piece);
  server.handler.wait_gone(held.id);
  EXPECT_TRUE(held.exchange->gone());
  EXPECT_EQ(server.http->stats().stalled, 1U);
  held.exchange->write(piece);
  EXPECT_EQ(held.exchange->unsent(), 0U);
  server.wait_stats(&HttpStats::connections, 0);
}

TEST(Connections, WhatAReaderHasNotTakenIsUnsent) {
  TestServer server;
  Client client(server.port, "127.0.0.1", 4096);
  client.send(get("/stream"));
  const auto held = server.handler.take();
  const std::string piece(1000, 'a');
  for (int i = 0; i < 2000; ++i) held.exchange->write(piece);
  held.exchange->end();
  EXPECT_GT(held.exchange->unsent(), 1'000'000U) << "what the kernel hides must be little";
  EXPECT_EQ(client.answer().body.size(), 2'000'000U);
  EXPECT_EQ(held.exchange->unsent(), 0U);
  EXPECT_EQ(server.handler.gone(), 0U);
}

TEST(Connections, APeerThatLeavesIsNoticedWhileNothingIsWritten) {
  TestServer server;
  const std::string body(1000, 'a');
  const std::vector<std::pair<std::string, void (Client::*)()>> ways = {
      {get("/hold"), &Client::close},
      {get("/hold"), &Client::reset},
      {get("/hold"), &Client::half_close},  // who has said everything cannot be told from who left
      {post("/hold", body), &Client::close},
      {get("/stream"), &Client::close},
      {get("/hold") + get("/echo"), &Client::close},  // with more behind
  };
  for (const auto& [bytes, leave] : ways) {
    Client client(server.port);
    client.send(bytes);
    const auto held = server.handler.take();
    EXPECT_FALSE(held.exchange->gone());
    (client.*leave)();
    server.handler.wait_gone(held.id);
    EXPECT_TRUE(held.exchange->gone());
    held.exchange->respond({200, {}, "nobody"});
  }
  EXPECT_EQ(server.handler.gone(), ways.size());
  server.wait_stats(&HttpStats::connections, 0);
}

TEST(Connections, WhoLeavesInItsHeadOrBodyIsNoRequest) {
  TestServer server;
  for (const auto* bytes : {"", "GET /ec", "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nabc",
                            "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"}) {
    Client client(server.port);
    client.send(bytes);
    client.half_close();
    EXPECT_EQ(client.rest(), "") << bytes;
  }
  EXPECT_EQ(server.handler.requests(), 0U);
  EXPECT_EQ(server.handler.gone(), 0U);
  server.wait_stats(&HttpStats::connections, 0);
}

TEST(Connections, ADroppedExchangeBreaksTheConnectionOff) {
  TestServer server;
  {
    Client client(server.port);
    client.send(get("/drop") + get("/echo"));
    EXPECT_EQ(client.rest(), "");
  }
  Client client(server.port);
  client.send(get("/stream"));
  auto held = server.handler.take();
  EXPECT_NE(client.receive(), "");
  held.exchange->write("a");
  EXPECT_EQ(client.receive(), "1\r\na\r\n");
  held.exchange.reset();
  EXPECT_EQ(client.rest(), "") << "no end of the chunks";
  EXPECT_EQ(server.handler.gone(), 0U) << "who dropped it knows";
}

TEST(Connections, PiecesArriveAsTheyAreWritten) {
  TestServer server;
  Client client(server.port);
  client.send(get("/stream"));
  const auto held = server.handler.take();
  EXPECT_NE(client.receive().find("text/event-stream"), std::string::npos) << "the head does not wait for a piece";
  for (const auto* piece : {"data: 1\n\n", "data: 2\n\n"}) {
    held.exchange->write(piece);
    EXPECT_EQ(client.receive(), cat("9\r\n", piece, "\r\n"));
  }
  held.exchange->end();
  EXPECT_EQ(client.receive(), "0\r\n\r\n");
  held.exchange->write("after the end");
  EXPECT_EQ(held.exchange->unsent(), 0U);
  client.send(get("/echo"));
  EXPECT_EQ(client.answer().status, 200);
}

TEST(Connections, AHeaderThatCannotBeSentMakesA500) {
  TestServer server;
  Client client(server.port);
  client.send(get("/hold"));
  server.handler.take().exchange->respond({200, {{"x-injected", "a\r\nset-cookie: b"}}, "x"});
  const Answer answer = client.answer();
  EXPECT_EQ(answer.status, 500);
  EXPECT_FALSE(answer.has("set-cookie"));
}

TEST(Connections, AreLimitedInAll) {
  TestServer server([](HttpOptions& options) { options.max_connections = 2; });
  Client one(server.port);
  auto two = std::make_unique<Client>(server.port);
  server.wait_stats(&HttpStats::connections, 2);
  Client three(server.port);
  EXPECT_EQ(three.rest(), "");
  EXPECT_EQ(server.http->stats().refused_connections, 1U);
  two.reset();
  server.wait_stats(&HttpStats::connections, 1);
  Client four(server.port);
  four.send(get("/echo"));
  EXPECT_EQ(four.answer().status, 200);
}

TEST(Connections, AreLimitedPerAddressButNotOnLoopback) {
  const std::string own = own_address();
  if (own.empty()) GTEST_SKIP() << "not run: this machine has no address but loopback";
  TestServer server([&](HttpOptions& options) {
    options.addresses = {"127.0.0.1", own};
    options.max_connections_per_address = 1;
  });
  Client one(server.port, own);
  server.wait_stats(&HttpStats::connections, 1);
  Client two(server.port, own);
  EXPECT_EQ(two.rest(), "");
  EXPECT_EQ(server.http->stats().refused_connections, 1U);
  Client near(server.port), nearer(server.port);
  near.send(get("/echo"));
  nearer.send(get("/echo"));
  EXPECT_EQ(near.answer().status, 200);
  EXPECT_EQ(nearer.answer().status, 200);
}

TEST(Connections, ClosingLetsAnswersEndAndGivesWhoComesOne) {
  TestServer server;
  Client unheard(server.port), used(server.port), busy(server.port), streaming(server.port);
  used.send(get("/echo"));
  EXPECT_EQ(used.answer().status, 200);
  busy.send(get("/hold"));
  const auto held = server.handler.take();
  streaming.send(get("/stream"));
  const auto stream = server.handler.take();
  server.http->start_closing();
  EXPECT_EQ(used.rest(), "");
  const auto gets_one_answer = [](Client& client) {
    client.send(get("/echo"));
    const Answer told = client.answer();
    EXPECT_EQ(told.status, 200);
    EXPECT_TRUE(told.has("connection: close\r\n"));
    EXPECT_EQ(client.rest(), "") << "one answer";
  };
  gets_one_answer(unheard);  // its request may have been on its way
  for (int i = 0; i < 2; ++i) {
    Client late(server.port);
    gets_one_answer(late);
  }
  Client silent(server.port);
  held.exchange->respond({200, {}, "done"});
  const Answer answer = busy.answer();
  EXPECT_EQ(answer.body, "done");
  EXPECT_TRUE(answer.has("connection: close\r\n"));
  EXPECT_EQ(busy.rest(), "");
  stream.exchange->write("a");
  stream.exchange->end();
  EXPECT_EQ(streaming.answer().body, "a");
  EXPECT_EQ(streaming.rest(), "");
  EXPECT_TRUE(silent.connected());
  EXPECT_TRUE(server.http->close(milliseconds(60'000)));
  EXPECT_EQ(server.http->stats().connections, 0U);
  EXPECT_FALSE(Client(server.port).connected());
}

TEST(Connections, CloseBreaksOffWhatDoesNotEnd) {
  TestServer server;
  Client client(server.port);
  client.send(get("/hold"));
  const auto held = server.handler.take();
  EXPECT_FALSE(server.http->close(milliseconds(50)));
  EXPECT_EQ(client.rest(), "");
  EXPECT_TRUE(held.exchange->gone());
  EXPECT_EQ(server.handler.gone(), 1U);
}

TEST(Connections, AnExchangeMayOutliveItsServer) {
  const size_t before = open_descriptors();
  std::shared_ptr<HttpExchange> exchange;
  {
    TestServer server;
    Client client(server.port);
    client.send(get("/stream"));
    exchange = server.handler.take().exchange;
  }
  EXPECT_TRUE(exchange->gone());
  exchange->write("a");
  exchange->end();
  exchange.reset();
  EXPECT_EQ(open_descriptors(), before);
}

TEST(Connections, SpeakSixAsWell) {
  if (!has_six()) GTEST_SKIP() << "not run: this machine has no ::1";
  TestServer server([](HttpOptions& options) { options.addresses = {"127.0.0.1", "::1"}; });
  Client client(server.port, "::1");
  client.send(get("/echo"));
  EXPECT_EQ(client.answer().status, 200);
  EXPECT_EQ(server.handler.heads().back().peer, "::1");
}

// -1 headers are more than memory has, which makes the library panic over every message.
TEST(Connections, APanicIsLoggedAndEndsItsConnectionOnly) {
  std::atomic<int> panics{0};
  set_log_sink([&](LogLevel level, std::string_view line) {
    panics += level == LogLevel::error && line.find("transport panicked: what=") == 0 ? 1 : 0;
  });
  {
    TestServer server([](HttpOptions& options) { options.max_headers = -1; });
    for (int round = 1; round <= 3; ++round) {
      Client client(server.port);
      client.send(get("/echo"));
      EXPECT_EQ(client.rest(), "");
      EXPECT_EQ(panics, round);
    }
    server.wait_stats(&HttpStats::connections, 0);
  }
  set_log_sink({});
}

TEST(Connections, AddressesShareAPortAndAreRefusedByName) {
  TestServer server([](HttpOptions& options) { options.addresses = {"127.0.0.1", "127.0.0.2"}; });
  for (const auto* address : {"127.0.0.1", "127.0.0.2"}) {
    Client client(server.port, address);
    client.send(get("/echo"));
    EXPECT_EQ(client.answer().status, 200);
  }
  TestHandler handler;
  HttpOptions options;
  for (const auto& [address, port] : std::vector<std::pair<std::string, int>>{
           {"127.0.0.1", server.port}, {"192.0.2.1", 0}, {"localhost", 0}, {"", 0}}) {
    options.addresses = {address};
    options.port = port;
    try {
      start_http(options, handler);
      ADD_FAILURE() << address;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::network);
      EXPECT_NE(std::string_view(error.what()).find(address), std::string_view::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace bumblebee::serve
