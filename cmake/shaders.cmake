# The shader library is translated at build time by tools/msl (Python's standard library only), again
# when a shader or the tool changes.
# pybind11 takes a Python that is found already, so it must have all that pybind11 needs.
find_package(Python 3.10 REQUIRED COMPONENTS Interpreter OPTIONAL_COMPONENTS Development.Module)
if(MOEFLUX_PYTHON AND NOT Python_Development.Module_FOUND)
  message(FATAL_ERROR "expected the headers of ${Python_EXECUTABLE}, found no Python.h: "
    "install python3-dev (Debian, Ubuntu) or python3-devel (Fedora)")
endif()

set(MOEFLUX_SHADER_DIR ${PROJECT_SOURCE_DIR}/shaders CACHE PATH "where the .metal files are")
file(GLOB_RECURSE moeflux_shaders CONFIGURE_DEPENDS ${MOEFLUX_SHADER_DIR}/*.metal)
file(GLOB moeflux_shader_inputs CONFIGURE_DEPENDS
  ${MOEFLUX_SHADER_DIR}/*.h ${PROJECT_SOURCE_DIR}/tools/msl/*.py)

# Writes kernel_table.cpp, library_source.cpp and host_kernels.cpp to `out_dir`.
function(moeflux_translate_shaders out_dir files)
  add_custom_command(
    OUTPUT ${out_dir}/kernel_table.cpp ${out_dir}/host_kernels.cpp ${out_dir}/library_source.cpp
    COMMAND ${CMAKE_COMMAND} -E env PYTHONPATH=${PROJECT_SOURCE_DIR}/tools PYTHONDONTWRITEBYTECODE=1
      ${Python_EXECUTABLE} -m msl generate --out ${out_dir} ${files}
    DEPENDS ${files} ${moeflux_shader_inputs}
    COMMENT "Translating shaders"
    VERBATIM)
  # A GPU rounds after each operation unless the shader says fma. A scalar may serve size checks only.
  set_source_files_properties(${out_dir}/host_kernels.cpp PROPERTIES COMPILE_OPTIONS
    "-O2;-ffp-contract=off;-Wno-unused-parameter")
endfunction()
