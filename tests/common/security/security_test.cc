#include "common/security/security.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"

#include "common/security/bearer_tokens.h"
#include "tests/support/eventually.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_authority.h"

namespace m1 {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr absl::string_view kMethod = "/m1.v1.AttentionWorker/Run";

class SecurityTest : public testing::Test {
 protected:
  std::string PathOf(absl::string_view name) const { return absl::StrCat(folder_, "/", name); }

  void Write(absl::string_view name, absl::string_view text) const {
    const std::string next = PathOf(absl::StrCat(name, ".next"));
    std::ofstream(next) << text;
    ASSERT_EQ(std::rename(next.c_str(), PathOf(name).c_str()), 0);
  }

  // As an operator renews it.
  void WriteIdentity(Role role) const {
    const IssuedCertificate issued = authority_.Issue({.uris = {RoleUri(role)}});
    Write("key", issued.private_key);
    Write("cert", issued.certificate);
    Write("ca", authority_.pem());
  }

  SecurityOptions WithTls(Role role) const {
    WriteIdentity(role);
    return {.role = role,
            .tls_cert = PathOf("cert"),
            .tls_key = PathOf("key"),
            .tls_ca = PathOf("ca"),
            .poll_interval = absl::Milliseconds(5)};
  }
  SecurityOptions WithTokens() const {
    Write("tokens", absl::StrCat("alice ", TokenDigest("secret-a"), "\nroot ",
                                 TokenDigest("secret-root"), " admin\n"));
    return {.token_file = PathOf("tokens"), .poll_interval = absl::Milliseconds(5)};
  }

  static void ExpectRefused(const SecurityOptions& options, absl::string_view problem) {
    EXPECT_THAT(Security::Create(options),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(std::string(problem))));
  }

  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  const std::string folder_ =
      absl::StrCat(testing::TempDir(), "/security_test_",
                   testing::UnitTest::GetInstance()->current_test_info()->name(), "_", getpid());
  const TestAuthority authority_;
};

TEST_F(SecurityTest, WithoutFilesEverybodyOnThisHostMayCall) {
  ASSERT_OK_AND_ASSIGN(const auto security, Security::Create({}));
  EXPECT_EQ(security->identity(), nullptr);
  EXPECT_FALSE(security->listens_with_tls());
  EXPECT_OK(security->Authorize({.method = kMethod}));
  EXPECT_EQ(security->ClientName("Bearer x"), std::nullopt);
  EXPECT_EQ(security->stats().certificate_expires_at, std::nullopt);
}

TEST_F(SecurityTest, RefusesFlagsThatCannotMean) {
  SecurityOptions options = WithTls(Role::kRouter);
  options.tls_key.clear();
  ExpectRefused(options, "wanted all three or none");
  options = WithTls(Role::kRouter);
  options.tls_ca = PathOf("nowhere");
  ExpectRefused(options, "--tls_ca");
  options = WithTls(Role::kRouter);
  options.role = Role::kExpertWorker;
  ExpectRefused(options, "no alternative name URI:spiffe://m1-serve/role/expert-worker");
  ExpectRefused({.address = "0.0.0.0"}, "--insecure");
  Write("tokens", "alice\n");
  ExpectRefused({.token_file = PathOf("tokens")}, "line 1");
  ExpectRefused({.token_file = folder_}, "not a regular file");
}

TEST_F(SecurityTest, OnlyTheRoleAboveMayCall) {
  const std::pair<Role, Role> edges[] = {{Role::kAttentionWorker, Role::kRouter},
                                         {Role::kExpertWorker, Role::kAttentionWorker}};
  for (const auto& [server, caller] : edges) {
    ASSERT_OK_AND_ASSIGN(const auto security, Security::Create(WithTls(server)));
    EXPECT_TRUE(security->asks_for_certificates());
    for (const Role role : {Role::kRouter, Role::kAttentionWorker, Role::kExpertWorker}) {
      const std::string uri = RoleUri(role);
      const absl::Status status = security->Authorize({.method = kMethod, .peer_uris = {uri}});
      EXPECT_EQ(status.ok(), role == caller) << RoleName(server) << " called by " << uri;
      if (role != caller) {
        EXPECT_THAT(status,
                    StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr(RoleUri(caller))));
      }
      EXPECT_OK(
          security->Authorize({.method = "/grpc.health.v1.Health/Check", .peer_uris = {uri}}));
    }
    const std::string longer = RoleUri(caller) + "2";
    EXPECT_FALSE(security->Authorize({.method = kMethod, .peer_uris = {longer}}).ok());
    EXPECT_FALSE(security->Authorize({.method = kMethod}).ok());
    EXPECT_EQ(security->stats().num_denied[static_cast<size_t>(Denial::kWrongRole)], 4);
  }
}

TEST_F(SecurityTest, AUnixSocketIsGuardedByItsFile) {
  SecurityOptions options = WithTls(Role::kExpertWorker);
  options.address = "unix:/tmp/x";
  ASSERT_OK_AND_ASSIGN(const auto security, Security::Create(options));
  EXPECT_FALSE(security->listens_with_tls());
  EXPECT_NE(security->identity(), nullptr) << "for calls to others";
  EXPECT_OK(security->Authorize({.method = kMethod}));
}

