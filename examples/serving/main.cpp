// Several questions at once, and nobody waits on a thread of its own: requests are submitted, a listener hears of each.
#include <bumblebee/bumblebee.h>

#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace text = bumblebee::text;

/// Says how an answer goes on. It is called on the serving's own threads, so it only writes a line and returns.
class Teller final : public text::Listener {
 public:
  explicit Teller(std::string name) : name_(std::move(name)) {}

  void on_delta(const text::Delta& delta) noexcept override { say("token", delta.text); }
  void on_end(std::vector<text::Result> results) noexcept override {
    say(text::to_string(results[0].finish_reason), results[0].text);
  }
  void on_error(const bumblebee::Error& error) noexcept override { say("error", error.what()); }

 private:
  void say(std::string_view what, std::string_view text) const {
    std::ostringstream line;  // in one piece, since others write too
    line << name_ << " " << what << ": " << text << "\n";
    std::clog << line.str();
  }
  const std::string name_;
};

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: example_serving MODEL QUESTION...\n";
    return 2;
  }
  try {
    const auto repository = bumblebee::repository(argv[1]);
    auto config = bumblebee::load_generation_config(repository);
    config.max_length.reset();
    config.max_new_tokens = 64;
    const auto serving = text::generation(bumblebee::load_model(repository), bumblebee::load_tokenizer(repository),
                                          config, {.limits = {.batch_size = 8, .sequence_length = 0}});

    std::vector<text::Request> requests;
    for (int i = 2; i < argc; ++i) {
      text::Input input;
      input.messages.push_back({"user", argv[i], ""});
      requests.push_back(serving.submit(input, std::make_shared<Teller>("#" + std::to_string(i - 1))));
    }
    for (const text::Request& request : requests) std::cout << request.wait().at(0).text << "\n";
    std::cout << serving.stats().generated_tokens << " tokens in " << serving.stats().steps << " steps\n";
  } catch (const bumblebee::Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
