# What `cmake --install` puts where, so that another project's find_package(bumblebee) gives it bumblebee::bumblebee. The layers and the
# Rust text library are installed as one archive: how the library is cut into layers is nobody's business outside.
if(BB_KERNELS_ONLY OR NOT TARGET bumblebee_engine)
  return()
endif()
include(CMakePackageConfigHelpers)

# BB_LAYERS: targets of bb_layer(). BB_ARCHIVES: archives that other build tools make, and BB_ARCHIVE_TARGETS: the targets that make them.
get_property(BB_LAYERS GLOBAL PROPERTY BB_LAYERS)
get_property(BB_ARCHIVES GLOBAL PROPERTY BB_ARCHIVES)
get_property(BB_ARCHIVE_TARGETS GLOBAL PROPERTY BB_ARCHIVE_TARGETS)
set(BB_ARCHIVE ${CMAKE_BINARY_DIR}/package/libbumblebee.a)
set(BB_PARTS ${BB_ARCHIVES})
foreach(layer ${BB_LAYERS})
  list(APPEND BB_PARTS $<TARGET_FILE:${layer}>)
endforeach()
add_custom_command(OUTPUT ${BB_ARCHIVE}
  COMMAND ${CMAKE_COMMAND} -DOUTPUT=${BB_ARCHIVE} "-DPARTS=${BB_PARTS}" -DAR=${CMAKE_AR} -P ${PROJECT_SOURCE_DIR}/cmake/MergeArchives.cmake
  DEPENDS ${BB_LAYERS} ${BB_ARCHIVE_TARGETS} ${BB_ARCHIVES} ${PROJECT_SOURCE_DIR}/cmake/MergeArchives.cmake
  COMMENT "Merging the layers into libbumblebee.a" VERBATIM)
add_custom_target(bumblebee_package ALL DEPENDS ${BB_ARCHIVE})

configure_package_config_file(cmake/bumblebeeConfig.cmake.in ${CMAKE_BINARY_DIR}/package/bumblebeeConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/bumblebee PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/package/bumblebeeConfigVersion.cmake COMPATIBILITY SameMinorVersion)

install(FILES ${BB_ARCHIVE} DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/bumblebee DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${CMAKE_BINARY_DIR}/package/bumblebeeConfig.cmake ${CMAKE_BINARY_DIR}/package/bumblebeeConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/bumblebee)
install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
