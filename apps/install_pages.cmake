# Writes what `bumblebee help --man` and `bumblebee completions` print to where man and the shells look for it.
# PROGRAM: the program; MAN, DATA: the directories.
set(PLAIN ${CMAKE_COMMAND} -E env --unset=BUMBLEBEE_JSON --unset=BUMBLEBEE_MAN ${PROGRAM})  # whatever the shell has set

function(write_output file)
  execute_process(COMMAND ${PLAIN} ${ARGN} OUTPUT_VARIABLE text ERROR_VARIABLE error RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "bumblebee ${ARGN}: ${error}")
  endif()
  message(STATUS "Installing: ${file}")
  file(WRITE "${file}" "${text}")
endfunction()

write_output("${MAN}/bumblebee.1" help --man)
execute_process(COMMAND ${PLAIN} help --json OUTPUT_VARIABLE help COMMAND_ERROR_IS_FATAL ANY)
string(JSON count LENGTH "${help}" verbs)
math(EXPR last "${count} - 1")
foreach(at RANGE ${last})
  string(JSON verb GET "${help}" verbs ${at} name)
  write_output("${MAN}/bumblebee-${verb}.1" help ${verb} --man)
endforeach()
write_output("${DATA}/bash-completion/completions/bumblebee" completions bash)
write_output("${DATA}/zsh/site-functions/_bumblebee" completions zsh)
write_output("${DATA}/fish/vendor_completions.d/bumblebee.fish" completions fish)
