// An application with a model inside: answers one prompt with a checkpoint from a local directory.
#include <bumblebee/bumblebee.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: embed_in_app MODEL_DIRECTORY PROMPT\n";
    return 2;
  }
  try {
    const auto repository = bumblebee::local(argv[1]);
    const auto model = bumblebee::load_model(repository);
    const auto tokenizer = bumblebee::load_tokenizer(repository);
    auto config = bumblebee::load_generation_config(repository);
    config.max_length.reset();
    config.max_new_tokens = 16;
    const auto serving = bumblebee::text::generation(model, tokenizer, config);
    const auto result = serving.run(argv[2]);
    std::cout << result.text << "\n" << result.token_summary.output << " tokens\n";
  } catch (const bumblebee::Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
