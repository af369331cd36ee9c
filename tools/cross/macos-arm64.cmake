# CMake toolchain: macOS arm64 from Linux. zig (PyPI ziglang) compiles, ld64.lld links against text
# stubs. Set up by build.py, which exports MOEFLUX_ZIG, MOEFLUX_STUBS and SETUPTOOLS_EXT_SUFFIX.
set(CMAKE_SYSTEM_NAME Darwin)
set(CMAKE_SYSTEM_VERSION 23.0)  # macOS 14
set(CMAKE_SYSTEM_PROCESSOR arm64)

set(compile_flags
  # Names in the headers that macOS 14 lacks are errors, in libc++ (zig bundles the newest) ...
  -Werror=unguarded-availability-new
  -U_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS -D_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS=1
  # ... which is Apple's shared library, not the static copy that zig's own headers are set up for.
  -U_LIBCPP_DISABLE_VISIBILITY_ANNOTATIONS -U_LIBCXXABI_DISABLE_VISIBILITY_ANNOTATIONS
  -fno-sized-deallocation  # as Apple's clang; its libc++ exports both forms
  -g0)                     # zig's default is -g, which puts absolute paths inside
list(JOIN compile_flags " " compile_flags)
foreach(language CXX OBJCXX)
  set(CMAKE_${language}_COMPILER "${CMAKE_CURRENT_LIST_DIR}/zig-cxx")
  set(CMAKE_${language}_COMPILER_TARGET aarch64-macos.14.0)
  set(CMAKE_${language}_FLAGS_INIT "${compile_flags}")
endforeach()
# Our own declarations of Foundation and Metal; Apple's are on no registry.
string(APPEND CMAKE_OBJCXX_FLAGS_INIT
  " -I${CMAKE_CURRENT_LIST_DIR}/../../tests/metal_standin/include")

set(CMAKE_AR llvm-ar-19)
set(CMAKE_RANLIB llvm-ranlib-19)
set(CMAKE_INSTALL_NAME_TOOL llvm-install-name-tool-19)
set(CMAKE_STRIP "")  # GNU strip cannot read Mach-O; the linker strips
set(CMAKE_OSX_SYSROOT "")
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_INTERPROCEDURAL_OPTIMIZATION OFF)  # ld64.lld-19 does not read zig's newer bitcode
set(CMAKE_USER_MAKE_RULES_OVERRIDE "${CMAKE_CURRENT_LIST_DIR}/link_rule.cmake")

# pybind11 asks the running (Linux) interpreter for these otherwise.
set(PYTHON_MODULE_EXTENSION "$ENV{SETUPTOOLS_EXT_SUFFIX}")
set(PYTHON_MODULE_DEBUG_POSTFIX "")
set(PYTHON_IS_DEBUG 0)
