# The shader library, translated at build time by tools/msl (Python's standard library only):
#   MOEFLUX_SHADER_SOURCES   kernel_table.cpp, library_source.cpp: for every device
#   MOEFLUX_HOST_SOURCES     host_kernels.cpp: the shaders as C++, and the executor that runs them
# Rebuilt when a shader or the tool changes.
set(moeflux_python Interpreter)
if(SKBUILD)  # pybind11 takes a Python that is found already, so it must have all that pybind11 needs
  list(APPEND moeflux_python Development.Module)
endif()
find_package(Python 3.10 REQUIRED COMPONENTS ${moeflux_python})

file(GLOB moeflux_shaders CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/shaders/*.metal)
file(GLOB moeflux_shader_inputs CONFIGURE_DEPENDS
  ${PROJECT_SOURCE_DIR}/shaders/*.h ${PROJECT_SOURCE_DIR}/tools/msl/*.py)

# Writes the sources of `files` to `out_dir`.
function(moeflux_translate_shaders out_dir files)
  add_custom_command(
    OUTPUT ${out_dir}/kernel_table.cpp ${out_dir}/host_kernels.cpp ${out_dir}/library_source.cpp
    COMMAND ${CMAKE_COMMAND} -E env PYTHONPATH=${PROJECT_SOURCE_DIR}/tools PYTHONDONTWRITEBYTECODE=1
      ${Python_EXECUTABLE} -m msl generate --out ${out_dir} ${files}
    DEPENDS ${files} ${moeflux_shader_inputs}
    COMMENT "Translating shaders"
    VERBATIM)
endfunction()

set(shader_dir ${PROJECT_BINARY_DIR}/shaders)
moeflux_translate_shaders(${shader_dir} "${moeflux_shaders}")
set(MOEFLUX_SHADER_SOURCES ${shader_dir}/kernel_table.cpp ${shader_dir}/library_source.cpp)

# Files that switch between fibers: thread sanitizer must not look into them (sanitizers.h).
set(moeflux_executor
  csrc/device/host/context.cpp
  csrc/device/host/fibers.cpp
  csrc/device/host/scheduler.cpp
  csrc/device/host/threadgroup_memory.cpp
  csrc/device/host/executor.cpp)
set(MOEFLUX_HOST_SOURCES
  ${shader_dir}/host_kernels.cpp
  ${moeflux_executor}
  csrc/device/host/buffer.cpp
  csrc/device/host/queue.cpp
  csrc/device/host/host_device.cpp)

# A GPU rounds after each operation unless the shader says fma.
set_source_files_properties(${shader_dir}/host_kernels.cpp PROPERTIES COMPILE_OPTIONS
  "-O2;-ffp-contract=off")
if(MOEFLUX_SANITIZE MATCHES "thread")
  set_source_files_properties(${moeflux_executor} PROPERTIES
    COMPILE_OPTIONS "-fno-sanitize=thread" COMPILE_DEFINITIONS MOEFLUX_TSAN_FIBERS)
endif()
