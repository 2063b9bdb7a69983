// The identity of this process and who may call it: certificate, key and authorities (--tls_cert,
// --tls_key, --tls_ca), tokens (--token_file). A thread looks at the files every second and takes
// what changed, if it is right; if it is not, what was valid before stays, the log says why, and
// SecurityStats say that it is so.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "common/base/mutex.h"
#include "common/security/bearer_tokens.h"
#include "common/security/role.h"
#include "common/security/tls_identity.h"
#include "common/security/watched_files.h"

namespace m1 {

struct SecurityOptions {
  Role role = Role::kRouter;
  std::string address = "127.0.0.1";  // that will be listened on
  // All three or none.
  std::string tls_cert{};
  std::string tls_key{};
  std::string tls_ca{};
  bool insecure = false;     // permits a listener without TLS that other hosts reach
  std::string token_file{};  // a router's; empty: no tokens are asked for
  absl::Duration poll_interval = absl::Seconds(1);
};

enum class Denial { kNoToken, kBadToken, kWrongRole };
inline constexpr size_t kNumDenials = 3;
// "no_token", "bad_token", "wrong_role".
absl::string_view DenialName(Denial denial);

// What a call shows.
struct CallFacts {
  absl::string_view method;                           // "/m1.v1.Inference/Generate"
  std::vector<absl::string_view> peer_uris = {};      // of the peer's verified certificate
  std::vector<absl::string_view> authorization = {};  // values of the header of that name
};

struct SecurityStats {
  // Nullopt without TLS.
  std::optional<absl::Time> certificate_expires_at;
  std::optional<absl::Time> authority_expires_at;
  ReloadStats tls;  // of certificate, key and authorities
  ReloadStats tokens;
  std::array<int64_t, kNumDenials> num_denied = {};  // by Denial
};

// Thread-safe.
class Security {
 public:
  // Reads the files. Errors: InvalidArgument naming the flag, also for a listener that other hosts
  // reach without TLS, and for a certificate without this process's role.
  static absl::StatusOr<std::unique_ptr<Security>> Create(const SecurityOptions& options);
  ~Security();

  // The files as they were valid last; null without TLS. Another object after each change.
  std::shared_ptr<const TlsIdentity> identity() const { return tls_.state().in_use; }
  // Whether the listener speaks TLS: a unix socket never does.
  bool listens_with_tls() const { return listens_with_tls_; }
  // Whether a peer must show a certificate of ours to connect.
  bool asks_for_certificates() const { return listens_with_tls_ && caller_.has_value(); }

  // Asked before every call, of any service. Health is answered to everybody who could connect.
  // Errors: Unauthenticated without a valid token, PermissionDenied for another role than the one
  // that may call, and for administration without an admin's token; counted. Messages repeat no
  // token.
  absl::Status Authorize(const CallFacts& call) const;
  // Who holds the token of a call that was authorized; nullopt when none is asked for.
  std::optional<std::string> ClientName(absl::string_view authorization) const;

  SecurityStats stats() const;

 private:
  explicit Security(const SecurityOptions& options);

  absl::Status LoadFiles();
  void WatchFiles();
  void CheckTls();
  void CheckTokens();
  std::shared_ptr<const BearerTokens> tokens() const { return tokens_.state().in_use; }
  absl::Status Deny(Denial denial, const absl::Status& status) const;
  absl::Status CheckRole(const CallFacts& call) const;
  absl::Status CheckToken(const CallFacts& call) const;

  const SecurityOptions options_;
  const std::optional<Role> caller_;
  bool listens_with_tls_ = false;

  WatchedFiles<TlsFiles, TlsIdentity> tls_;
  WatchedFiles<std::string, BearerTokens> tokens_;
  mutable std::array<std::atomic<int64_t>, kNumDenials> num_denied_ = {};

  Mutex mutex_;
  CondVar stopped_changed_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread watcher_;
};

}  // namespace m1
