// What the router is told by its flags.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace m1 {

struct RouterOptions {
  // Address to listen on; an IP address, a host name or unix:PATH.
  std::string address = "127.0.0.1";
  // 0..65535; 0 picks a free port.
  int port = 0;
  // Directory with config.json and the tokenizer. Required.
  std::string model_directory;
  // Addresses of attention workers, at least one; dns:///name:port stands for all addresses of the
  // name, of which some may come and go.
  std::vector<std::string> attention_workers;
  // Requests that may wait for a worker, 1..1000000; more are refused with RESOURCE_EXHAUSTED.
  int queue_size = 1024;
  // A waiting request goes before those that came later by so much for each point of priority that
  // they have more; above zero, at most a day.
  absl::Duration priority_ageing = absl::Minutes(1);
  // Largest message received, and largest answer of Tokenize and Detokenize; 1024..2147483647
  // bytes.
  int max_message_bytes = 64 << 20;
  // How long a request waits while no worker is ready, > 0; then UNAVAILABLE.
  absl::Duration worker_loss_timeout = absl::Seconds(60);
  // How long SIGTERM waits for running requests, >= 0.
  absl::Duration drain_timeout = absl::Seconds(30);
  // An answer ends with reason REPETITION when so many tokens in a row have each a probability
  // above repetition_probability; 0..2147483647, 0 switches it off.
  int repetition_run_tokens = 3000;
  // Above 0, below 1.
  double repetition_probability = 0.99;
  // How long a client may leave its stream unread, > 0; then RESOURCE_EXHAUSTED.
  absl::Duration slow_reader_timeout = absl::Seconds(30);

  // InvalidArgument naming the bad flag.
  absl::Status Validate() const;
};

}  // namespace m1
