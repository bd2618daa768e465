# Script: makes OUTPUT one static archive with the members of all PARTS (a list), using the archiver AR.
set(commands "create ${OUTPUT}\n")
foreach(part ${PARTS})
  string(APPEND commands "addlib ${part}\n")
endforeach()
string(APPEND commands "save\nend\n")
get_filename_component(folder ${OUTPUT} DIRECTORY)
file(MAKE_DIRECTORY ${folder})
file(REMOVE ${OUTPUT})
file(WRITE ${OUTPUT}.mri "${commands}")
# Where an LLVM plugin for binutils is installed, it complains about each Rust object that carries newer bitcode beside its code; the
# code is what counts, so its words are shown only if the merge fails.
execute_process(COMMAND ${AR} -M INPUT_FILE ${OUTPUT}.mri RESULT_VARIABLE result OUTPUT_VARIABLE words ERROR_VARIABLE words)
if(NOT result EQUAL 0 OR NOT EXISTS ${OUTPUT})
  message(FATAL_ERROR "merging the archives into ${OUTPUT} failed:\n${words}")
endif()
