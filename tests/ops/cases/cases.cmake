# bb_op_cases: one case per operation and shape, without a test framework.
include(${PROJECT_SOURCE_DIR}/tests/support/support.cmake)
if(NOT TARGET bb_op_cases)
  add_library(bb_op_cases STATIC
    ${CMAKE_CURRENT_LIST_DIR}/attend.cpp ${CMAKE_CURRENT_LIST_DIR}/chosen.cpp ${CMAKE_CURRENT_LIST_DIR}/common.cpp ${CMAKE_CURRENT_LIST_DIR}/grad_attention.cpp
    ${CMAKE_CURRENT_LIST_DIR}/grad_products.cpp ${CMAKE_CURRENT_LIST_DIR}/grad_rows.cpp ${CMAKE_CURRENT_LIST_DIR}/grad_updates.cpp ${CMAKE_CURRENT_LIST_DIR}/lora.cpp
    ${CMAKE_CURRENT_LIST_DIR}/matmul.cpp ${CMAKE_CURRENT_LIST_DIR}/norm_rope.cpp ${CMAKE_CURRENT_LIST_DIR}/registry.cpp
    ${CMAKE_CURRENT_LIST_DIR}/rows.cpp ${CMAKE_CURRENT_LIST_DIR}/sample.cpp)
  bb_common(bb_op_cases)
  target_link_libraries(bb_op_cases PUBLIC bb_test_support bumblebee_backend)
endif()
