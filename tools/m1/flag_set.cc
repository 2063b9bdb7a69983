#include "tools/m1/flag_set.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace m1 {
namespace {

// A setter for a std::optional through a parser with the signature of absl::SimpleAtoi.
template <typename T>
std::function<bool(absl::string_view)> Setter(std::optional<T>* value,
                                              bool (*parse)(absl::string_view, T*)) {
  return [value, parse](absl::string_view text) {
    T parsed{};
    if (!parse(text, &parsed)) return false;
    *value = parsed;
    return true;
  };
}

bool ParseBool(absl::string_view text, bool* value) { return absl::SimpleAtob(text, value); }
bool ParseInt32(absl::string_view text, int32_t* value) { return absl::SimpleAtoi(text, value); }
bool ParseUint64(absl::string_view text, uint64_t* value) { return absl::SimpleAtoi(text, value); }
bool ParseFloat(absl::string_view text, float* value) { return absl::SimpleAtof(text, value); }
bool ParseDuration(absl::string_view text, absl::Duration* value) {
  return absl::ParseDuration(text, value);
}

}  // namespace

FlagSet::FlagSet(std::string command, std::string summary)
    : command_(std::move(command)), summary_(std::move(summary)) {}

void FlagSet::String(std::string name, std::string* value, std::string help) {
  Add({std::move(name), std::move(help), false,
       [value](absl::string_view text) {
         *value = std::string(text);
         return true;
       },
       "TEXT"});
}

void FlagSet::String(std::string name, std::optional<std::string>* value, std::string help) {
  Add({std::move(name), std::move(help), false,
       [value](absl::string_view text) {
         *value = std::string(text);
         return true;
       },
       "TEXT"});
}

void FlagSet::Strings(std::string name, std::vector<std::string>* values, std::string help) {
  Add({std::move(name), std::move(help), false,
       [values](absl::string_view text) {
         values->emplace_back(text);
         return true;
       },
       "TEXT"});
}

void FlagSet::Bool(std::string name, bool* value, std::string help) {
  Add({std::move(name), std::move(help), true,
       [value](absl::string_view text) { return absl::SimpleAtob(text, value); }, ""});
}

void FlagSet::Bool(std::string name, std::optional<bool>* value, std::string help) {
  Add({std::move(name), std::move(help), true, Setter(value, &ParseBool), ""});
}

void FlagSet::Int(std::string name, int* value, std::string help) {
  Add({std::move(name), std::move(help), false,
       [value](absl::string_view text) { return absl::SimpleAtoi(text, value); }, "N"});
}

void FlagSet::Int(std::string name, std::optional<int32_t>* value, std::string help) {
  Add({std::move(name), std::move(help), false, Setter(value, &ParseInt32), "N"});
}

void FlagSet::Uint64(std::string name, std::optional<uint64_t>* value, std::string help) {
  Add({std::move(name), std::move(help), false, Setter(value, &ParseUint64), "N"});
}

void FlagSet::Float(std::string name, std::optional<float>* value, std::string help) {
  Add({std::move(name), std::move(help), false, Setter(value, &ParseFloat), "X"});
}

void FlagSet::Duration(std::string name, std::optional<absl::Duration>* value, std::string help) {
  Add({std::move(name), std::move(help), false, Setter(value, &ParseDuration), "5s"});
}

void FlagSet::OnUnknown(
    std::function<absl::Status(absl::string_view, absl::string_view)> handler) {
  on_unknown_ = std::move(handler);
}

const FlagSet::Flag* FlagSet::Find(absl::string_view name) const {
  for (const Flag& flag : flags_) {
    if (flag.name == name) return &flag;
  }
  return nullptr;
}

absl::Status FlagSet::Parse(const std::vector<std::string>& args) {
  for (size_t i = 0; i < args.size(); ++i) {
    absl::string_view arg = args[i];
    if (arg == "--help" || arg == "-h") {
      help_requested_ = true;
      return absl::OkStatus();
    }
    if (arg.size() < 3 || arg.substr(0, 2) != "--") {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", arg, "\" is not a flag; see m1 ", command_, " --help"));
    }
    arg.remove_prefix(2);
    const size_t equals = arg.find('=');
    const absl::string_view name = arg.substr(0, equals);
    std::optional<std::string> value;
    if (equals != absl::string_view::npos) value = std::string(arg.substr(equals + 1));

    const Flag* flag = Find(name);
    if (flag == nullptr && on_unknown_ == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown flag --", name, "; see m1 ", command_, " --help"));
    }
    if (!value.has_value()) {
      if (flag != nullptr && flag->is_bool) {
        value = "true";
      } else if (i + 1 < args.size()) {
        value = args[++i];
      } else {
        return absl::InvalidArgumentError(absl::StrCat("--", name, " needs a value"));
      }
    }
    if (flag == nullptr) {
      if (absl::Status status = on_unknown_(name, *value); !status.ok()) return status;
    } else if (!flag->set(*value)) {
      return absl::InvalidArgumentError(absl::StrCat("--", name, " is \"", *value, "\", wanted ",
                                                     flag->is_bool ? "true or false" : flag->type));
    }
  }
  return absl::OkStatus();
}

std::string FlagSet::HelpText() const {
  constexpr size_t kColumn = 32;
  std::string text = absl::StrCat("m1 ", command_, ": ", summary_, "\n\n");
  for (const Flag& flag : flags_) {
    std::string left = absl::StrCat("  --", flag.name, flag.type.empty() ? "" : " ", flag.type);
    if (left.size() + 2 > kColumn) {
      absl::StrAppend(&text, left, "\n", std::string(kColumn, ' '), flag.help, "\n");
    } else {
      left.resize(kColumn, ' ');
      absl::StrAppend(&text, left, flag.help, "\n");
    }
  }
  return text;
}

}  // namespace m1
