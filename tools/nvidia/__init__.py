"""The shaders on an NVIDIA GPU: translated to CUDA, compiled by NVRTC, run through libcuda.

msl (read_library)  -> emit_cuda   the library as CUDA C++ over metal_stdlib.h
                    -> nvrtc       machine code; needs no GPU
                    -> driver      modules, memory, launches, graphs: libcuda by ctypes
check    the kernels' own oracles (moeflux.doctor.kernels) on real SIMD groups
speed    named cases (speed_cases): GB/s and TFLOP/s
pack     what a machine with a GPU and without this checkout needs
"""
