// Numbers that nobody can foresee: ids of requests and answers, seeds.
#pragma once

#include <cstdint>
#include <string>

namespace bumblebee::serve {

uint64_t random_number();
/// 24 hexadecimal digits.
std::string random_id();

}  // namespace bumblebee::serve
