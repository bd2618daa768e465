// Posts out of what social networks hand to their users: Twitter's archive, Bluesky's repository (CAR) and the JSON of
// its API. Only what the user wrote: reposts are left out.
#pragma once

#include <string_view>
#include <vector>

#include "dataset/post_reader.h"

namespace bumblebee::dataset {

/// Of a file: which archive it is from, if any.
bool is_twitter(std::string_view bytes);  // `window.YTD.`..., as its .js files begin
bool is_bluesky_json(std::string_view bytes);

/// tweets.js, tweet.js, tweets-part1.js, note-tweet.js: the assignment and an array, or the array alone. Links of t.co
/// and the names that a reply begins with are not part of the text; entities are their characters. Throws
/// Error(bad_file) for other files of the archive, naming what they hold.
std::vector<Post> read_twitter(std::string_view bytes, std::string_view where);

/// A repository (CAR), or JSON: a record, an array of records or of feed items, or the API's answer around one of them
/// (`records`, `feed`, `posts`). Posts of others that a record quotes or answers are not taken.
std::vector<Post> read_bluesky(std::string_view bytes, std::string_view where);

}  // namespace bumblebee::dataset
