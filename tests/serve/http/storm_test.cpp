// Many at once and by chance: broken messages, connects, peers that leave at any moment. The server lives, answers the
// next one, and has its descriptors back. BB_HTTP_STORM=N sends N broken messages (100,000); BB_HTTP_SPEED=1 prints
// what a request costs.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "base/format.h"
#include "tests/serve/http/client.h"
#include "tests/serve/http/test_server.h"

namespace bumblebee::serve {
namespace {

int setting(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

void expect_healthy(const TestServer& server) {
  Client client(server.port);
  client.send(post("/echo", "well"));
  EXPECT_EQ(client.answer().body, "POST /echo well");
}

// A good message with a few of its bytes replaced, doubled, dropped, or swapped for what parsers stumble over.
std::string broken_message(std::mt19937_64& random) {
  static const std::vector<std::string> good = {
      get("/echo?a=b", "Accept: */*\r\n"),
      post("/echo", "hello", "Content-Type: text/plain\r\n"),
      "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
      "GET /echo HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n",
      get("/echo") + post("/forbidden", "abc"),
      std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0\0\0\x09\1\5\0\0\0\1\x82\x84\x86\x01\4test", 51)};
  static const std::vector<std::string> salt = {"\r",
                                                "\n",
                                                "\r\n",
                                                "\r\n\r\n",
                                                ":",
                                                " ",
                                                "\t",
                                                std::string(1, '\0'),
                                                "\xff",
                                                ";",
                                                "0\r\n\r\n",
                                                "Content-Length: 3\r\n",
                                                "Transfer-Encoding: chunked\r\n",
                                                "Host: b\r\n",
                                                "chunked",
                                                "99999999999999999999",
                                                "-1",
                                                "HTTP/1.1",
                                                "Expect: 100-continue\r\n",
                                                "Connection: close\r\n",
                                                "Upgrade: h2c\r\n",
                                                "%00",
                                                "../"};
  std::string message = good[random() % good.size()];
  for (size_t change = 1 + random() % 3; change > 0; --change) {
    const size_t at = random() % (message.size() + 1);
    switch (random() % 5) {
      case 0: message.insert(at, salt[random() % salt.size()]); break;
      case 1: message.erase(at, 1 + random() % 4); break;
      case 2: message.replace(at, 1, 1, static_cast<char>(random() % 256)); break;
      case 3: message.insert(at, message.substr(message.size() / 2, random() % 40)); break;
      default: message.resize(at);
    }
  }
  return message;
}

TEST(Storm, RandomBrokenMessages) {
  const size_t before = open_descriptors();
  {
    TestServer server;
    const int all = setting("BB_HTTP_STORM", 100'000);
    std::atomic<int> next{0}, answers{0};
    const auto send = [&] {
      for (int seed = next++; seed < all; seed = next++) {
        std::mt19937_64 random(static_cast<uint64_t>(seed));
        Client client(server.port);
        client.send(broken_message(random));
        client.half_close();
        const std::string answer = client.rest();
        answers += answer.empty() ? 0 : 1;
        if (answer.empty() || answer[0] == '\0') continue;  // nothing, or frames of HTTP/2
        const std::string status = cat(answer, "            ").substr(9, 3);
        const bool known = answer.substr(0, 7) == "HTTP/1." &&
                           (status == "200" || status == "100" || status[0] == '4' || status == "505");
        EXPECT_TRUE(known) << seed << ": " << answer.substr(0, 300);
      }
    };
    std::thread other(send);
    send();
    other.join();
    EXPECT_GT(answers, all / 10);
    expect_healthy(server);
    server.wait_stats(&HttpStats::connections, 0);
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST(Storm, TenThousandConnects) {
  TestServer server;
  const size_t before = open_descriptors();
  for (int round = 0; round < 100; ++round) {
    std::vector<std::unique_ptr<Client>> clients;
    for (int i = 0; i < 100; ++i) {
      clients.push_back(std::make_unique<Client>(server.port));
      ASSERT_TRUE(clients.back()->connected());
      if (i % 3 == 0) clients.back()->reset();
    }
    if (round % 10 == 0) expect_healthy(server);
  }
  EXPECT_EQ(server.http->stats().refused_connections, 0U) << "who left makes room";
  expect_healthy(server);  // accepted after all others
  server.wait_stats(&HttpStats::connections, 0);
  EXPECT_EQ(open_descriptors(), before);
}

TEST(Storm, PeersThatLeaveAtAnyMoment) {
  TestServer server([](HttpOptions& options) {
    options.header_timeout = options.body_idle_timeout = options.idle_timeout = std::chrono::milliseconds(20);
  });
  const size_t before = open_descriptors();
  std::atomic<bool> over{false};
  std::thread answering([&] {
    std::mt19937_64 random(7);
    while (!over) {
      auto held = server.handler.try_take();
      if (!held.exchange) {
        std::this_thread::yield();
        continue;
      }
      for (size_t piece = random() % 8; piece > 0; --piece) {
        held.exchange->write(std::string(random() % 3000, 'a'));
        if (random() % 4 == 0) std::this_thread::yield();
      }
      held.exchange->respond({200, {}, "held"});
      if (random() % 8 != 0) held.exchange->end();  // else it breaks off
    }
  });
  std::mt19937_64 random(11);
  const std::vector<std::string> messages = {get("/hold"), get("/stream"), post("/stream", std::string(5000, 'b')),
                                             get("/echo"), get("/stream") + get("/hold")};
  for (int i = 0; i < 2000; ++i) {
    Client client(server.port);
    const std::string& message = messages[random() % messages.size()];
    client.send(random() % 4 == 0 ? message.substr(0, random() % message.size()) : message);
    if (random() % 2 == 0) client.half_close();
    for (size_t reads = random() % 3; reads > 0 && random() % 2 == 0; --reads) {
      if (message.size() > 5000 || client.receive().empty()) break;
    }
    if (random() % 2 == 0) client.reset();
  }
  while (server.http->stats().accepted < 2000) std::this_thread::yield();
  server.wait_stats(&HttpStats::connections, 0);
  over = true;
  answering.join();
  EXPECT_EQ(open_descriptors(), before);
  expect_healthy(server);
}

TEST(Speed, OfARequestAndOfAPiece) {
  if (setting("BB_HTTP_SPEED", 0) == 0) GTEST_SKIP() << "not run: BB_HTTP_SPEED=1 prints figures";
  TestServer server;
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](Clock::time_point since) {
    return std::chrono::duration<double>(Clock::now() - since).count();
  };
  for (const int clients : {1, 16}) {
    const int each = 20'000 / clients;
    std::vector<std::thread> threads;
    const auto start = Clock::now();
    for (int i = 0; i < clients; ++i) {
      threads.emplace_back([&] {
        Client client(server.port);
        for (int n = 0; n < each; ++n) {
          client.send(post("/echo", "hello"));
          ASSERT_EQ(client.answer().status, 200);
        }
      });
    }
    for (auto& thread : threads) thread.join();
    std::cout << clients << " clients: " << each * clients / seconds(start) << " requests/s\n";
  }
  Client client(server.port);
  client.send(get("/stream"));
  const auto held = server.handler.take();
  client.receive();
  const int pieces = 20'000;
  const std::string piece(200, 'a');
  const auto start = Clock::now();
  double writing = 0;
  std::thread reader([&] { client.rest(); });
  for (int i = 0; i < pieces; ++i) {
    const auto begin = Clock::now();
    held.exchange->write(piece);
    writing += seconds(begin);
    while (held.exchange->unsent() > 0) std::this_thread::yield();
  }
  std::cout << "a piece: " << 1e6 * writing / pieces << " us in write(), " << 1e6 * seconds(start) / pieces
            << " us until it is sent\n";
  held.exchange->end();
  client.half_close();
  reader.join();
}

}  // namespace
}  // namespace bumblebee::serve
