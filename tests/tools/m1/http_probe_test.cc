#include "tools/m1/http_probe.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"

#include "common/metrics/server_metrics.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::_;
using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Minutes(1);  // for what ends by itself

// A port of loopback that accepts connections, and answers what a test wants. Without `listens` it
// refuses them, and nobody else gets the port.
class Listener {
 public:
  explicit Listener(bool listens = true) : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(socket_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_TRUE(!listens || listen(socket_, 4) == 0);
    EXPECT_EQ(getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  ~Listener() { close(socket_); }

  int port() const { return port_; }

  void AnswerOnce(const std::string& bytes) const {
    const int peer = accept(socket_, nullptr, nullptr);
    char request[1024];
    EXPECT_GT(recv(peer, request, sizeof(request), 0), 0);
    EXPECT_GE(send(peer, bytes.data(), bytes.size(), MSG_NOSIGNAL), 0);
    close(peer);
  }

  // Sends so many bytes, the others one by one every 20 ms, until all are sent or the peer is gone.
  void Drip(const std::string& bytes, size_t at_once) const {
    const int peer = accept(socket_, nullptr, nullptr);
    char request[1024];
    EXPECT_GT(recv(peer, request, sizeof(request), 0), 0);
    EXPECT_EQ(send(peer, bytes.data(), at_once, MSG_NOSIGNAL), static_cast<ssize_t>(at_once));
    for (size_t i = at_once; i < bytes.size(); ++i) {
      if (send(peer, &bytes[i], 1, MSG_NOSIGNAL) < 0) break;
      absl::SleepFor(absl::Milliseconds(20));
    }
    close(peer);
  }

 private:
  const int socket_;
  int port_ = 0;
};

// Connects, and waits for nothing.
class Peer {
 public:
  explicit Peer(int port) : socket_(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(port));
    static_cast<void>(connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  }
  ~Peer() { close(socket_); }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

 private:
  const int socket_;
};

struct StartedServer {
  int port = 0;
  std::unique_ptr<ServerMetrics> metrics;
};

// A port that is free may be another process's a moment later.
StartedServer StartServer() {
  absl::Status last;
  for (int i = 0; i < 20; ++i) {
    const int port = Listener().port();
    auto metrics = ServerMetrics::Start({"router", "127.0.0.1", port});
    if (metrics.ok()) return {port, *std::move(metrics)};
    last = metrics.status();
  }
  ADD_FAILURE() << last;
  return {};
}

TEST(HttpTargetTest, ReadsHostAndPort) {
  ASSERT_OK_AND_ASSIGN(const HttpTarget plain, ParseHttpTarget("router:9464"));
  EXPECT_EQ(plain.host, "router");
  EXPECT_EQ(plain.port, 9464);
  ASSERT_OK_AND_ASSIGN(const HttpTarget bracketed, ParseHttpTarget("[::1]:1"));
  EXPECT_EQ(bracketed.host, "::1");
  EXPECT_EQ(bracketed.port, 1);
}

TEST(HttpTargetTest, RefusesWhatNamesNoPort) {
  for (const char* text : {"", ":", "host", "host:", ":80", "host:0", "host:65536", "host:-1",
                           "host:80x", "::1:80", "[]:80", "http://host:80"}) {
    EXPECT_THAT(ParseHttpTarget(text), StatusIs(absl::StatusCode::kInvalidArgument, _)) << text;
  }
}

TEST(HttpGetTest, ReadsThePagesOfAServer) {
  const StartedServer started = StartServer();
  ServerMetrics* const server = started.metrics.get();
  ASSERT_NE(server, nullptr);
  const auto get = [&started](const std::string& path) {
    absl::StatusOr<HttpAnswer> answer = HttpGet({"127.0.0.1", started.port}, path, kLong);
    EXPECT_OK(answer.status());
    return answer.ok() ? *answer : HttpAnswer{};
  };
  EXPECT_EQ(get("/healthz").status, 200);
  EXPECT_EQ(get("/healthz").body, "alive\n");
  EXPECT_EQ(get("/startupz").status, 503);
  server->SetReady(false);
  EXPECT_EQ(get("/startupz").status, 200);
  EXPECT_EQ(get("/readyz").status, 503);
  EXPECT_EQ(get("/readyz").body, "starting\n");
  server->SetReady(true);
  EXPECT_EQ(get("/readyz").status, 200);
  EXPECT_EQ(get("/nothing").status, 404);
}

TEST(HttpGetTest, NobodyListens) {
  const Listener nobody(/*listens=*/false);
  const absl::StatusOr<HttpAnswer> answer = HttpGet({"127.0.0.1", nobody.port()}, "/readyz", kLong);
  EXPECT_THAT(answer, StatusIs(absl::StatusCode::kUnavailable, _));
  EXPECT_THAT(std::string(answer.status().message()), HasSubstr("no connection"));
}

// How a call for 300 ms ended, and that it did in time.
absl::Status GetIn300Ms(int port) {
  const absl::Time start = absl::Now();
  const absl::Status status =
      HttpGet({"127.0.0.1", port}, "/readyz", absl::Milliseconds(300)).status();
  const absl::Duration took = absl::Now() - start;
  EXPECT_GE(took, absl::Milliseconds(290));
  EXPECT_LT(took, absl::Seconds(15));  // what drips takes 20 s
  return status;
}

TEST(HttpGetTest, AServerThatHangsIsGivenUp) {
  const Listener listener;
  EXPECT_THAT(GetIn300Ms(listener.port()), StatusIs(absl::StatusCode::kUnavailable, _));
}

TEST(HttpGetTest, AnAnswerThatDripsIsGivenUp) {
  const std::string head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
  // From its first byte on, and from that of its body.
  for (const size_t at_once : {size_t{0}, head.size()}) {
    const Listener listener;
    std::thread server([&] { listener.Drip(head + std::string(1000, 'x'), at_once); });
    EXPECT_THAT(GetIn300Ms(listener.port()), StatusIs(absl::StatusCode::kUnavailable, _));
    server.join();
  }
}

TEST(HttpGetTest, AConnectionThatIsNotTakenIsGivenUp) {
  const Listener listener;
  std::vector<std::unique_ptr<Peer>> peers;  // more than wait to be accepted
  for (int i = 0; i < 16; ++i) peers.push_back(std::make_unique<Peer>(listener.port()));
  EXPECT_THAT(GetIn300Ms(listener.port()), StatusIs(absl::StatusCode::kUnavailable, _));
}

TEST(HttpGetTest, AConnectionThatStaysOpenIsReadToItsLength) {
  const Listener listener;
  std::thread server([&] {
    const std::string answer = "HTTP/1.1 503 Not\r\ncontent-length: 4\r\n\r\nbusy";
    listener.Drip(answer + std::string(100, 'x'), answer.size());
  });
  ASSERT_OK_AND_ASSIGN(const HttpAnswer answer,
                       HttpGet({"127.0.0.1", listener.port()}, "/readyz", kLong));
  server.join();
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.body, "busy");
}

TEST(HttpGetTest, WhatIsNoHttpIsNoAnswer) {
  for (const std::string bytes : {"", "\r\n\r\n", "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1"}) {
    const Listener listener;
    std::thread server([&] { listener.AnswerOnce(bytes); });
    const absl::StatusOr<HttpAnswer> answer =
        HttpGet({"127.0.0.1", listener.port()}, "/readyz", kLong);
    server.join();
    EXPECT_FALSE(answer.ok() && answer->status == 200) << bytes;
  }
}

TEST(HttpGetTest, KeepsTheBeginningOfALongAnswer) {
  const Listener listener;
  std::thread server([&] {
    listener.AnswerOnce("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + std::string(10000, 'x'));
  });
  ASSERT_OK_AND_ASSIGN(const HttpAnswer answer,
                       HttpGet({"127.0.0.1", listener.port()}, "/metrics", kLong));
  server.join();
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.body, std::string(4096, 'x'));
}

}  // namespace
}  // namespace m1