TEST_F(SecurityTest, WantsOneKnownToken) {
  ASSERT_OK_AND_ASSIGN(const auto security, Security::Create(WithTokens()));
  const auto authorize = [&security](std::vector<absl::string_view> authorization) {
    return security->Authorize({.method = kMethod, .authorization = std::move(authorization)});
  };
  EXPECT_OK(authorize({"Bearer secret-a"}));
  EXPECT_OK(authorize({"bearer secret-a"}));
  EXPECT_EQ(security->ClientName("Bearer secret-a"), "alice");
  EXPECT_THAT(authorize({}), StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr("no token")));
  for (const absl::string_view bad : {"", "Bearer", "Bearer ", "Bearer secret-b", "Basic secret-a",
                                      "secret-a", "Bearer secret-a ", "Bearer  secret-a"}) {
    EXPECT_THAT(authorize({bad}),
                StatusIs(absl::StatusCode::kUnauthenticated, Not(HasSubstr("secret"))))
        << bad;
    EXPECT_EQ(security->ClientName(bad), std::nullopt);
  }
  EXPECT_FALSE(authorize({"Bearer secret-a", "Bearer secret-a"}).ok());
  EXPECT_EQ(security->stats().num_denied[static_cast<size_t>(Denial::kNoToken)], 1);
  EXPECT_EQ(security->stats().num_denied[static_cast<size_t>(Denial::kBadToken)], 9);
}

TEST_F(SecurityTest, AdministrationIsForAdmins) {
  ASSERT_OK_AND_ASSIGN(const auto security, Security::Create(WithTokens()));
  const CallFacts drain{.method = "/m1.v1.Control/Drain", .authorization = {"Bearer secret-a"}};
  EXPECT_THAT(security->Authorize(drain),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("admin")));
  EXPECT_EQ(security->stats().num_denied[static_cast<size_t>(Denial::kWrongRole)], 1);
  for (const absl::string_view method : {absl::string_view("/m1.v1.Control/Drain"), kMethod}) {
    EXPECT_OK(security->Authorize({.method = method, .authorization = {"Bearer secret-root"}}));
  }
}

TEST_F(SecurityTest, TakesChangedTokensAndKeepsTheOldForBadOnes) {
  ASSERT_OK_AND_ASSIGN(const auto security, Security::Create(WithTokens()));
  const auto knows = [&security](absl::string_view token) {
    return security->ClientName(absl::StrCat("Bearer ", token)).has_value();
  };
  Write("tokens", absl::StrCat("bob ", TokenDigest("secret-b"), "\n"));
  EXPECT_TRUE(Eventually([&] { return knows("secret-b"); }));
  EXPECT_FALSE(knows("secret-a")) << "a token that was taken out still opens";
  Write("tokens", "bob garbage\n");
  EXPECT_TRUE(Eventually([&] { return security->stats().tokens.num_failed == 1; }));
  EXPECT_TRUE(knows("secret-b"));
  std::remove(PathOf("tokens").c_str());
  EXPECT_TRUE(Eventually([&] { return security->stats().tokens.num_failed == 2; }));
  Write("tokens", absl::StrCat("bob ", TokenDigest("secret-b"), "\ncy ", TokenDigest("c"), "\n"));
  EXPECT_TRUE(Eventually([&] { return knows("c"); }));
  EXPECT_EQ(security->stats().tokens.num_failed, 2) << "one problem is one failure";
  EXPECT_FALSE(security->stats().tokens.is_rejected);
}

TEST_F(SecurityTest, WithoutTheLastTokenNobodyGetsIn) {
  const CallFacts call{.method = kMethod, .authorization = {"Bearer secret-a"}};
  for (const absl::string_view nobody : {"", "# alice left\n"}) {
    ASSERT_OK_AND_ASSIGN(const auto security, Security::Create(WithTokens()));
    EXPECT_OK(security->Authorize(call));
    Write("tokens", nobody);
    EXPECT_TRUE(Eventually([&] { return security->stats().tokens.num_taken == 1; }));
    EXPECT_THAT(security->Authorize(call),
                StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr("unknown")));
    EXPECT_FALSE(security->Authorize({.method = kMethod}).ok());
    EXPECT_FALSE(security->stats().tokens.is_rejected);
    // The same file means the same at start.
    ASSERT_OK_AND_ASSIGN(const auto later, Security::Create({.token_file = PathOf("tokens")}));
    EXPECT_THAT(later->Authorize(call),
                StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr("unknown")));
  }
}

