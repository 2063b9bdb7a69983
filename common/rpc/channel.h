// Client channels as all our processes use them.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/security/credentials.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace m1 {

struct ChannelOptions {
  // A lost connection is tried again after min_backoff, doubling with jitter up to max_backoff.
  absl::Duration min_backoff = absl::Milliseconds(50);
  absl::Duration max_backoff = absl::Seconds(1);
  // A silent peer is pinged after keepalive_time and given up keepalive_timeout later.
  absl::Duration keepalive_time = absl::Seconds(10);
  absl::Duration keepalive_timeout = absl::Seconds(5);
  // Null: plaintext. A unix socket is plaintext in any case.
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  // The name to look for in the server's certificate; empty: the address's host.
  std::string tls_server_name;
};

// A channel with its own connection, never shared with another channel of the process; messages of
// any size are received. `address`: "host:port", "unix:path" or "dns:///name:port".
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           const ChannelOptions& options = {});

// Addresses of expert workers may begin with "shm:": on the same host, through shared memory; or
// with "nccl:": rows from GPU to GPU.
bool HasShmPrefix(absl::string_view address);
bool HasNcclPrefix(absl::string_view address);
// Of either.
absl::string_view WithoutTransport(absl::string_view address);

// "a:1,unix:/b" -> {"a:1", "unix:/b"}; white space around entries is dropped. Errors:
// InvalidArgument for an empty entry, a doubled one, or one that is neither host:port, unix:path
// nor dns:///name:port. With `allow_transport`, "shm:" or "nccl:" may stand before the first
// two.
absl::StatusOr<std::vector<std::string>> ParseAddressList(absl::string_view text,
                                                          bool allow_transport = false);

}  // namespace m1
