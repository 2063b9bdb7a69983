// m1: the command line. Chooses the subcommand.
#include <signal.h>

#include <cstdio>
#include <string>
#include <vector>

#include "common/base/log.h"
#include "common/rpc/process.h"
#include "tools/m1/commands.h"

namespace {

struct Command {
  const char* name;
  int (*run)(const std::vector<std::string>& args);
  const char* summary;
};

constexpr Command kCommands[] = {
    {"up", m1::RunUp, "start a whole cluster on this machine"},
    {"generate", m1::RunGenerate, "send one request and stream the answer"},
    {"chat", m1::RunChat, "an interactive chat"},
    {"health", m1::RunHealth, "whether a server is ready, started or alive, as its exit code"},
    {"bench", m1::RunBench, "limits of this machine, kernels, transports, load on a cluster"},
    {"checkpoint", m1::RunCheckpoint, "make a random checkpoint, tell a checkpoint's fingerprint"},
    {"token", m1::RunToken, "make a bearer token and its line of the router's --token_file"},
    {"quantize", m1::RunQuantize, "turn a checkpoint's weights into int8 or int4"},
};

void PrintUsage(FILE* out) {
  std::fputs("usage: m1 COMMAND [flags]      m1 COMMAND --help lists the flags\n\n", out);
  for (const Command& command : kCommands) {
    std::fprintf(out, "  %-12s%s\n", command.name, command.summary);
  }
}

}  // namespace

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  m1::AvoidSlowDefaults();
  if (argc < 2) {
    PrintUsage(stderr);
    return 2;
  }
  const std::string name = argv[1];
  if (name == "--help" || name == "-h" || name == "help") {
    PrintUsage(stdout);
    return 0;
  }
  for (const Command& command : kCommands) {
    if (name == command.name) return command.run(std::vector<std::string>(argv + 2, argv + argc));
  }
  std::fprintf(stderr, "m1: no command \"%s\"\n\n", name.c_str());
  PrintUsage(stderr);
  return 2;
}
