#include "tools/m1/connection.h"

#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "common/base/status_macros.h"
#include "common/security/small_file.h"

namespace m1 {
namespace {

constexpr char kTokenVariable[] = "M1_TOKEN";

// Of a file, or of the environment; empty: none.
absl::StatusOr<std::string> ReadToken(const std::string& file) {
  std::string token;
  std::string source = kTokenVariable;
  if (!file.empty()) {
    source = absl::StrCat("--token_file ", file);
    M1_ASSIGN_OR_RETURN(token, ReadSmallFile("token_file", file));
  } else if (const char* value = std::getenv(kTokenVariable); value != nullptr) {
    token = value;
  } else {
    return token;
  }
  absl::StripAsciiWhitespace(&token);
  const bool printable = std::all_of(token.begin(), token.end(), [](char c) {
    return absl::ascii_isgraph(static_cast<unsigned char>(c));
  });
  if (!token.empty() && printable) return token;
  return absl::InvalidArgumentError(
      absl::StrCat(source, ": wanted one token of printable characters without blanks"));
}

}  // namespace

void Connection::AddToken(grpc::ClientContext* context) const {
  if (!token_.empty()) context->AddMetadata("authorization", absl::StrCat("Bearer ", token_));
}

void ConnectionFlags::Register(FlagSet* flags) {
  flags->String("target", &target_, "HOST:PORT of the router (127.0.0.1:50051)");
  flags->String(
      "tls_ca", &tls_ca_,
      "PEM file with the authority of the router's certificate; turns TLS on (plaintext)");
  flags->String("tls_cert", &tls_cert_, "with --tls_ca: own certificate, PEM (none)");
  flags->String("tls_key", &tls_key_, "of --tls_cert, PEM (none)");
  flags->String("tls_server_name", &tls_server_name_,
                "with --tls_ca: name in the router's certificate (host of --target)");
  flags->String("token_file", &token_file_, "file with the bearer token (environment M1_TOKEN)");
}

absl::StatusOr<Connection> ConnectionFlags::Open() const {
  Connection connection(target_);
  M1_ASSIGN_OR_RETURN(connection.token_, ReadToken(token_file_));
  if (tls_cert_.empty() != tls_key_.empty()) {
    return absl::InvalidArgumentError(
        "--tls_cert and --tls_key: one is empty, wanted both or none");
  }
  if (tls_ca_.empty()) {
    if (tls_cert_.empty() && tls_server_name_.empty()) return connection;
    return absl::InvalidArgumentError(
        "--tls_ca is empty: --tls_cert, --tls_key and --tls_server_name need it");
  }
  grpc::SslCredentialsOptions ssl;
  M1_ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadSmallFile("tls_ca", tls_ca_));
  if (!tls_cert_.empty()) {
    M1_ASSIGN_OR_RETURN(ssl.pem_cert_chain, ReadSmallFile("tls_cert", tls_cert_));
    M1_ASSIGN_OR_RETURN(ssl.pem_private_key, ReadSmallFile("tls_key", tls_key_));
  }
  connection.options_.credentials = grpc::SslCredentials(ssl);
  connection.options_.tls_server_name = tls_server_name_;
  return connection;
}

}  // namespace m1
