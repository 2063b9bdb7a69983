#include "common/security/listen_address.h"

#include <arpa/inet.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace m1 {

bool IsUnixSocket(absl::string_view address) { return absl::StartsWith(address, "unix:"); }

bool IsLocalAddress(absl::string_view address) {
  if (IsUnixSocket(address) || address == "localhost") return true;
  if (absl::ConsumePrefix(&address, "[")) absl::ConsumeSuffix(&address, "]");
  const std::string text(address);
  in_addr v4{};
  if (inet_pton(AF_INET, text.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, text.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6) != 0;
}

absl::Status CheckListener(absl::string_view address, bool has_tls, bool insecure) {
  if (has_tls || insecure || IsLocalAddress(address)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--address is ", address,
                   ", which other hosts reach: wanted --tls_cert, --tls_key and --tls_ca, or "
                   "--insecure to accept that nothing is encrypted and nobody is asked who calls"));
}

}  // namespace m1
