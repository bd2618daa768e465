// Two tables.
#include "options/words.h"

#include <algorithm>
#include <span>

namespace bumblebee::cli {

namespace {

constexpr std::string_view kOneDevice = "a model lies on one device as a whole; --device says on which";
constexpr std::string_view kNoDraft = "there is no speculative decoding yet";
constexpr std::string_view kNoGrammar = "answers cannot be held to a grammar yet";
constexpr std::string_view kPromptCache = "the keys and values of a prompt cannot be kept in a file yet";
constexpr std::string_view kNoXtc = "there is no XTC sampling; --min-p and --top-p cut the unlikely";
constexpr std::string_view kMapped = "weights are read from the mapped file; nothing has to be said";
constexpr std::string_view kOneKv = "--kv-type says how keys and values are kept, both alike";
constexpr std::string_view kNoUpload = "nothing is uploaded; the folder can be, with 'hf upload'";
constexpr std::string_view kBatches = "prompts are computed in chunks of the engine's own size";
constexpr std::string_view kNotIgnored = "endings are what the model's files say; --min-tokens puts them off";

constexpr PeerWord kFlags[] = {
    {"--adapter-path", "--adapter", ""},
    {"--lora", "--adapter", ""},
    {"--lora-scaled", "", "a weight follows the adapter's name: --adapter SRC:0.5"},
    {"--system", "--system-prompt", ""},
    {"-sys", "--system-prompt", ""},
    {"--hf-repo", "--model", ""},
    {"--repo", "--model", ""},
    {"--hf-path", "--model", ""},
    {"-hf", "--model", ""},
    {"-hfr", "--model", ""},
    {"--model-path", "--model", ""},
    {"-s", "--seed", ""},
    {"-g", "--n-gen", ""},
    {"--n-predict", "--max-tokens", ""},
    {"--predict", "--max-tokens", ""},
    {"--num-predict", "--max-tokens", ""},
    {"--max-new-tokens", "--max-tokens", ""},
    {"--min-new-tokens", "--min-tokens", ""},
    {"--context-length", "--ctx-size", ""},
    {"--num-ctx", "--ctx-size", ""},
    {"--sequence-length", "--ctx-size", ""},
    {"-n-best", "--count", ""},
    {"--n-best", "--count", ""},
    {"--num-return-sequences", "--count", ""},
    {"--reverse-prompt", "--stop", ""},
    {"--extra-eos-token", "--stop", ""},
    {"--ignore-chat-template", "--raw", ""},
    {"--chat-template-config", "--chat-template-kwargs", ""},
    {"--chat-template-args", "--chat-template-kwargs", ""},
    {"--cache-type-k", "", kOneKv},
    {"--cache-type-v", "", kOneKv},
    {"-ctk", "", kOneKv},
    {"-ctv", "", kOneKv},
    {"--prompt-tokens", "--n-prompt", ""},
    {"--generation-tokens", "--n-gen", ""},
    {"--data-path", "--file", ""},
    {"--de-quantize", "--dequantize", ""},
    {"--num-threads", "--threads", ""},
    {"--threads-batch", "", "prompts and answers are computed with the same --threads"},
    {"-tb", "", "prompts and answers are computed with the same --threads"},
    {"--lora-layers", "--num-layers", ""},
    {"--lora-rank", "--rank", ""},
    {"--epochs", "", "a run is as long as --iters says; --dry-run prints how many batches an epoch has"},
    {"--verbose-prompt", "", "'bumblebee tokenize' shows a text's tokens"},
    {"--hide-thinking", "", "--strip think leaves thoughts out"},
    {"--think", "", "--chat-template-kwargs '{\"enable_thinking\": true}', where the model's template knows it"},
    {"--nothink", "--no-thinking", ""},
    {"--max-kv-size", "", "nothing is dropped from a context; --ctx-size says how long it may grow"},
    {"--kv-group-size", "", "cached int8 keys and values have one scale a token and head; there is nothing to choose"},
    {"--quantized-kv-start", "", "keys and values are of one type from the first token on"},
    {"--prompt-cache-file", "", kPromptCache},
    {"--prompt-cache", "", kPromptCache},
    {"--prefill-response", "", "an answer cannot be begun for the model, except with --raw"},
    {"--prefill-step-size", "", kBatches},
    {"--batch-size", "", kBatches},
    {"--ubatch-size", "", kBatches},
    {"-ub", "", kBatches},
    {"--draft-model", "", kNoDraft},
    {"--num-draft-tokens", "", kNoDraft},
    {"--model-draft", "", kNoDraft},
    {"-md", "", kNoDraft},
    {"--xtc-probability", "", kNoXtc},
    {"--xtc-threshold", "", kNoXtc},
    {"--grammar", "", kNoGrammar},
    {"--json-schema", "", kNoGrammar},
    {"--gpu-layers", "", kOneDevice},
    {"--n-gpu-layers", "", kOneDevice},
    {"-ngl", "", kOneDevice},
    {"-sm", "", kOneDevice},
    {"-mg", "", kOneDevice},
    {"-dev", "--device", ""},
    {"--mlock", "", kMapped},
    {"--no-mmap", "", kMapped},
    {"--flash-attn", "", "attention never stores its scores; there is nothing to choose"},
    {"-fa", "", "attention never stores its scores; there is nothing to choose"},
    {"--numa", "", "--pin says how threads are bound to memory nodes"},
    {"--ignore-eos", "", kNotIgnored},
    {"--repeat-last-n", "", "--repeat-penalty looks at the whole prompt and answer"},
    {"--jinja", "", "chat templates are always Jinja's"},
    {"--conversation", "", "'bumblebee chat' holds conversations"},
    {"--interactive", "", "'bumblebee chat' holds conversations"},
    {"-cnv", "", "'bumblebee chat' holds conversations"},
    {"-no-cnv", "--raw", ""},
    {"--no-conversation", "--raw", ""},
    {"-pg", "", "-p and -n are measured apart; -d N measures generation after N tokens"},
    {"-nkvo", "", kOneDevice},
    {"--offline", "", "HF_HUB_OFFLINE=1 asks nothing of the Hub"},
    {"--trust-remote-code", "", "no code of a model's is ever run; there is nothing to trust"},
    {"--upload-repo", "", kNoUpload},
    {"--export-gguf", "",
     "no GGUF is written; llama.cpp's convert_hf_to_gguf.py reads the dense folder of --dequantize"},
    {"--gguf-path", "", "no GGUF is written; llama.cpp's convert_hf_to_gguf.py reads the dense folder of --dequantize"},
    {"--quant-predicate", "", "every module gets the same bits; mixed recipes are not implemented"},
};

constexpr PeerWord kVerbs[] = {
    {"list", "cache ls", ""},
    {"ls", "cache ls", ""},
    {"rm", "cache rm", ""},
    {"scan", "cache ls", ""},
    {"manage", "cache", ""},
    {"version", "--version", ""},
    {"ps", "", "models live as long as the program that loaded them; 'bumblebee cache ls' lists what was downloaded"},
    {"stop", "", "models live as long as the program that loaded them; Ctrl-C ends it"},
    {"push", "", kNoUpload},
    {"upload", "", kNoUpload},
    {"cp", "", "a model is a folder; the system's cp copies it"},
    {"lora", "train", ""},
    {"finetune", "train", ""},
    {"fine-tune", "train", ""},
    {"download", "pull", ""},
    {"benchmark", "bench", ""},
    {"eval", "perplexity", ""},
    {"evaluate", "perplexity", ""},
    {"ppl", "perplexity", ""},
    {"complete", "generate", ""},
    {"create", "", "an adapter is made with 'bumblebee train', a model of a GGUF file with 'bumblebee convert'"},
    {"cache_prompt", "", kPromptCache},
};

const PeerWord* word_of(std::span<const PeerWord> words, std::string_view theirs) {
  const auto at = std::find_if(words.begin(), words.end(), [&](const PeerWord& one) { return one.theirs == theirs; });
  return at == words.end() ? nullptr : &*at;
}

}  // namespace

const PeerWord* peer_flag(std::string_view theirs) { return word_of(kFlags, theirs); }
const PeerWord* peer_verb(std::string_view theirs) { return word_of(kVerbs, theirs); }

}  // namespace bumblebee::cli
