// The switches and records behind metal_standin.h, as the stand-in's own sources use them.
// Thread-safe.
#pragma once
#include <cstdint>
#include <string>

#include "metal_standin.h"

namespace metal_standin {

bool fails(Fault fault);  // counts the call

void record_violation(const std::string& text);
[[noreturn]] void invalid(const std::string& text);  // records it and throws std::logic_error
inline void check(bool holds, const char* text) {
  if (!holds) invalid(text);
}

uint64_t random_below(uint64_t n);  // REQUIRES: n > 0
void random_delay();
uint32_t queue_timeout_ms();
bool tells_times();
void set_compile_options(const CompileOptions& options);

const Kernel* find_kernel(const std::string& name);  // null: none of that name

void count_object(long change);
void count_residency(const Residency& change);
void hold_request();  // as the schedule says

}  // namespace metal_standin
