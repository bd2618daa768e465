// HTTP/2 by bytes sent by hand: streams beside each other, resets, windows of zero, floods.
#include <chrono>
#include <future>

#include <gtest/gtest.h>

#include "base/format.h"
#include "tests/serve/http/client.h"
#include "tests/serve/http/test_server.h"

namespace bumblebee::serve {
namespace {

enum Type : uint8_t {
  kData = 0,
  kHeaders = 1,
  kReset = 3,
  kSettings = 4,
  kPing = 6,
  kGoAway = 7,
  kWindow = 8,
  kContinuation = 9
};
constexpr uint8_t kEndStream = 1, kAck = 1, kEndHeaders = 4;

struct Frame {
  int type = -1;  // the connection ended
  uint8_t flags = 0;
  uint32_t stream = 0;
  std::string payload;
};

std::string big_endian(uint64_t value, int bytes) {
  std::string text;
  for (int i = bytes - 1; i >= 0; --i) text += static_cast<char>(value >> (8 * i) & 0xff);
  return text;
}

std::string frame(Type type, uint8_t flags, uint32_t stream, std::string_view payload) {
  std::string text = big_endian(payload.size(), 3);
  text += static_cast<char>(type);
  text += static_cast<char>(flags);
  return text + big_endian(stream, 4) + std::string(payload);
}

// HPACK's plainest form: literals, no table, no Huffman.
std::string field(std::string_view name, std::string_view value) {
  std::string text(1, '\0');
  for (const auto part : {name, value}) (text += static_cast<char>(part.size())).append(part);
  return text;
}

std::string head(std::string_view method, std::string_view path, std::string_view more = "") {
  return cat(field(":method", method), field(":scheme", "http"), field(":authority", "test"), field(":path", path),
             more);
}

class Http2Client : public Client {
 public:
  explicit Http2Client(int port, std::string_view settings = "") : Client(port) {
    send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(kSettings, 0, 0, settings));
  }

  bool request(uint32_t stream, std::string_view block, bool end = true) {
    return send(frame(kHeaders, kEndHeaders | (end ? kEndStream : 0), stream, block));
  }

  /// The next frame of a stream, or of the connection's end; settings, pings and windows are seen to.
  Frame next() {
    while (true) {
      while (bytes_.size() < 9 || bytes_.size() < 9 + size()) {
        const std::string piece = receive();
        if (piece.empty()) return {};
        bytes_ += piece;
      }
      Frame found = {bytes_[3], static_cast<uint8_t>(bytes_[4]), static_cast<uint8_t>(bytes_[8]),
                     bytes_.substr(9, size())};
      bytes_.erase(0, 9 + size());
      if (found.type == kSettings && (found.flags & kAck) == 0) send(frame(kSettings, kAck, 0, ""));
      if (found.type == kPing && (found.flags & kAck) == 0) send(frame(kPing, kAck, 0, found.payload));
      if (found.type != kSettings && found.type != kPing && found.type != kWindow) return found;
    }
  }

  /// Status (of those that HPACK's table has) and body of the answer on a stream, and how it ended.
  std::string answer(uint32_t stream) {
    std::string body;
    int status = 0;
    while (true) {
      const Frame one = next();
      if (one.type < 0) return cat(status, " ", body, " end");
      if (one.type == kGoAway) continue;
      if (one.stream != stream) continue;
      if (one.type == kReset) return cat(status, " ", body, " reset");
      if (one.type == kHeaders) {
        const auto code = static_cast<uint8_t>(one.payload.at(0));
        status = code == 0x88 ? 200 : code == 0x8c ? 400 : code == 0x8d ? 404 : -1;
      }
      if (one.type == kData) body += one.payload;
      if ((one.flags & kEndStream) != 0) return cat(status, " ", body);
    }
  }

  /// Blocks until the server says farewell or closes.
  void expect_end() {
    for (Frame one = next(); one.type >= 0 && one.type != kGoAway; one = next()) {
    }
  }

 private:
  size_t size() const {
    const auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<uint8_t>(bytes_[i])); };
    return byte(0) << 16 | byte(1) << 8 | byte(2);
  }

  std::string bytes_;
};

TEST(Http2, RequestsAreAnsweredAsInHttp1) {
  TestServer server;
  Http2Client client(server.port);
  client.request(1, head("GET", "/echo?a"));
  EXPECT_EQ(client.answer(1), "200 GET /echo?a ");
  client.request(3, head("POST", "/echo"), false);
  client.send(frame(kData, 0, 3, "hel") + frame(kData, kEndStream, 3, "lo"));
  EXPECT_EQ(client.answer(3), "200 POST /echo hello");
  const HttpHead seen = server.handler.heads().at(0);
  EXPECT_EQ(seen.version, 20);
  EXPECT_EQ(seen.header("host"), "test");
  client.request(5, cat(field(":method", "GET"), field(":scheme", "http"), field(":path", "/echo")));
  EXPECT_EQ(client.answer(5).substr(0, 4), "400 ");
  client.request(7, head("GET", "/echo", field("host", "other")));
  EXPECT_EQ(client.answer(7).substr(0, 4), "400 ");
  client.request(9, head("GET", "/nowhere"));
  EXPECT_EQ(client.answer(9), "404 ");
}

TEST(Http2, StreamsDoNotWaitForEachOther) {
  TestServer server;
  Http2Client client(server.port);
  client.request(1, head("GET", "/hold"));
  const auto held = server.handler.take();
  client.request(3, head("GET", "/stream"));
  const auto stream = server.handler.take();
  stream.exchange->write("a");
  stream.exchange->write("b");
  stream.exchange->end();
  EXPECT_EQ(client.answer(3), "200 ab");
  held.exchange->respond({200, {}, "held"});
  EXPECT_EQ(client.answer(1), "200 held");
  EXPECT_EQ(server.handler.gone(), 0U);
}

