// A conversation of one turn, streamed: the smallest program that uses a chat model as it was meant to be used.
#include <bumblebee/bumblebee.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: example_hello MODEL QUESTION   (a directory, or org/name in the Hugging Face cache)\n";
    return 2;
  }
  try {
    const auto repository = bumblebee::repository(argv[1]);
    const auto tokenizer = bumblebee::load_tokenizer(repository);
    auto config = bumblebee::load_generation_config(repository);
    config.max_length.reset();
    config.max_new_tokens = 128;
    const auto serving = bumblebee::text::generation(bumblebee::load_model(repository), tokenizer, config);

    bumblebee::text::Input input;
    bumblebee::Message question;
    question.role = "user";
    question.content = argv[2];
    input.messages.push_back(question);
    const auto result = serving.stream(input, [](std::string_view piece) {
      std::cout << piece << std::flush;
      return true;
    });
    std::cout << "\n[" << result.token_summary.output << " tokens, " << bumblebee::text::to_string(result.finish_reason)
              << "]\n";
  } catch (const bumblebee::Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
