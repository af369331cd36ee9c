# The inner loops, one source file an instruction set, each with the compiler flags of its own. A file
# whose flags the compiler does not know is built without them, and then offers no kernels.
# They take most of a build's time, a minute each.
include(CheckCXXCompilerFlag)
set(MOEFLUX_KERNELS "" CACHE STRING "instruction sets to build for, such as portable;avx2; all if empty")

function(moeflux_kernels name)
  set(source csrc/ops/cpu/kernels_${name}.cpp)
  target_sources(moeflux_core PRIVATE ${source})
  set(flags -O3 -ffp-contract=fast -Wno-psabi)
  if(MOEFLUX_SANITIZE)  # unrolled loops with a check at every step take minutes to compile
    set(flags -O1 -ffp-contract=fast -Wno-psabi -fno-sanitize=undefined)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC 12's own intrinsic headers read an uninitialised vector on purpose (PR 105593).
    list(APPEND flags -Wno-maybe-uninitialized -Wno-uninitialized)
  endif()
  if(ARGN AND (NOT MOEFLUX_KERNELS OR name IN_LIST MOEFLUX_KERNELS))
    list(JOIN ARGN " " set)
    string(MAKE_C_IDENTIFIER "MOEFLUX_HAS_${set}" known)
    check_cxx_compiler_flag("${set}" ${known})
    if(${known})
      list(APPEND flags ${ARGN})
    endif()
  endif()
  set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS ${flags})
  set_property(SOURCE ${source} PROPERTY SKIP_PRECOMPILE_HEADERS ON)  # for their flags are others
endfunction()

moeflux_kernels(portable)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  # The base is asked for by name: for macOS, compilers assume an M1, which has the dot product.
  # zig knows -mcpu alone; of GCC, only -march gives all extensions.
  check_cxx_compiler_flag(-march=armv8-a MOEFLUX_HAS_MARCH)
  function(moeflux_neon name arch extensions)
    set(flag -mcpu=generic)
    if(MOEFLUX_HAS_MARCH)
      set(flag -march=${arch})
    endif()
    moeflux_kernels(${name} ${flag}${extensions})
  endfunction()
  moeflux_neon(neon armv8-a "")
  moeflux_neon(neon_dotprod armv8.2-a +dotprod)
  moeflux_neon(neon_i8mm armv8.2-a +dotprod+i8mm+bf16)
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma)
  moeflux_kernels(avx2 -mavx2 -mfma)
  moeflux_kernels(avx2_vnni -mavx2 -mfma -mavxvnni)
  moeflux_kernels(avx512 ${avx512})
  moeflux_kernels(avx512_vnni ${avx512} -mavx512vnni)
  moeflux_kernels(avx512_bf16 ${avx512} -mavx512vnni -mavx512vbmi -mavx512bf16)
  moeflux_kernels(amx ${avx512} -mavx512vnni -mavx512vbmi -mavx512bf16 -mamx-tile -mamx-int8)
endif()