TEST_F(SecurityTest, TellsWhileWhatIsOnDiskIsNotInUse) {
  SecurityOptions options = WithTls(Role::kRouter);
  options.token_file = WithTokens().token_file;
  ASSERT_OK_AND_ASSIGN(const auto security, Security::Create(options));
  const auto tls = [&security] { return security->stats().tls.is_rejected; };
  const auto tokens = [&security] { return security->stats().tokens.is_rejected; };
  EXPECT_FALSE(tls() || tokens());
  std::remove(PathOf("tokens").c_str());
  EXPECT_TRUE(Eventually(tokens));
  EXPECT_FALSE(tls());
  WithTokens();
  EXPECT_TRUE(Eventually([&] { return !tokens(); }));
  Write("cert", "no certificate");
  EXPECT_TRUE(Eventually(tls));
  EXPECT_FALSE(tokens());
  WriteIdentity(Role::kRouter);
  EXPECT_TRUE(Eventually([&] { return !tls(); }));
}

TEST_F(SecurityTest, TakesARenewedCertificateOnceItsKeyIsThere) {
  ASSERT_OK_AND_ASSIGN(const auto security, Security::Create(WithTls(Role::kExpertWorker)));
  const std::shared_ptr<const TlsIdentity> first = security->identity();
  const IssuedCertificate next = authority_.Issue({.uris = {RoleUri(Role::kExpertWorker)}});
  Write("cert", next.certificate);
  EXPECT_TRUE(Eventually([&] { return security->stats().tls.num_failed >= 1; }));
  EXPECT_EQ(security->identity(), first);
  Write("key", next.private_key);
  EXPECT_TRUE(Eventually([&] { return security->identity() != first; }));
  EXPECT_EQ(security->identity()->files.certificates, next.certificate);
  EXPECT_EQ(security->stats().tls.num_taken, 1);
  EXPECT_EQ(security->stats().certificate_expires_at, security->identity()->expires_at);
}

TEST_F(SecurityTest, DoesNotTakeACertificateOfAnotherRole) {
  ASSERT_OK_AND_ASSIGN(const auto security, Security::Create(WithTls(Role::kExpertWorker)));
  WriteIdentity(Role::kRouter);
  EXPECT_TRUE(Eventually([&] { return security->stats().tls.num_failed >= 1; }));
  absl::SleepFor(absl::Milliseconds(30));
  EXPECT_TRUE(security->identity()->HasRole(Role::kExpertWorker));
  EXPECT_EQ(security->stats().tls.num_taken, 0);
}

TEST_F(SecurityTest, DoesNotTakeACertificateOfAnotherAuthority) {
  ASSERT_OK_AND_ASSIGN(const auto security, Security::Create(WithTls(Role::kExpertWorker)));
  const std::shared_ptr<const TlsIdentity> first = security->identity();
  const TestAuthority successor({.name = "successor"});
  const IssuedCertificate next = successor.Issue({.uris = {RoleUri(Role::kExpertWorker)}});
  Write("key", next.private_key);
  Write("cert", next.certificate);
  EXPECT_TRUE(Eventually([&] { return security->stats().tls.num_failed >= 1; }));
  absl::SleepFor(absl::Milliseconds(30));
  EXPECT_EQ(security->identity(), first);
  Write("ca", absl::StrCat(authority_.pem(), successor.pem()));
  EXPECT_TRUE(Eventually([&] { return security->identity() != first; }));
  EXPECT_EQ(security->stats().authority_expires_at, security->identity()->authority_expires_at);
}

TEST_F(SecurityTest, TakesACertificateAsSoonAsItIsValid) {
  ASSERT_OK_AND_ASSIGN(const auto security, Security::Create(WithTls(Role::kExpertWorker)));
  const absl::Time starts_at = absl::FromUnixSeconds(absl::ToUnixSeconds(absl::Now()) + 3);
  const IssuedCertificate next =
      authority_.Issue({.uris = {RoleUri(Role::kExpertWorker)}, .starts_at = starts_at});
  Write("key", next.private_key);
  Write("cert", next.certificate);
  EXPECT_TRUE(
      Eventually([&] { return security->identity()->files.certificates == next.certificate; }));
  EXPECT_GE(absl::Now(), starts_at);
  EXPECT_FALSE(security->stats().tls.is_rejected);
}

TEST_F(SecurityTest, CallsAreAuthorizedWhileFilesChange) {
  SecurityOptions options = WithTls(Role::kAttentionWorker);
  options.poll_interval = absl::Milliseconds(1);
  ASSERT_OK_AND_ASSIGN(const auto security, Security::Create(options));
  const std::string uri = RoleUri(Role::kRouter);
  std::vector<std::thread> callers;
  for (int i = 0; i < 2; ++i) {
    callers.emplace_back([&] {
      for (int call = 0; call < 20000; ++call) {
        ASSERT_OK(security->Authorize({.method = kMethod, .peer_uris = {uri}}));
        ASSERT_NE(security->identity(), nullptr);
      }
    });
  }
  for (int i = 0; i < 5; ++i) WriteIdentity(Role::kAttentionWorker);
  for (std::thread& caller : callers) caller.join();
  EXPECT_TRUE(Eventually([&] { return security->stats().tls.num_taken >= 1; }));
}

}  // namespace
}  // namespace m1
