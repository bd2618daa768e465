# What `cmake --install` puts where, so that another project's find_package(bumblebee) gives it bumblebee::bumblebee. The layers are
# installed as one archive: how the library is cut into them is nobody's business outside. Archives of other build tools (the Rust text
# library) are installed untouched: an archiver with an LLVM plugin would index their objects by bitcode and lose symbols.
if(BB_KERNELS_ONLY OR NOT TARGET bumblebee_api)
  return()
endif()
include(CMakePackageConfigHelpers)

# BB_LAYERS: targets of bb_layer(). BB_ARCHIVES: archives that other build tools make; each goes to the library directory.
get_property(BB_LAYERS GLOBAL PROPERTY BB_LAYERS)
get_property(BB_ARCHIVES GLOBAL PROPERTY BB_ARCHIVES)
set(BB_ARCHIVE ${CMAKE_BINARY_DIR}/package/libbumblebee.a)
set(BB_PARTS "")
foreach(layer ${BB_LAYERS})
  list(APPEND BB_PARTS $<TARGET_FILE:${layer}>)
endforeach()
add_custom_command(OUTPUT ${BB_ARCHIVE}
  COMMAND ${CMAKE_COMMAND} -DOUTPUT=${BB_ARCHIVE} "-DPARTS=${BB_PARTS}" -DAR=${CMAKE_AR} -P ${PROJECT_SOURCE_DIR}/cmake/MergeArchives.cmake
  DEPENDS ${BB_LAYERS} ${PROJECT_SOURCE_DIR}/cmake/MergeArchives.cmake
  COMMENT "Merging the layers into libbumblebee.a" VERBATIM)
add_custom_target(bumblebee_package ALL DEPENDS ${BB_ARCHIVE})

set(BB_ARCHIVE_NAMES "")
foreach(archive ${BB_ARCHIVES})
  get_filename_component(name ${archive} NAME)
  list(APPEND BB_ARCHIVE_NAMES ${name})
endforeach()
set(BB_SYSTEM_LIBS "")
if(BB_WITH_CUDA)
  set(BB_SYSTEM_LIBS rt)  # of the CUDA runtime, which is one of BB_ARCHIVES
endif()
configure_package_config_file(cmake/bumblebeeConfig.cmake.in ${CMAKE_BINARY_DIR}/package/bumblebeeConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/bumblebee PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/package/bumblebeeConfigVersion.cmake COMPATIBILITY SameMinorVersion)

install(FILES ${BB_ARCHIVE} ${BB_ARCHIVES} DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/bumblebee DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${CMAKE_BINARY_DIR}/package/bumblebeeConfig.cmake ${CMAKE_BINARY_DIR}/package/bumblebeeConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/bumblebee)
install(FILES LICENSE README.md CHANGELOG.md CONTRIBUTING.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs examples DESTINATION ${CMAKE_INSTALL_DOCDIR})  # where the README's links lead
