// m1 token: makes a bearer token. The first line goes to its holder, the second into a router's
// --token_file.
#include <openssl/rand.h>

#include <iostream>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/security/bearer_tokens.h"
#include "tools/m1/commands.h"
#include "tools/m1/flag_set.h"

namespace m1 {
namespace {

constexpr int kTokenBytes = 32;

absl::Status Token(const std::vector<std::string>& args) {
  std::string name;
  bool admin = false;
  FlagSet set(
      "token",
      "makes a random bearer token and prints two lines: the token, which goes to its holder "
      "alone, and\n\"NAME SHA256HEX\", which goes into the router's --token_file.");
  set.String("name", &name, "of the holder, 1..64 of A-Z a-z 0-9 . _ -; required");
  set.Bool("admin", &admin, "its holder may call m1.v1.Control, too (off)");
  M1_RETURN_IF_ERROR(set.Parse(args));
  if (set.help_requested()) {
    std::cout << set.HelpText();
    return absl::OkStatus();
  }
  std::string bytes(kTokenBytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), kTokenBytes) != 1) {
    return absl::InternalError("OpenSSL has no random numbers");
  }
  std::string token;
  absl::WebSafeBase64Escape(bytes, &token);
  const std::string line = absl::StrCat(name, " ", TokenDigest(token), admin ? " admin" : "");
  if (const absl::Status status = BearerTokens::Parse(line).status(); !status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--name is \"", name, "\", wanted 1..64 of A-Z a-z 0-9 . _ -"));
  }
  std::cout << token << "\n" << line << std::endl;
  return absl::OkStatus();
}

}  // namespace

int RunToken(const std::vector<std::string>& args) {
  const absl::Status status = Token(args);
  return status.ok() ? 0 : FailCommand("token", status);
}

}  // namespace m1
