#include "common/security/security.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/security/listen_address.h"
#include "common/security/small_file.h"

namespace m1 {
namespace {

constexpr absl::string_view kHealthPrefix = "/grpc.health.v1.Health/";
constexpr absl::string_view kAdministrationPrefix = "/m1.v1.Control/";
constexpr absl::string_view kBearer = "bearer ";

absl::Status CheckFlags(const SecurityOptions& options) {
  const std::pair<absl::string_view, const std::string*> files[] = {
      {"tls_cert", &options.tls_cert}, {"tls_key", &options.tls_key}, {"tls_ca", &options.tls_ca}};
  const bool has_tls = !options.tls_cert.empty();
  for (const auto& [flag, path] : files) {
    if (path->empty() == has_tls || path->empty() == !options.tls_key.empty()) {
      return absl::InvalidArgumentError(
          "--tls_cert, --tls_key and --tls_ca: some are set and others are empty, wanted all three "
          "or none");
    }
  }
  return CheckListener(options.address, has_tls, options.insecure);
}

absl::StatusOr<TlsFiles> ReadTlsFiles(const SecurityOptions& options) {
  TlsFiles files;
  M1_ASSIGN_OR_RETURN(files.certificates, ReadSmallFile("tls_cert", options.tls_cert));
  M1_ASSIGN_OR_RETURN(files.private_key, ReadSmallFile("tls_key", options.tls_key));
  M1_ASSIGN_OR_RETURN(files.authorities, ReadSmallFile("tls_ca", options.tls_ca));
  return files;
}

absl::StatusOr<TlsIdentity> ParseIdentityOf(Role role, const TlsFiles& files) {
  M1_ASSIGN_OR_RETURN(TlsIdentity identity, ParseTlsIdentity(files, absl::Now()));
  if (identity.HasRole(role)) return identity;
  return absl::InvalidArgumentError(
      absl::StrCat("--tls_cert has no alternative name URI:", RoleUri(role),
                   ", which says that it is of this kind of process; its URIs are: ",
                   identity.uris.empty() ? "none" : absl::StrJoin(identity.uris, " ")));
}

absl::StatusOr<BearerTokens> ParseTokens(const std::string& path, const std::string& text) {
  absl::StatusOr<BearerTokens> table = BearerTokens::Parse(text);
  if (!table.ok()) return AddContext(table.status(), absl::StrCat("--token_file ", path));
  return table;
}

void LogIdentity(absl::string_view event, const TlsIdentity& identity) {
  M1_LOG(kInfo) << "event=" << event << " expires="
                << absl::FormatTime(absl::RFC3339_sec, identity.expires_at, absl::UTCTimeZone());
}

void LogTokens(absl::string_view event, const BearerTokens& tokens) {
  if (tokens.size() > 0) {
    M1_LOG(kInfo) << "event=" << event << " count=" << tokens.size();
  } else {
    M1_LOG(kWarning) << "event=" << event << " count=0: no token in --token_file, nobody gets in";
  }
}

// The token of "Bearer TOKEN"; nullopt for anything else.
std::optional<absl::string_view> BearerToken(absl::string_view authorization) {
  if (!absl::StartsWithIgnoreCase(authorization, kBearer)) return std::nullopt;
  authorization.remove_prefix(kBearer.size());
  if (authorization.empty()) return std::nullopt;
  return authorization;
}

}  // namespace

absl::string_view DenialName(Denial denial) {
  switch (denial) {
    case Denial::kNoToken:
      return "no_token";
    case Denial::kBadToken:
      return "bad_token";
    case Denial::kWrongRole:
      return "wrong_role";
  }
  return "";
}

Security::Security(const SecurityOptions& options)
    : options_(options),
      caller_(CallerOf(options.role)),
      listens_with_tls_(!options.tls_cert.empty() && !IsUnixSocket(options.address)),
      tls_([this] { return ReadTlsFiles(options_); },
           [this](const TlsFiles& files) { return ParseIdentityOf(options_.role, files); }),
      tokens_([this] { return ReadSmallOrEmptyFile("token_file", options_.token_file); },
              [this](const std::string& text) { return ParseTokens(options_.token_file, text); }) {}

absl::StatusOr<std::unique_ptr<Security>> Security::Create(const SecurityOptions& options) {
  M1_RETURN_IF_ERROR(CheckFlags(options));
  std::unique_ptr<Security> security(new Security(options));
  M1_RETURN_IF_ERROR(security->LoadFiles());
  if (!options.tls_cert.empty() || !options.token_file.empty()) {
    security->watcher_ = std::thread([raw = security.get()] { raw->WatchFiles(); });
  }
  return security;
}

Security::~Security() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    stopped_changed_.SignalAll();
  }
  if (watcher_.joinable()) watcher_.join();
}

