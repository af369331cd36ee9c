"""The shader front end: the only reader of `shaders/`.

It knows the subset of the Metal Shading Language that this project writes (tools/README.md), not
C++: bodies of functions stay as they are, line for line. It runs at build time, from CMake, with
nothing but the standard library.

    sources  -> source.flatten   one text, own includes inlined
             -> instantiate      kernel templates written out
             -> tokens, parse    kernels, parameters, threadgroup memory, function constants
             -> rules            what Metal would refuse and a host compiler would not
             -> annotations      the `@` lines above a kernel
    emit_table, emit_host, emit_source, lint   what is written from it
"""
