# The CMake files in the ROS wheels name header folders of the Python and numpy that the wheels were
# built with, and CMake refuses a folder that does not exist. Drop those; ours are found anyway.
function(drop_missing_header_folders)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(folders)
      foreach(folder IN LISTS folders)
        if(IS_ABSOLUTE "${folder}" AND NOT EXISTS "${folder}")
          list(REMOVE_ITEM folders "${folder}")
        endif()
      endforeach()
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${folders}")
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL drop_missing_header_folders) # after the last find_package
