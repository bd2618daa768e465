// Adapters by themselves: the low-rank terms of the products of one layer, over as many layers as no cache holds (a
// model reads its weights between two of them). Rows of one adapter, and rows that each have their own.
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "machine.h"

namespace bumblebee::bench {
namespace {

struct Shape {
  int model = 0, q = 0, kv = 0, feed_forward = 0;
  size_t bytes = 0;  // of factors over all layers
};

Shape shape_of(Size size) {
  return size == Size::full ? Shape{4096, 4096, 1024, 12288, size_t{256} << 20} : Shape{64, 64, 32, 96, 1};
}

struct Case {
  std::vector<int> outs;  // of modules that share x
  int in = 0, rank = 16, rows = 1, adapters = 1;
  bool fast = true;
};

/// Every adapter's entries in a backend's slots: site = layer · modules + module.
struct Prepared {
  std::vector<std::vector<std::unique_ptr<LoraEntry>>> adapters;  // [adapters][modules]
  size_t layers = 0;
  double bytes = 0;  // of one layer
};

Prepared prepare(Backend& backend, const Case& c, size_t bytes) {
  Prepared prepared;
  prepared.adapters.resize(size_t(c.adapters));
  for (; prepared.layers < 2 || double(prepared.layers) * prepared.bytes < double(bytes); ++prepared.layers) {
    for (const int out : c.outs) {
      const std::vector<float> a(size_t(c.rank) * size_t(c.in), 0.0101f), b(size_t(out) * size_t(c.rank), 0.0201f);
      for (auto& modules : prepared.adapters) {
        auto entry = std::make_unique<LoraEntry>();
        entry->terms.push_back(
            {backend.pack_factors({.rank = c.rank, .in = c.in, .out = out, .a = a, .b = b, .bias = {}},
                                  LowRankUse::linear),
             1e-3f});
        if (prepared.layers == 0) prepared.bytes += double(entry->terms.front().factors.packed->bytes());
        modules.push_back(std::move(entry));
      }
    }
  }
  for (size_t i = 0; i < prepared.adapters.size(); ++i) {
    std::vector<const LoraEntry*> by_site;
    for (const auto& entry : prepared.adapters[i]) by_site.push_back(entry.get());
    backend.set_slot(int32_t(i), by_site);
  }
  return prepared;
}

void lora(benchmark::State& state, const Case& c, size_t bytes) {
  const std::unique_ptr<Backend> backend = make_backend(c.fast);
  Prepared prepared = prepare(*backend, c, bytes);
  Batch batch;
  for (int r = 0; r < c.adapters; ++r)
    batch.append(std::vector<int32_t>(size_t(c.rows / c.adapters), 0), 0, std::vector<int32_t>{0}, Batch::Want::none,
                 r);
  batch.pages = {0};
  batch.segments = {{0, c.rows, 0, 0}};  // the slots are what counts: one sequence saves the pages
  backend->stream().bind(batch, nullptr);
  const Tensor x = activations(*backend, c.rows, c.in);
  std::vector<Tensor> y;
  double outs = 0;
  for (const int out : c.outs) {
    y.push_back(activations(*backend, c.rows, out));
    outs += out;
  }
  size_t layer = 0;
  std::vector<LoraModule> modules(c.outs.size());
  for (auto _ : state) {
    for (size_t m = 0; m < modules.size(); ++m) modules[m].site = int(layer * modules.size() + m);
    backend->stream().ops().lora(x, RowSet::all, modules, y);
    benchmark::DoNotOptimize(y);
    layer = (layer + 1) % prepared.layers;
  }
  report(state, {.bytes = prepared.bytes + 4.0 * c.rows * (c.in + 2 * outs),
                 .operations = 2.0 * c.rows * c.rank * (double(c.in) * double(c.outs.size()) + outs),
                 .limit = Limit::f32});
}

}  // namespace

void register_lora(Size size) {
  const Shape s = shape_of(size);
  const std::vector<std::tuple<const char*, int, std::vector<int>>> products = {
      {"qkv", s.model, {s.q, s.kv, s.kv}},
      {"o", s.q, {s.model}},
      {"gate_up", s.model, {s.feed_forward, s.feed_forward}},
      {"down", s.feed_forward, {s.model}}};
  for (const auto& [name, in, outs] : products) {
    for (const int rank : {8, 16, 64}) {
      for (const auto& [rows, adapters] : {std::pair(1, 1), std::pair(8, 1), std::pair(8, 8), std::pair(512, 1)}) {
        for (const bool fast : {false, true}) {
          const Case c{.outs = outs, .in = in, .rank = rank, .rows = rows, .adapters = adapters, .fast = fast};
          add("lora/" + std::string(name) + "/rank" + std::to_string(rank) + "/rows" + std::to_string(rows) +
                  (adapters > 1 ? "x" + std::to_string(adapters) : "") + (fast ? "/fast" : "/exact"),
              [c, bytes = s.bytes](benchmark::State& state) { lora(state, c, bytes); });
        }
      }
    }
  }
}

}  // namespace bumblebee::bench