absl::Status Security::LoadFiles() {
  const bool others_reach_it = !IsLocalAddress(options_.address);
  if (!options_.tls_cert.empty()) {
    M1_RETURN_IF_ERROR(tls_.Load());
    LogIdentity("tls", *identity());
  } else if (others_reach_it) {
    M1_LOG(kWarning) << "--insecure: connections from other hosts are neither encrypted nor "
                        "authenticated address="
                     << options_.address;
  }
  if (!options_.token_file.empty()) {
    M1_RETURN_IF_ERROR(tokens_.Load());
    LogTokens("tokens", *tokens());
  } else if (options_.role == Role::kRouter && others_reach_it) {
    M1_LOG(kWarning) << "no --token_file: everybody who reaches the port may use it address="
                     << options_.address;
  }
  return absl::OkStatus();
}

SecurityStats Security::stats() const {
  const auto tls = tls_.state();
  SecurityStats stats;
  stats.tls = tls.reloads;
  stats.tokens = tokens_.state().reloads;
  if (tls.in_use != nullptr) {
    stats.certificate_expires_at = tls.in_use->expires_at;
    stats.authority_expires_at = tls.in_use->authority_expires_at;
  }
  for (size_t i = 0; i < kNumDenials; ++i) stats.num_denied[i] = num_denied_[i];
  return stats;
}

void Security::WatchFiles() {
  for (;;) {
    {
      MutexLock lock(&mutex_);
      const absl::Time until = absl::Now() + options_.poll_interval;
      while (!stopped_ && stopped_changed_.WaitUntil(&mutex_, until)) {
      }
      if (stopped_) return;
    }
    if (!options_.tls_cert.empty()) CheckTls();
    if (!options_.token_file.empty()) CheckTokens();
  }
}

void Security::CheckTls() {
  const std::optional<absl::Status> news = tls_.Look();
  if (!news.has_value()) return;
  if (news->ok()) {
    LogIdentity("tls_reloaded", *identity());
  } else {
    M1_LOG(kError) << "event=tls_reload_failed, the certificate of before stays error=\""
                   << news->message() << "\"";
  }
}

void Security::CheckTokens() {
  const std::optional<absl::Status> news = tokens_.Look();
  if (!news.has_value()) return;
  if (news->ok()) {
    LogTokens("tokens_reloaded", *tokens());
  } else {
    M1_LOG(kError) << "event=token_reload_failed, the tokens of before stay valid error=\""
                   << news->message() << "\"";
  }
}

absl::Status Security::Deny(Denial denial, const absl::Status& status) const {
  ++num_denied_[static_cast<size_t>(denial)];
  return status;
}

absl::Status Security::Authorize(const CallFacts& call) const {
  if (absl::StartsWith(call.method, kHealthPrefix)) return absl::OkStatus();
  if (asks_for_certificates()) M1_RETURN_IF_ERROR(CheckRole(call));
  if (!options_.token_file.empty()) return CheckToken(call);
  return absl::OkStatus();
}

absl::Status Security::CheckRole(const CallFacts& call) const {
  const std::string wanted = RoleUri(*caller_);
  if (std::find(call.peer_uris.begin(), call.peer_uris.end(), wanted) != call.peer_uris.end()) {
    return absl::OkStatus();
  }
  return Deny(
      Denial::kWrongRole,
      absl::PermissionDeniedError(absl::StrCat(
          "a server of role ", RoleName(options_.role), " is called by role ", RoleName(*caller_),
          " only: the caller's certificate has no alternative name ", "URI:", wanted)));
}

absl::Status Security::CheckToken(const CallFacts& call) const {
  if (call.authorization.empty()) {
    return Deny(Denial::kNoToken, absl::UnauthenticatedError(
                                      "no token: wanted the metadata authorization: Bearer TOKEN"));
  }
  const std::optional<absl::string_view> token =
      call.authorization.size() == 1 ? BearerToken(call.authorization.front()) : std::nullopt;
  if (!token.has_value()) {
    return Deny(Denial::kBadToken,
                absl::UnauthenticatedError(
                    "the metadata authorization is wanted once, and to be: Bearer TOKEN"));
  }
  const std::optional<TokenHolder> holder = tokens()->HolderOf(*token);
  if (!holder.has_value()) {
    return Deny(Denial::kBadToken,
                absl::UnauthenticatedError("the token is unknown, or no longer valid"));
  }
  if (absl::StartsWith(call.method, kAdministrationPrefix) && !holder->is_admin) {
    return Deny(Denial::kWrongRole,
                absl::PermissionDeniedError(
                    "m1.v1.Control is for tokens whose line in --token_file ends with admin"));
  }
  return absl::OkStatus();
}

std::optional<std::string> Security::ClientName(absl::string_view authorization) const {
  const std::shared_ptr<const BearerTokens> table = tokens();
  const std::optional<absl::string_view> token = BearerToken(authorization);
  if (table == nullptr || !token.has_value()) return std::nullopt;
  std::optional<TokenHolder> holder = table->HolderOf(*token);
  if (!holder.has_value()) return std::nullopt;
  return std::move(holder->name);
}

}  // namespace m1
