// One sequence for each session. Its pages are nobody else's, so they may be cut where the next prompt turns away.
#include "engine/kept_sequences.h"

#include <algorithm>
#include <utility>

namespace bumblebee::engine {
namespace {

lora::AdapterId id_of(const Sequence& sequence) {
  return sequence.adapters ? sequence.adapters->id : lora::AdapterId{};  // the base
}

}  // namespace

void KeptSequences::prepare(const Sequence& sequence) {
  if (sequence.session) sessions_.try_emplace(sequence.session);
}

bool KeptSequences::resume(Sequence& sequence) noexcept {
  const auto found = sessions_.find(sequence.session);
  if (!sequence.session || found == sessions_.end() || found->second.pages < 0) return false;
  Kept& kept = found->second;
  const auto prompt_end = sequence.tokens.begin() + (sequence.prompt - 1);
  const auto differs = std::mismatch(sequence.tokens.begin(), prompt_end, kept.tokens.begin(), kept.tokens.end()).first;
  const int common = kept.adapters == id_of(sequence) ? int(differs - sequence.tokens.begin()) : 0;
  if (common == 0) {
    drop(kept);  // whatever comes of this request takes its place
    return false;
  }
  pages_ -= int(table_.pages(kept.pages).size());
  sequence.pages = std::exchange(kept.pages, -1);
  table_.truncate(sequence.pages, common);
  sequence.computed = sequence.reused = common;
  return true;
}

void KeptSequences::leave(Sequence& sequence) noexcept {
  const auto found = sessions_.find(sequence.session);
  if (found == sessions_.end() || sequence.computed == 0) return table_.close(sequence.pages);
  Kept& kept = found->second;
  drop(kept);
  kept.tokens = std::move(sequence.tokens);
  kept.tokens.resize(size_t(sequence.computed));
  kept.adapters = id_of(sequence);
  kept.pages = sequence.pages;
  kept.left = ++clock_;
  pages_ += int(table_.pages(kept.pages).size());
}

void KeptSequences::drop(Kept& kept) noexcept {
  if (kept.pages < 0) return;
  pages_ -= int(table_.pages(kept.pages).size());
  table_.close(std::exchange(kept.pages, -1));
  std::vector<int32_t>().swap(kept.tokens);  // an assignment would keep the memory
}

bool KeptSequences::drop_oldest() noexcept {
  Kept* oldest = nullptr;
  for (auto& [session, kept] : sessions_) {
    if (kept.pages >= 0 && (oldest == nullptr || kept.left < oldest->left)) oldest = &kept;
  }
  if (oldest != nullptr) drop(*oldest);
  return oldest != nullptr;
}

void KeptSequences::drop_orphans() noexcept {
  for (auto it = sessions_.begin(); it != sessions_.end();) {
    if (!it->first.expired()) {
      ++it;
      continue;
    }
    drop(it->second);
    it = sessions_.erase(it);
  }
}

}  // namespace bumblebee::engine
