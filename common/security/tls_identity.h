// A process's certificate, its key, and the authorities whose certificates it accepts.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

#include "common/security/role.h"

namespace m1 {

// All PEM.
struct TlsFiles {
  std::string certificates;  // --tls_cert: the own one first, then its chain
  std::string private_key;   // --tls_key: not encrypted
  std::string authorities;   // --tls_ca: at least one, the own certificate's among them

  bool operator==(const TlsFiles& other) const {
    return certificates == other.certificates && private_key == other.private_key &&
           authorities == other.authorities;
  }
};

struct TlsIdentity {
  TlsFiles files;
  absl::Time expires_at;  // the first of the chain
  // The first of the authorities that the chain ends in; others of --tls_ca do not matter for it.
  absl::Time authority_expires_at;
  std::vector<std::string> uris;  // of the own certificate's alternative names

  bool HasRole(Role role) const;
};

// Errors: InvalidArgument naming the flag: what is no PEM, a key of another certificate or one that
// needs a password, a certificate that has expired, is not valid yet, is too weak for this
// OpenSSL's level of security, or that no authority of --tls_ca has issued: peers would refuse it.
// The same error as long as the files and the reason are the same.
absl::StatusOr<TlsIdentity> ParseTlsIdentity(TlsFiles files, absl::Time now);

}  // namespace m1
