# What the tests of several folders share. Included by each folder that needs it; every target is made once.
set(here ${CMAKE_CURRENT_LIST_DIR})
if(NOT TARGET bb_test_support)
  bb_test_library(bb_test_support
    SOURCES ${here}/golden_file.cpp ${here}/memory_weights.cpp ${here}/random.cpp ${here}/tiny_gemma.cpp ${here}/tiny_model.cpp ${here}/tolerance.cpp
    LIBS bumblebee_backend)
  # The device "replay" around the reference; needs the registry.
  bb_test_library(bb_replay SOURCES ${here}/replay_backend.cpp ${here}/replay_ops.cpp LIBS bb_test_support bumblebee_backends)
endif()
# Models on every device, with and without adapters.
if(NOT TARGET bb_test_models AND TARGET bumblebee_exec)
  bb_test_library(bb_test_models
    SOURCES ${here}/../models/adapting.cpp ${here}/../models/running.cpp
    LIBS bb_replay bumblebee_exec bumblebee_io)
endif()
