# Script: installs BUILD into WORK/prefix, moves it (nothing may remember where it was made), builds SOURCE/examples/embed_in_app against it
# and runs the result on MODEL. The installed program must run as well.
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output COMMAND_ECHO STDOUT)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "failed (${result}):\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE ${WORK})
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/staging)
file(RENAME ${WORK}/staging ${WORK}/prefix)
run(${CMAKE_COMMAND} -S ${SOURCE}/examples/embed_in_app -B ${WORK}/build -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${CXX}
  -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH=${WORK}/prefix)
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/embed_in_app ${MODEL} "Hello")
if(NOT output MATCHES "[0-9]+ tokens")
  message(FATAL_ERROR "embed_in_app printed something else:\n${output}")
endif()
run(${WORK}/prefix/bin/bumblebee --version)
foreach(page README.md docs/getting-started.md docs/internals/architecture.md examples/my_posts/README.md)
  if(NOT EXISTS ${WORK}/prefix/share/doc/bumblebee/${page})
    message(FATAL_ERROR "not installed: ${page}, where the README leads")
  endif()
endforeach()
foreach(page man/man1/bumblebee.1 man/man1/bumblebee-generate.1 bash-completion/completions/bumblebee
    zsh/site-functions/_bumblebee fish/vendor_completions.d/bumblebee.fish)
  if(NOT EXISTS ${WORK}/prefix/share/${page})
    message(FATAL_ERROR "not installed: ${page}, where man or a shell looks for it")
  endif()
endforeach()
# Another minor version is another interface until 1.0.
file(WRITE ${WORK}/newer/CMakeLists.txt
  "cmake_minimum_required(VERSION 3.25)\nproject(newer LANGUAGES CXX)\nfind_package(bumblebee 0.2 QUIET)\n"
  "if(bumblebee_FOUND)\n  message(FATAL_ERROR \"0.1 passed for 0.2\")\nendif()\n")
run(${CMAKE_COMMAND} -S ${WORK}/newer -B ${WORK}/newer/build -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_PREFIX_PATH=${WORK}/prefix)
