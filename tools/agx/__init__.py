"""What the shaders cost on an Apple GPU, without one: Mesa's compiler for AGX (M1, M2).

msl (read_library)  -> emit_opencl   the library as C++ for OpenCL
                    -> compile       clang-15, llvm-spirv-15, asahi_clc: statistics, assembly
                    -> loops         instructions and cycles of the inner loop
                    -> budgets       the table that no kernel may exceed
"""
