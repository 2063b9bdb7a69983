// How a subcommand reaches a router: address, TLS, and the token that it shows.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "common/rpc/channel.h"
#include "tools/m1/flag_set.h"

namespace m1 {

// Thread-safe.
class Connection {
 public:
  // Plaintext, no token.
  explicit Connection(std::string target) : target_(std::move(target)) {}

  // "host:port" or "unix:path". Connects at the first call.
  std::shared_ptr<grpc::Channel> NewChannel() const { return MakeChannel(target_, options_); }
  // Of each call, before it starts.
  void AddToken(grpc::ClientContext* context) const;

 private:
  friend class ConnectionFlags;

  std::string target_;
  ChannelOptions options_;
  std::string token_;
};

class ConnectionFlags {
 public:
  // Declares the flags; `this` must outlive the set.
  void Register(FlagSet* flags);
  // Reads the files. Errors: InvalidArgument naming the flag, or M1_TOKEN.
  absl::StatusOr<Connection> Open() const;

 private:
  std::string target_ = "127.0.0.1:50051";
  std::string tls_ca_;
  std::string tls_cert_;
  std::string tls_key_;
  std::string tls_server_name_;
  std::string token_file_;
};

}  // namespace m1
