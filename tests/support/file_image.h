// Safetensors files that a test changes before they are read.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include <nlohmann/json.hpp>

#include "tests/support/tiny_checkpoint.h"

namespace m1 {

// One safetensors file in memory: header and data can be changed apart.
struct FileImage {
  nlohmann::json header;
  std::string data;

  static FileImage Read(const std::string& path) {
    const std::string bytes = ReadTextFile(path);
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof(length));
    return {nlohmann::json::parse(bytes.substr(8, length)), bytes.substr(8 + length)};
  }
  void Write(const std::string& path) const {
    std::string text = header.dump();
    text.append((8 - text.size() % 8) % 8, ' ');
    const uint64_t length = text.size();
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, sizeof(length));
    WriteTextFile(path, bytes + text + data);
  }
  // Appends a tensor of bf16 at the end.
  void Add(const std::string& name, int64_t elements) {
    const size_t begin = data.size();
    data.append(static_cast<size_t>(elements) * 2, '\0');
    header[name] = {
        {"dtype", "BF16"}, {"shape", {elements}}, {"data_offsets", {begin, data.size()}}};
  }
};

}  // namespace m1
