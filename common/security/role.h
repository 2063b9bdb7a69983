// What a process may be in a fleet. Its certificate says it in a URI among the subject's
// alternative names: spiffe://m1-serve/role/attention-worker.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace m1 {

enum class Role { kRouter, kAttentionWorker, kExpertWorker };

// "router", "attention-worker", "expert-worker".
absl::string_view RoleName(Role role);
std::string RoleUri(Role role);
// The only role that may call a server of `role`; nullopt: clients, which have tokens, not roles.
std::optional<Role> CallerOf(Role role);

}  // namespace m1
