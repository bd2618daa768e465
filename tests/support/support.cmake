# bb_test_support: what the tests of several layers share. Included by each folder that needs it.
if(NOT TARGET bb_test_support)
  add_library(bb_test_support STATIC
    ${CMAKE_CURRENT_LIST_DIR}/golden_file.cpp ${CMAKE_CURRENT_LIST_DIR}/memory_weights.cpp ${CMAKE_CURRENT_LIST_DIR}/random.cpp
    ${CMAKE_CURRENT_LIST_DIR}/tiny_model.cpp ${CMAKE_CURRENT_LIST_DIR}/tolerance.cpp)
  bb_common(bb_test_support)
  target_include_directories(bb_test_support PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/src)
  target_compile_definitions(bb_test_support PRIVATE BB_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data")
  target_link_libraries(bb_test_support PUBLIC bumblebee_backend GTest::gtest)
endif()
