// The host's part of a step that is neither the product nor choosing: deciding what is computed and laying it out as a
// batch, for sequences that generate. bench_sample.cpp has the choosing.
#include "engine/scheduler.h"
#include "machine.h"

namespace bumblebee::bench {

void register_schedule(Size size) {
  const int past = size == Size::full ? 1000 : 100;
  for (const int rows : {16, 64, 1000}) {
    add("schedule/rows" + std::to_string(rows), [rows, past](benchmark::State& state) {
      constexpr int kMost = 1 << 20;
      const int pages = rows * (past / 64 + 64);
      engine::Scheduler scheduler({.batch_size = rows, .sequence_length = kMost, .pages = pages, .page_size = 64});
      for (int i = 0; i < rows; ++i) {
        engine::Sequence sequence;
        sequence.id = engine::RequestId(i + 1);
        for (int t = 0; t < past; ++t) sequence.tokens.push_back(i * 7 + t);
        sequence.max_new = 2000;
        scheduler.submit(std::move(sequence));
      }
      scheduler.activate();
      const auto step = [&] {
        const auto planned = scheduler.next(1 << 16);
        scheduler.done(*planned);
        for (const engine::StepSegment& segment : planned->segments) {
          if (segment.wants_logits) scheduler.append(segment.id, 5);
        }
        benchmark::DoNotOptimize(planned->step.batch.pages.data());
      };
      while (scheduler.decoding() < rows) step();
      int made = 0;
      for (auto _ : state) {
        step();
        if (++made < 1900) continue;
        state.PauseTiming();  // back to where they began, so that pages never run out
        for (int i = 0; i < rows; ++i) {
          scheduler.truncate(engine::RequestId(i + 1), past + 1);
        }
        made = 0;
        state.ResumeTiming();
      }
      report(state, {});
    });
  }
}

}  // namespace bumblebee::bench
