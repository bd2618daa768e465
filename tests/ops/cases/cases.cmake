# bb_op_cases: one case per operation and shape, without a test framework.
include(${PROJECT_SOURCE_DIR}/tests/support/support.cmake)
if(NOT TARGET bb_op_cases)
  set(cases attend chosen common delta experts grad_attention grad_delta grad_experts grad_products grad_rows grad_updates heads lora lora_experts lora_heads matmul norm_rope registry rows sample)
  list(TRANSFORM cases PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
  list(TRANSFORM cases APPEND .cpp)
  bb_test_library(bb_op_cases SOURCES ${cases} LIBS bb_test_support bumblebee_backend)
endif()
