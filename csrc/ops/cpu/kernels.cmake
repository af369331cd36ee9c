# The inner loops (kernels.inc), compiled once an instruction set with compiler flags of its own. One
# whose flags the compiler does not know offers no kernels. They take most of a build's time, half a
# minute each. A new instruction set is a row here and one in select.cpp.
include(CheckCXXCompilerFlag)
set(MOEFLUX_KERNELS "" CACHE STRING "instruction sets to build for, such as portable;avx2; all if empty")

# moeflux_kernels(NAME HEADER GEMM_FROM [FLAGS]): operations are those of simd/isa_HEADER.h, GEMM_FROM
# the number of tokens from which gemm is faster than matvec.
function(moeflux_kernels name header gemm_from)
  set(source ${PROJECT_BINARY_DIR}/kernels/kernels_${name}.cpp)
  target_sources(moeflux_core PRIVATE ${source})
  set(text "#include \"ops/cpu/kernels.h\"
namespace moeflux::ops::cpu { const Kernels* kernels_${name}() { return nullptr; } }\n")
  set(flags -O3 -ffp-contract=fast -Wno-psabi)
  if(MOEFLUX_SANITIZE)
    # Unrolled loops with a check at every step take minutes to compile, and so do thousands of inlined
    # variables whose memory is poisoned at the end of each scope.
    set(flags -O1 -ffp-contract=fast -Wno-psabi -fno-sanitize=undefined
      -fno-sanitize-address-use-after-scope)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC 12's own intrinsic headers read an uninitialised vector on purpose (PR 105593).
    list(APPEND flags -Wno-maybe-uninitialized -Wno-uninitialized)
  endif()
  if(NOT ARGN OR NOT MOEFLUX_KERNELS OR name IN_LIST MOEFLUX_KERNELS)
    list(JOIN ARGN " " set)
    string(MAKE_C_IDENTIFIER "MOEFLUX_HAS_${set}" known)
    check_cxx_compiler_flag("${set}" ${known})
    if(${known})
      list(APPEND flags ${ARGN})
      set(text "#define MOEFLUX_ISA ${name}
#define MOEFLUX_ISA_HEADER \"ops/cpu/simd/isa_${header}.h\"
#define MOEFLUX_GEMM_FROM ${gemm_from}
#include \"ops/cpu/kernels.inc\"\n")
    endif()
  endif()
  file(CONFIGURE OUTPUT ${source} CONTENT "${text}" @ONLY)
  set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS ${flags})
  set_property(SOURCE ${source} PROPERTY SKIP_PRECOMPILE_HEADERS ON)  # per-file flags
endfunction()

moeflux_kernels(portable portable 16)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  # The base is asked for by name: for macOS, compilers assume an M1, which has the dot product.
  # zig knows -mcpu alone; of GCC, only -march gives all extensions.
  check_cxx_compiler_flag(-march=armv8-a MOEFLUX_HAS_MARCH)
  function(moeflux_neon name arch extensions)
    set(flag -mcpu=generic)
    if(MOEFLUX_HAS_MARCH)
      set(flag -march=${arch})
    endif()
    moeflux_kernels(${name} neon 8 ${flag}${extensions})  # 8 as AVX2: not measured
  endfunction()
  moeflux_neon(neon armv8-a "")
  moeflux_neon(neon_dotprod armv8.2-a +dotprod)
  moeflux_neon(neon_i8mm armv8.2-a +dotprod+i8mm+bf16)
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma)
  moeflux_kernels(avx2 avx2 8 -mavx2 -mfma -mf16c)
  moeflux_kernels(avx2_vnni avx2 8 -mavx2 -mfma -mf16c -mavxvnni)
  moeflux_kernels(avx512 avx512 8 ${avx512})
  moeflux_kernels(avx512_vnni avx512 8 ${avx512} -mavx512vnni)
  moeflux_kernels(avx512_bf16 avx512 8 ${avx512} -mavx512vnni -mavx512vbmi -mavx512bf16)
  moeflux_kernels(amx avx512 4 ${avx512} -mavx512vnni -mavx512vbmi -mavx512bf16 -mamx-tile -mamx-int8)
endif()
