// The repository of a Bluesky account: a CAR file (content-addressed archive, version 1), whose blocks are DAG-CBOR. Of
// all its blocks the records that are posts.
#pragma once

#include <string_view>
#include <vector>

#include "dataset/post_reader.h"

namespace bumblebee::dataset {

/// The type of the record.
inline constexpr std::string_view kBlueskyPost = "app.bsky.feed.post";

/// Throws Error(bad_file) naming the block, for what is no CAR or no CBOR.
std::vector<Post> read_car(std::string_view bytes, std::string_view where);

}  // namespace bumblebee::dataset
