# moeflux_device: what every device shares, and the host device over the translated shaders.
set(shader_dir ${PROJECT_BINARY_DIR}/shaders)
moeflux_translate_shaders(${shader_dir} "${moeflux_shaders}")

# Files that switch between fibers: thread sanitizer must not look into them (host/sanitizers.h).
set(moeflux_executor
  csrc/device/host/context.cpp
  csrc/device/host/fibers.cpp
  csrc/device/host/scheduler.cpp
  csrc/device/host/threadgroup_memory.cpp
  csrc/device/host/executor.cpp)

option(MOEFLUX_HOST_CHECKS "host device for tests: guard pages, fault reports, random schedules" OFF)
if(MOEFLUX_HOST_CHECKS)
  set(moeflux_host_options tests/cpp/options_checked.cpp tests/cpp/order.cpp)
else()
  set(moeflux_host_options csrc/device/host/options_shipped.cpp)
endif()

add_library(moeflux_device STATIC
  ${shader_dir}/kernel_table.cpp
  ${shader_dir}/library_source.cpp
  ${shader_dir}/host_kernels.cpp
  csrc/device/addresses.cpp
  csrc/device/no_compiler.cpp
  csrc/device/check.cpp
  csrc/device/completion.cpp
  csrc/device/limits.cpp
  csrc/device/lookup.cpp
  ${moeflux_executor}
  ${moeflux_host_options}
  csrc/device/host/buffer.cpp
  csrc/device/host/commands.cpp
  csrc/device/host/host_device.cpp
  csrc/device/host/queue.cpp
  csrc/device/host/runner.cpp)
target_link_libraries(moeflux_device PUBLIC moeflux_base)
if(MOEFLUX_SANITIZE MATCHES "thread")
  target_compile_definitions(moeflux_device PUBLIC MOEFLUX_TSAN_FIBERS)
  set_source_files_properties(${moeflux_executor} PROPERTIES COMPILE_OPTIONS -fno-sanitize=thread)
endif()
