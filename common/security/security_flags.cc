#include "common/security/security_flags.h"

#include "absl/flags/flag.h"

ABSL_FLAG(
    std::string, tls_cert, "",
    "PEM file with this process's certificate and its chain; read again when it changes. With "
    "--tls_key and --tls_ca connections over TCP are TLS; it must have the alternative name "
    "URI:spiffe://m1-serve/role/ROLE, ROLE being router, attention-worker or expert-worker");
ABSL_FLAG(std::string, tls_key, "",
          "PEM file with the private key of --tls_cert, without password");
ABSL_FLAG(std::string, tls_ca, "", "PEM file with the authorities of the fleet's certificates");
ABSL_FLAG(
    bool, insecure, false,
    "Permit an --address that other hosts reach without TLS: nothing is encrypted, and nobody "
    "is asked who calls");

namespace m1 {

SecurityOptions SecurityFromFlags(Role role, const std::string& address) {
  return {.role = role,
          .address = address,
          .tls_cert = absl::GetFlag(FLAGS_tls_cert),
          .tls_key = absl::GetFlag(FLAGS_tls_key),
          .tls_ca = absl::GetFlag(FLAGS_tls_ca),
          .insecure = absl::GetFlag(FLAGS_insecure)};
}

}  // namespace m1