TEST(Http2, AResetStreamIsGoneAndSoAreAllWhenTheConnectionEnds) {
  TestServer server;
  Http2Client client(server.port);
  client.request(1, head("GET", "/hold"));
  const auto first = server.handler.take();
  client.request(3, head("GET", "/stream"));
  const auto second = server.handler.take();
  client.send(frame(kReset, 0, 1, big_endian(8, 4)));
  server.handler.wait_gone(first.id);
  EXPECT_FALSE(second.exchange->gone());
  client.close();
  server.handler.wait_gone(second.id);
  server.wait_stats(&HttpStats::connections, 0);
}

TEST(Http2, ADroppedExchangeResetsItsStreamOnly) {
  TestServer server;
  Http2Client client(server.port);
  client.request(1, head("GET", "/drop"));
  EXPECT_EQ(client.answer(1), "0  reset");
  client.request(3, head("GET", "/stream"));
  auto held = server.handler.take();
  EXPECT_EQ(client.next().type, kHeaders);
  held.exchange->write("a");
  EXPECT_EQ(client.next().payload, "a");
  held.exchange.reset();
  EXPECT_EQ(client.next().type, kReset);
  client.request(5, head("GET", "/echo"));
  EXPECT_EQ(client.answer(5), "200 GET /echo ");
}

TEST(Http2, AWindowOfZeroIsAReaderThatTakesNothing) {
  TestServer server([](HttpOptions& options) { options.write_stall = std::chrono::milliseconds(200); });
  Http2Client client(server.port, big_endian(4, 2) + big_endian(0, 4));
  client.request(1, head("GET", "/stream"));
  const auto held = server.handler.take();
  held.exchange->write(std::string(1000, 'a'));
  server.handler.wait_gone(held.id);
  EXPECT_EQ(server.http->stats().stalled, 1U);
  server.wait_stats(&HttpStats::connections, 0);
}

TEST(Http2, IdleConnectionsEnd) {
  const std::chrono::milliseconds soon(100);
  TestServer server([&](HttpOptions& options) { options.idle_timeout = options.write_stall = soon; });
  Http2Client used(server.port);
  used.request(1, head("GET", "/echo"));
  EXPECT_EQ(used.answer(1), "200 GET /echo ");
  used.expect_end();
  server.wait_stats(&HttpStats::connections, 0);
  TestServer other([&](HttpOptions& options) { options.header_timeout = options.write_stall = soon; });
  Http2Client silent(other.port);
  silent.expect_end();
  Client half(other.port);
  half.send("PRI * HTTP/2.0");
  EXPECT_EQ(half.rest(), "");
  other.wait_stats(&HttpStats::connections, 0);
}

TEST(Http2, ClosingLetsStreamsEndAndAnswersWhoComes) {
  TestServer server;
  Http2Client client(server.port);
  client.request(1, head("GET", "/stream"));
  const auto held = server.handler.take();
  server.http->start_closing();
  Http2Client late(server.port);
  late.request(1, head("GET", "/echo"));
  EXPECT_EQ(late.answer(1).substr(0, 4), "200 ");
  held.exchange->write("a");
  held.exchange->end();
  EXPECT_EQ(client.answer(1), "200 a");
  auto closed = std::async(std::launch::async, [&] { return server.http->close(std::chrono::milliseconds(60'000)); });
  while (late.next().type >= 0) {  // the end is a conversation
  }
  EXPECT_TRUE(closed.get());
}

TEST(Http2, FloodsEndTheirConnectionOnly) {
  TestServer server;
  {
    Http2Client resets(server.port);
    for (uint32_t stream = 1; stream < 20'001; stream += 2) {
      if (!resets.request(stream, head("GET", "/hold")) || !resets.send(frame(kReset, 0, stream, big_endian(8, 4))))
        break;
    }
    resets.expect_end();
  }
  {
    Http2Client endless(server.port);
    endless.send(frame(kHeaders, kEndStream, 1, head("GET", "/echo")));
    const std::string piece = field("x", std::string(100, 'a'));
    for (int i = 0; i < 100'000; ++i) {
      if (!endless.send(frame(kContinuation, 0, 1, piece))) break;
    }
    endless.expect_end();
  }
  {
    Http2Client many(server.port);
    for (uint32_t stream = 1; stream < 2 * 110; stream += 2) many.request(stream, head("POST", "/echo"), false);
    EXPECT_EQ(many.answer(219), "0  reset");
    many.send(frame(kData, kEndStream, 1, "a"));
    EXPECT_EQ(many.answer(1), "200 POST /echo a");
  }
  {
    Http2Client nonsense(server.port);
    nonsense.send(std::string(1000, '\xff'));
    nonsense.expect_end();
  }
  Http2Client healthy(server.port);
  healthy.request(1, head("GET", "/echo"));
  EXPECT_EQ(healthy.answer(1), "200 GET /echo ");
}

TEST(Http2, HeadersAreLimited) {
  TestServer server;
  Http2Client client(server.port);
  std::string block = head("GET", "/echo");
  for (int i = 0; i < 150; ++i) block += field(cat("x", i), std::string(100, 'a'));
  client.request(1, block);
  const std::string answer = client.answer(1);
  EXPECT_NE(answer.substr(0, 4), "200 ") << answer;
  EXPECT_EQ(server.handler.requests(), 0U);
}

}  // namespace
}  // namespace bumblebee::serve
