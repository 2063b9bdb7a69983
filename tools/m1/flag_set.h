// Flags of one subcommand: declared with a help text, parsed from `--name value` or `--name=value`.
//
//   FlagSet flags("generate", "Asks a server once.");
//   flags.String("target", &target, "HOST:PORT of the router");
//   flags.Bool("json", &json, "print one JSON object a line");
//   M1_RETURN_IF_ERROR(flags.Parse(args));
//
// Unlike process-wide flags, each subcommand has its own names and its own --help. Destinations
// must outlive the set. A flag is optional: destinations of type std::optional say whether it came.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace m1 {

class FlagSet {
 public:
  FlagSet(std::string command, std::string summary);

  void String(std::string name, std::string* value, std::string help);
  void String(std::string name, std::optional<std::string>* value, std::string help);
  // May be given several times.
  void Strings(std::string name, std::vector<std::string>* values, std::string help);
  void Bool(std::string name, bool* value, std::string help);
  void Bool(std::string name, std::optional<bool>* value, std::string help);
  void Int(std::string name, int* value, std::string help);
  void Int(std::string name, std::optional<int32_t>* value, std::string help);
  void Uint64(std::string name, std::optional<uint64_t>* value, std::string help);
  void Float(std::string name, std::optional<float>* value, std::string help);
  void Duration(std::string name, std::optional<absl::Duration>* value, std::string help);

  // A flag that this set does not know goes to `handler` (name, value) instead of being an error;
  // such flags always take a value.
  void OnUnknown(std::function<absl::Status(absl::string_view, absl::string_view)> handler);

  // Errors: InvalidArgument naming the flag, or the argument that is no flag.
  absl::Status Parse(const std::vector<std::string>& args);

  // True when --help was among the arguments: print HelpText() and end.
  bool help_requested() const { return help_requested_; }
  std::string HelpText() const;

 private:
  struct Flag {
    std::string name;
    std::string help;
    bool is_bool;
    std::function<bool(absl::string_view)> set;  // false: not a value of this type
    std::string type;
  };
  void Add(Flag flag) { flags_.push_back(std::move(flag)); }
  const Flag* Find(absl::string_view name) const;

  const std::string command_;
  const std::string summary_;
  std::vector<Flag> flags_;
  std::function<absl::Status(absl::string_view, absl::string_view)> on_unknown_;
  bool help_requested_ = false;
};

}  // namespace m1
