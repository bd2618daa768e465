// What heads of requests answer by themselves.
#include "serve/http/http.h"

#include <gtest/gtest.h>

namespace bumblebee::serve {
namespace {

TEST(HttpHead, AHeaderIsThereOnlyWhenItWasSentOnce) {
  HttpHead head;
  head.headers = {{"host", "a"}, {"accept", "x"}, {"accept", "y"}};
  EXPECT_EQ(head.header("host"), "a");
  EXPECT_EQ(head.header("accept"), std::nullopt);
  EXPECT_EQ(head.header("absent"), std::nullopt);
}

}  // namespace
}  // namespace bumblebee::serve
