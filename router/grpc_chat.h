// A conversation checked and turned into plain C++.
#pragma once

#include "common/text/chat_template.h"
#include "m1/v1/inference.pb.h"
#include "router/grpc_violations.h"

namespace m1 {

// Every range of `chat`; fields are named `chat.messages[0].role` and so on.
void CheckChat(const v1::Chat& chat, Violations* violations);

// Of a chat that passed CheckChat.
Chat ReadChat(const v1::Chat& chat);

}  // namespace m1
