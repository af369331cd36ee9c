#include <map>

#include "metal_standin.h"

namespace {

const std::map<std::string, metal_standin::Fault> kFaults = {
    {"device", metal_standin::Fault::device},
    {"queue", metal_standin::Fault::queue},
    {"buffer", metal_standin::Fault::buffer},
    {"library", metal_standin::Fault::library},
    {"function", metal_standin::Fault::function},
    {"pipeline", metal_standin::Fault::pipeline},
    {"simd_width", metal_standin::Fault::simd_width},
    {"command_buffer", metal_standin::Fault::command_buffer},
    {"encoder", metal_standin::Fault::encoder},
    {"execution", metal_standin::Fault::execution},
    {"timeout", metal_standin::Fault::timeout},
    {"interactivity", metal_standin::Fault::interactivity},
    {"residency", metal_standin::Fault::residency},
    {"family", metal_standin::Fault::family},
};

}  // namespace

bool metal_standin_inject(const char* fault, int after) {
  const auto found = kFaults.find(fault);
  if (found == kFaults.end()) return false;
  metal_standin::inject(found->second, after);
  return true;
}

void metal_standin_clear_faults() {
  metal_standin::clear_faults();
}

const char* metal_standin_take_violations() {
  thread_local std::string text;
  text.clear();
  for (const std::string& violation : metal_standin::take_violations()) text += violation + "\n";
  return text.c_str();
}

long metal_standin_live_objects() {
  metal_standin::quiesce();
  return metal_standin::live_objects();
}
