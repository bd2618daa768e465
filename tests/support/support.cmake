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

# bb_replay: the device "replay" around the reference; needs the registry.
if(NOT TARGET bb_replay)
  add_library(bb_replay STATIC ${CMAKE_CURRENT_LIST_DIR}/replay_backend.cpp ${CMAKE_CURRENT_LIST_DIR}/replay_ops.cpp)
  bb_common(bb_replay)
  target_link_libraries(bb_replay PUBLIC bb_test_support bumblebee_backends)
endif()
