# MOEFLUX_METAL chooses the Metal that the .mm files of csrc/device/metal are compiled against:
#   OFF        none; open_metal() throws NoDeviceError
#   FRAMEWORK  Apple's, on a Mac
#   STANDIN    tests/metal_standin, on Linux; for tests only, needs clang >= 17 and GCC's libobjc
# Defines moeflux_metal, unless OFF: what a binary that opens devices links beside moeflux_device.
set(default_metal OFF)
if(APPLE)
  set(default_metal FRAMEWORK)
endif()
set(MOEFLUX_METAL ${default_metal} CACHE STRING "OFF, FRAMEWORK or STANDIN")
set_property(CACHE MOEFLUX_METAL PROPERTY STRINGS OFF FRAMEWORK STANDIN)

if(NOT MOEFLUX_METAL)
  target_sources(moeflux_device PRIVATE csrc/device/no_metal.cpp)
  return()
elseif(NOT MOEFLUX_METAL MATCHES "^(FRAMEWORK|STANDIN)$")
  message(FATAL_ERROR "MOEFLUX_METAL: expected OFF, FRAMEWORK or STANDIN, found ${MOEFLUX_METAL}")
endif()

set(CMAKE_OBJCXX_STANDARD 20)
set(CMAKE_OBJCXX_STANDARD_REQUIRED ON)
set(CMAKE_OBJCXX_EXTENSIONS OFF)
if(MOEFLUX_METAL STREQUAL "STANDIN" AND NOT CMAKE_OBJCXX_COMPILER)
  # CMake would take GNU's c++, which knows no blocks. Clang 14 (Debian's default) is too old.
  find_program(CMAKE_OBJCXX_COMPILER NAMES clang++-19 clang++-18 clang++-17 clang++ REQUIRED)
endif()
enable_language(OBJCXX)

add_library(metal_framework INTERFACE)  # what the .mm files are compiled against and linked with
if(MOEFLUX_METAL STREQUAL "FRAMEWORK")
  # CoreGraphics: MTLCreateSystemDefaultDevice finds no device in a command-line program without it
  # (Apple's documentation of that function).
  target_link_libraries(metal_framework INTERFACE
    "-framework Foundation" "-framework Metal" "-framework CoreGraphics")
else()
  set(CMAKE_INSTALL_RPATH "$ORIGIN")  # the stand-in lies beside the Python module
  add_subdirectory(tests/metal_standin)
  target_link_libraries(metal_framework INTERFACE metal_standin)
endif()

# An object library, apart from pybind11's targets: those add LTO flags of the C++ compiler, which
# need not be the Objective-C++ one.
add_library(moeflux_metal OBJECT
  csrc/device/metal/advice.cpp
  csrc/device/metal/buffer.mm
  csrc/device/metal/capture.mm
  csrc/device/metal/commands.mm
  csrc/device/metal/compile.mm
  csrc/device/metal/device.mm
  csrc/device/metal/library.mm
  csrc/device/metal/open.cpp
  csrc/device/metal/own_library.mm
  csrc/device/metal/queue.mm
  csrc/device/metal/residency.mm
  csrc/device/metal/text.mm)
set_target_properties(moeflux_metal PROPERTIES
  CXX_VISIBILITY_PRESET hidden OBJCXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
target_link_libraries(moeflux_metal PUBLIC moeflux_device metal_framework)
if(MOEFLUX_METAL STREQUAL "STANDIN")
  target_sources(moeflux_metal PRIVATE tests/metal_standin/src/personality.cpp)
endif()
