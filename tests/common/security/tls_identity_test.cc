#include "common/security/tls_identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

#include "tests/support/status_matchers.h"
#include "tests/support/test_authority.h"

namespace m1 {
namespace {

using testing::HasSubstr;

class TlsIdentityTest : public testing::Test {
 protected:
  TlsFiles Files(const CertificateRequest& request) const {
    const IssuedCertificate issued = authority_.Issue(request);
    return {issued.certificate, issued.private_key, authority_.pem()};
  }
  TlsFiles RouterFiles() const { return Files({.uris = {RoleUri(Role::kRouter)}}); }

  // Expects that they are refused with a message that says this.
  static void ExpectRefused(const TlsFiles& files, absl::string_view problem,
                            absl::Time now = absl::Now()) {
    EXPECT_THAT(ParseTlsIdentity(files, now),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(std::string(problem))));
  }

  const TestAuthority authority_;
};

TEST_F(TlsIdentityTest, ReadsRolesAndTheEndOfItsValidity) {
  const absl::Time expires_at = absl::FromUnixSeconds(absl::ToUnixSeconds(absl::Now()) + 7200);
  ASSERT_OK_AND_ASSIGN(
      const TlsIdentity identity,
      ParseTlsIdentity(Files({.uris = {"spiffe://elsewhere/x", RoleUri(Role::kExpertWorker),
                                       RoleUri(Role::kRouter)},
                              .expires_at = expires_at}),
                       absl::Now()));
  EXPECT_EQ(identity.expires_at, expires_at);
  EXPECT_EQ(identity.uris.size(), 3U);
  EXPECT_TRUE(identity.HasRole(Role::kRouter));
  EXPECT_TRUE(identity.HasRole(Role::kExpertWorker));
  EXPECT_FALSE(identity.HasRole(Role::kAttentionWorker));
}

TEST_F(TlsIdentityTest, AChainIsValidAsLongAsItsFirstToEnd) {
  TlsFiles files = RouterFiles();
  const absl::Time sooner = absl::FromUnixSeconds(absl::ToUnixSeconds(absl::Now()) + 60);
  files.certificates += authority_.Issue({.expires_at = sooner}).certificate;
  ASSERT_OK_AND_ASSIGN(const TlsIdentity identity, ParseTlsIdentity(files, absl::Now()));
  EXPECT_EQ(identity.expires_at, sooner);
  EXPECT_TRUE(identity.HasRole(Role::kRouter)) << "the first one is our own";
}

TEST_F(TlsIdentityTest, RefusesWhatCannotServe) {
  const TlsFiles good = RouterFiles();
  TlsFiles files = good;
  files.private_key = RouterFiles().private_key;
  ExpectRefused(files, "--tls_key is not the key");
  files.private_key = WithPassword(good.private_key);
  ExpectRefused(files, "--tls_key: no PEM private key, or one with a password");
  files.private_key = good.certificates;
  ExpectRefused(files, "--tls_key");
  files = good;
  files.certificates = "no certificate";
  ExpectRefused(files, "--tls_cert: certificate 1");
  files.certificates = absl::StrCat(good.certificates, "-----BEGIN CERTIFICATE-----\nAAAA\n",
                                    "-----END CERTIFICATE-----\n");
  ExpectRefused(files, "--tls_cert: certificate 2");
  files = good;
  files.authorities = good.private_key;
  ExpectRefused(files, "--tls_ca: certificate 1");
  ExpectRefused(
      Files({.uris = {RoleUri(Role::kRouter)}, .expires_at = absl::Now() - absl::Minutes(1)}),
      "--tls_cert has expired");
}

TEST_F(TlsIdentityTest, RefusesWhatIsNotValidYet) {
  const absl::Time start = absl::FromUnixSeconds(absl::ToUnixSeconds(absl::Now()) + 600);
  const TlsFiles files = Files({.uris = {RoleUri(Role::kRouter)}, .starts_at = start});
  ExpectRefused(files,
                absl::StrCat("--tls_cert is not valid yet, but from ",
                             absl::FormatTime(absl::RFC3339_sec, start, absl::UTCTimeZone())));
  EXPECT_OK(ParseTlsIdentity(files, start));
  ExpectRefused(files, "has expired at", absl::Now() + absl::Hours(25));
}

TEST_F(TlsIdentityTest, RefusesWhatNoAuthorityOfOursIssued) {
  TlsFiles files = RouterFiles();
  files.authorities = TestAuthority({.name = "another"}).pem();
  ExpectRefused(files,
                "--tls_cert does not lead to an authority of --tls_ca: /CN=test process of "
                "/CN=test authority: unable to get local issuer certificate");
  files.authorities = TestAuthority().pem();  // of the same name
  ExpectRefused(files, "certificate signature failure");
}

TEST_F(TlsIdentityTest, RefusesAnAuthorityThatHasEnded) {
  const TestAuthority ended({.name = "ended", .expires_at = absl::Now() - absl::Minutes(1)});
  const IssuedCertificate issued = ended.Issue({});
  ExpectRefused({issued.certificate, issued.private_key, ended.pem()},
                "/CN=ended of /CN=ended: certificate has expired");
}

TEST_F(TlsIdentityTest, AnIntermediateAuthorityStandsInTheChain) {
  const absl::Time end = absl::FromUnixSeconds(absl::ToUnixSeconds(absl::Now()) + 7200);
  const TestAuthority intermediate(
      {.name = "in between", .expires_at = end, .issuer = &authority_});
  const IssuedCertificate issued = intermediate.Issue({});
  TlsFiles files{issued.certificate, issued.private_key, authority_.pem()};
  ExpectRefused(files, "unable to get local issuer certificate");
  files.certificates += intermediate.pem();
  ASSERT_OK_AND_ASSIGN(TlsIdentity identity, ParseTlsIdentity(files, absl::Now()));
  EXPECT_EQ(identity.expires_at, end);
  EXPECT_GT(identity.authority_expires_at, end);
  // Peers that trust it need not be shown where it comes from.
  files = {issued.certificate, issued.private_key, intermediate.pem()};
  ASSERT_OK_AND_ASSIGN(identity, ParseTlsIdentity(files, absl::Now()));
  EXPECT_GT(identity.expires_at, end);
  EXPECT_EQ(identity.authority_expires_at, end);
}

TEST_F(TlsIdentityTest, TheEndOfOtherAuthoritiesDoesNotMatter) {
  const absl::Time end = absl::FromUnixSeconds(absl::ToUnixSeconds(absl::Now()) + 90000);
  const TestAuthority ours({.name = "ours", .expires_at = end});
  const TestAuthority ends_sooner({.name = "sooner", .expires_at = absl::Now() + absl::Hours(1)});
  const TestAuthority has_ended({.name = "ended", .expires_at = absl::Now() - absl::Hours(1)});
  const IssuedCertificate issued = ours.Issue({});
  ASSERT_OK_AND_ASSIGN(
      const TlsIdentity identity,
      ParseTlsIdentity({issued.certificate, issued.private_key,
                        absl::StrCat(ends_sooner.pem(), ours.pem(), has_ended.pem())},
                       absl::Now()));
  EXPECT_EQ(identity.authority_expires_at, end);
}

TEST_F(TlsIdentityTest, AnAuthorityIsReplacedInThreeSteps) {
  const TestAuthority successor({.name = "successor"});
  const TlsFiles old = RouterFiles();
  const IssuedCertificate renewed = successor.Issue({.uris = {RoleUri(Role::kRouter)}});
  const std::string both = absl::StrCat(authority_.pem(), successor.pem());
  EXPECT_OK(ParseTlsIdentity({old.certificates, old.private_key, both}, absl::Now()));
  EXPECT_OK(ParseTlsIdentity({renewed.certificate, renewed.private_key, both}, absl::Now()));
  EXPECT_OK(
      ParseTlsIdentity({renewed.certificate, renewed.private_key, successor.pem()}, absl::Now()));
}

TEST_F(TlsIdentityTest, RefusesWhatGrpcWouldRefuse) {
  ExpectRefused(Files({.rsa_bits = 512}),
                "--tls_cert: certificate 1, /CN=test process of /CN=test authority, is not for "
                "TLS: ee key too small");
  EXPECT_OK(ParseTlsIdentity(Files({.rsa_bits = 2048}), absl::Now()));
}

TEST_F(TlsIdentityTest, AnyByteChangedIsRefusedOrReadable) {
  const TlsFiles good = RouterFiles();
  for (size_t i = 0; i < good.certificates.size(); ++i) {
    TlsFiles files = good;
    files.certificates[i] = static_cast<char>(files.certificates[i] ^ 0x21);
    const absl::StatusOr<TlsIdentity> identity = ParseTlsIdentity(files, absl::Now());
    if (!identity.ok()) {
      EXPECT_EQ(identity.status().code(), absl::StatusCode::kInvalidArgument);
    }
  }
}

}  // namespace
}  // namespace m1
