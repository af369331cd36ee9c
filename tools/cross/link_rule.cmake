# Read by CMake after its own Darwin rules: a Python extension is linked by link_bundle.py.
foreach(language CXX OBJCXX)
  set(CMAKE_${language}_CREATE_SHARED_MODULE
    "\"${CMAKE_CURRENT_LIST_DIR}/link_bundle.py\" <LINK_FLAGS> -o <TARGET> <OBJECTS> <LINK_LIBRARIES>")
endforeach()
