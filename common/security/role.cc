#include "common/security/role.h"

#include "absl/strings/str_cat.h"

namespace m1 {

absl::string_view RoleName(Role role) {
  switch (role) {
    case Role::kRouter:
      return "router";
    case Role::kAttentionWorker:
      return "attention-worker";
    case Role::kExpertWorker:
      return "expert-worker";
  }
  return "";
}

std::string RoleUri(Role role) { return absl::StrCat("spiffe://m1-serve/role/", RoleName(role)); }

std::optional<Role> CallerOf(Role role) {
  switch (role) {
    case Role::kRouter:
      return std::nullopt;
    case Role::kAttentionWorker:
      return Role::kRouter;
    case Role::kExpertWorker:
      return Role::kAttentionWorker;
  }
  return std::nullopt;
}

}  // namespace m1
