# Included by CMake at llama-cpp-python's project() when scripts/board_wheel.sh builds it.
# A board may have no libgomp, which is not among the libraries that a manylinux wheel may ask for.
execute_process(COMMAND ${CMAKE_C_COMPILER} -print-file-name=libgomp.so.1
  OUTPUT_VARIABLE libgomp OUTPUT_STRIP_TRAILING_WHITESPACE)
file(REAL_PATH "${libgomp}" libgomp) # a link would be installed as one
install(FILES "${libgomp}" DESTINATION "${SKBUILD_PLATLIB_DIR}/llama_cpp/lib" RENAME libgomp.so.1)
