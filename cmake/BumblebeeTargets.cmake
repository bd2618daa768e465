# One static target per layer, all with the same warnings, include root and sanitizers.
set(BB_WARNINGS -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND BB_WARNINGS -Wno-restrict)  # false alarms on string concatenation in GCC 12 (its bug 105651)
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  list(APPEND BB_WARNINGS -Wno-unknown-pragmas)  # GCC's hints to its vectoriser
endif()
if(CMAKE_UNITY_BUILD AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND BB_WARNINGS -Wno-subobject-linkage)  # takes a file that a unity build includes for a header
endif()
if(BB_DEV)
  list(APPEND BB_WARNINGS -Werror)
endif()

function(bb_common target)
  target_include_directories(${target} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
    PRIVATE ${PROJECT_SOURCE_DIR}/src)
  # a*b+c rounds twice unless the source says fma: the compiler may not decide that per processor.
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:C,CXX>:${BB_WARNINGS};-ffp-contract=off>)
  if(BB_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${BB_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
    if(NOT target MATCHES "base|quant|backend|op_cases")  # what does not compute takes longer to optimise than to run
      target_compile_options(${target} PRIVATE -O0)
    endif()
    target_link_options(${target} PUBLIC -fsanitize=${BB_SANITIZE})
  endif()
endfunction()

# bb_layer(name SOURCES ... LIBS ...): the static library bumblebee_<name>.
function(bb_layer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  set(target bumblebee_${name})
  add_library(${target} STATIC ${ARG_SOURCES})
  bb_common(${target})
  target_link_libraries(${target} PUBLIC ${ARG_LIBS})
  set_property(GLOBAL APPEND PROPERTY BB_LAYERS ${target})
endfunction()

# Of a test's own code, which takes longer to optimise than to run.
function(bb_test_flags target)
  if(NOT BB_SANITIZE)
    target_compile_options(${target} PRIVATE -O1)
  endif()
endfunction()

# bb_test_library(name SOURCES ... LIBS ...): what tests of several folders share.
function(bb_test_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  bb_common(${name})
  bb_test_flags(${name})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/src)
  target_compile_definitions(${name} PRIVATE BB_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data")
  target_link_libraries(${name} PUBLIC ${ARG_LIBS} GTest::gtest)
endfunction()

# bb_add_test(name SOURCES ... LIBS ... [LABELS ...] [DEFINITIONS ...] [SHARDS n] [FILTER pattern]
#             [CHECKED_MEMORY [pattern]] [CHECKED_THREADS [pattern]]): a GoogleTest program for ctest. Its folder under tests/
# becomes a label too, and the target tests_<folder> builds all programs of that folder. FILTER: GoogleTest's own. With CHECKED_MEMORY
# ./test runs it (that part of it) under AddressSanitizer too, with CHECKED_THREADS under ThreadSanitizer: then it has that label, and
# the target of that name, checked_memory or checked_threads, builds it. No test has a limit of time (tests/CMakeLists.txt says why).
function(bb_add_test name)
  cmake_parse_arguments(ARG "" "SHARDS;FILTER" "SOURCES;LIBS;LABELS;DEFINITIONS;CHECKED_MEMORY;CHECKED_THREADS" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS fast)
  endif()
  foreach(check address:MEMORY thread:THREADS)
    string(REGEX MATCH "(.*):(.*)" check ${check})
    set(kind ${CMAKE_MATCH_2})
    string(TOLOWER checked_${kind} target)
    if(BB_SANITIZE MATCHES ${CMAKE_MATCH_1} AND (ARG_CHECKED_${kind} OR CHECKED_${kind} IN_LIST ARG_KEYWORDS_MISSING_VALUES))
      list(APPEND ARG_LABELS ${target})
      if(ARG_CHECKED_${kind})
        set(ARG_FILTER ${ARG_CHECKED_${kind}})
      endif()
      if(NOT TARGET ${target})
        add_custom_target(${target})
      endif()
      add_dependencies(${target} ${name})
    endif()
  endforeach()
  add_executable(${name} ${ARG_SOURCES})
  bb_common(${name})
  bb_test_flags(${name})
  target_link_libraries(${name} PRIVATE ${ARG_LIBS} GTest::gtest GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_definitions(${name} PRIVATE BB_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data" ${ARG_DEFINITIONS})
  get_filename_component(folder ${CMAKE_CURRENT_SOURCE_DIR} NAME)
  set(environment "")
  if(ARG_FILTER)
    set(environment "GTEST_FILTER=${ARG_FILTER}")
  endif()
  if(ARG_SHARDS)  # a long program as several tests, which ctest runs side by side
    math(EXPR last "${ARG_SHARDS} - 1")
    foreach(shard RANGE ${last})
      add_test(NAME ${name}_${shard} COMMAND ${name})
      set_tests_properties(${name}_${shard} PROPERTIES LABELS "${ARG_LABELS};${folder}"
        ENVIRONMENT "${environment};GTEST_TOTAL_SHARDS=${ARG_SHARDS};GTEST_SHARD_INDEX=${shard}")
    endforeach()
  else()
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS};${folder}" ENVIRONMENT "${environment}")
  endif()
  if(NOT TARGET tests_${folder})
    add_custom_target(tests_${folder})
  endif()
  add_dependencies(tests_${folder} ${name})
endfunction()
