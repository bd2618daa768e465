// The program `bumblebee`. Everything is in program.h.
#include "program.h"

int main(int count, char** arguments) { return bumblebee::cli::run_program(count, arguments); }
