#include "common/rpc/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

#include "common/base/status_macros.h"

namespace m1 {
namespace {

constexpr absl::string_view kShmPrefix = "shm:";
constexpr absl::string_view kNcclPrefix = "nccl:";

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

absl::Status CheckAddress(absl::string_view address, bool allow_transport) {
  absl::string_view rest = address;
  const bool has_transport = allow_transport && (absl::ConsumePrefix(&rest, kShmPrefix) ||
                                                 absl::ConsumePrefix(&rest, kNcclPrefix));
  if (absl::ConsumePrefix(&rest, "unix:")) {
    if (rest.empty()) return absl::InvalidArgumentError("address \"unix:\" has no path");
    return absl::OkStatus();
  }
  if (!has_transport) absl::ConsumePrefix(&rest, "dns:///");
  const size_t colon = rest.rfind(':');
  int port = 0;
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(rest.substr(colon + 1), &port) || port < 1 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("address \"", address,
                     "\" is none of host:port, unix:path, dns:///name:port (port 1 to 65535)",
                     allow_transport ? ", nor shm: or nccl: before one of the first two" : ""));
  }
  return absl::OkStatus();
}

}  // namespace

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           const ChannelOptions& options) {
  grpc::ChannelArguments args;
  args.SetMaxReceiveMessageSize(-1);
  args.SetMaxSendMessageSize(-1);
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  args.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  // Our processes talk to each other directly, whatever http_proxy says.
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, Milliseconds(options.min_backoff));
  // Also the time that one attempt to connect may take.
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, Milliseconds(options.max_backoff));
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, Milliseconds(options.max_backoff));
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_time));
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(options.keepalive_timeout));
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  if (!options.tls_server_name.empty()) args.SetSslTargetNameOverride(options.tls_server_name);
  const bool plaintext = options.credentials == nullptr || absl::StartsWith(address, "unix:");
  return grpc::CreateCustomChannel(
      address, plaintext ? grpc::InsecureChannelCredentials() : options.credentials, args);
}

bool HasShmPrefix(absl::string_view address) { return absl::StartsWith(address, kShmPrefix); }

bool HasNcclPrefix(absl::string_view address) { return absl::StartsWith(address, kNcclPrefix); }

absl::string_view WithoutTransport(absl::string_view address) {
  return absl::StripPrefix(address, HasShmPrefix(address) ? kShmPrefix : kNcclPrefix);
}

absl::StatusOr<std::vector<std::string>> ParseAddressList(absl::string_view text,
                                                          bool allow_transport) {
  std::vector<std::string> addresses;
  for (absl::string_view entry : absl::StrSplit(text, ',')) {
    entry = absl::StripAsciiWhitespace(entry);
    if (entry.empty()) return absl::InvalidArgumentError("an address of the list is empty");
    M1_RETURN_IF_ERROR(CheckAddress(entry, allow_transport));
    const auto same_worker = [entry](absl::string_view other) {
      return WithoutTransport(other) == WithoutTransport(entry);
    };
    if (std::any_of(addresses.begin(), addresses.end(), same_worker)) {
      return absl::InvalidArgumentError(absl::StrCat("address \"", entry, "\" is listed twice"));
    }
    addresses.emplace_back(entry);
  }
  return addresses;
}

}  // namespace m1
