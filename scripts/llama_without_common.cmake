# Included by CMake at each project() of the llama.cpp build (CMAKE_PROJECT_INCLUDE).
# llama-cpp-python asks for llama.cpp's "common" library without ever loading it, and it is a third
# of the compile time. A normal variable hides the cache entry by which it asks.
set(LLAMA_BUILD_COMMON OFF)
