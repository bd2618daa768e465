// Steps of optimizers, on lists of tensors: what is elementwise rounds operator by operator and has no bound but zero;
// sums are f64, and then what follows from one of them may be rounded the other way.
#include <algorithm>
#include <cmath>

#include "tests/ops/cases/common.h"

namespace bumblebee::op_cases {
namespace {

struct Matrix {
  int rows = 1, cols = 1;
};
using Shapes = std::vector<Matrix>;

/// A list of tensors for each of several operands, all of the same shapes.
class ListCase : public OpCase {
 public:
  ListCase(const std::string& op, const std::string& variant, const Shapes& shapes, int operands)
      : OpCase(op, variant), shapes_(shapes) {
    Random random(seed_of(name()));
    for (int i = 0; i < operands; ++i) {
      operands_.emplace_back();
      for (const Matrix& s : shapes) operands_.back().push_back(random_rows(random, s.rows, s.cols));
    }
  }

  std::vector<Output> run(Backend& backend) const final {
    bind_plain(backend, {.rows = 1});
    std::vector<std::vector<Tensor>> tensors;
    for (const auto& operand : operands_) {
      tensors.emplace_back();
      for (const HostMatrix& m : operand) tensors.back().push_back(backend.upload(m.values, m.rows, m.cols));
    }
    std::vector<Output> outputs = call(*backend.stream().grad_ops(), tensors);
    for (size_t i = 0; i < tensors.size(); ++i) {
      for (const Tensor& t : tensors[i]) outputs.push_back(read_output(backend, "operand " + std::to_string(i), t));
    }
    return outputs;
  }

  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<std::vector<double>> exact;
    for (const Output& output : reference) exact.emplace_back(output.values.size(), 0);
    return exact;
  }

 protected:
  using Operands = std::vector<std::vector<Tensor>>;
  /// Returns what is no operand.
  virtual std::vector<Output> call(GradOps& grad, const Operands& x) const = 0;

  Shapes shapes_;
  std::vector<std::vector<HostMatrix>> operands_;
};

class ClearCase final : public ListCase {
 public:
  ClearCase(const std::string& variant, const Shapes& shapes) : ListCase("clear", variant, shapes, 1) {}

 private:
  std::vector<Output> call(GradOps& grad, const Operands& x) const override {
    grad.clear(x[0]);
    return {};
  }
};

class AxpbyCase final : public ListCase {
 public:
  AxpbyCase(const std::string& variant, const Shapes& shapes, bool same = false)
      : ListCase("axpby", variant, shapes, 2), same_(same) {}

 private:
  std::vector<Output> call(GradOps& grad, const Operands& x) const override {
    std::vector<AxpbyTerm> terms;
    for (size_t i = 0; i < x[0].size(); ++i)
      terms.push_back({.y = x[0][i], .a = 0.9f - float(i), .x = x[same_ ? 0 : 1][i], .b = -0.37f + 2 * float(i)});
    grad.axpby(terms);
    return {};
  }
  bool same_;
};

class ScaleCase final : public ListCase {
 public:
  ScaleCase(const std::string& variant, const Shapes& shapes) : ListCase("scale", variant, shapes, 1) {}

 private:
  std::vector<Output> call(GradOps& grad, const Operands& x) const override {
    std::vector<ScaleTerm> terms;
    for (size_t i = 0; i < x[0].size(); ++i)
      terms.push_back({.y = x[0][i], .factor = 0.3f + float(i), .divisor = i % 2 == 0 ? 1 : 1.7f});
    grad.scale(terms);
    return {};
  }
};

class DivideCase final : public ListCase {
 public:
  DivideCase(const std::string& variant, const Shapes& shapes) : ListCase("divide", variant, shapes, 2) {
    for (HostMatrix& m : operands_[1]) {
      for (float& v : m.values) v = v < 0 ? v - 0.01f : v + 0.01f;
    }
  }

 private:
  std::vector<Output> call(GradOps& grad, const Operands& x) const override {
    grad.divide(x[0], x[1]);
    return {};
  }
};

class AdamCase final : public ListCase {
 public:
  AdamCase(const std::string& variant, const Shapes& shapes, const AdamStep& step)
      : ListCase("adam", variant, shapes, 4), step_(step) {
    for (HostMatrix& m : operands_[3]) {
      for (float& v : m.values) v *= v;  // of squares
    }
  }

 private:
  std::vector<Output> call(GradOps& grad, const Operands& x) const override {
    std::vector<AdamTerm> terms;
    for (size_t i = 0; i < x[0].size(); ++i) {
      terms.push_back({x[0][i], x[1][i], x[2][i], x[3][i], step_});
      terms.back().step.c1 *= float(i + 1);
    }
    grad.adam(terms);
    return {};
  }
  AdamStep step_;
};

/// Operands: g, what its moments were made from, and moments by rows and columns, or whole for vectors.
class AdafactorCase final : public OpCase {
 public:
  AdafactorCase(const std::string& variant, const Shapes& shapes, float beta)
      : OpCase("adafactor", variant), beta_(beta) {
    Random random(seed_of(name()));
    for (const Matrix& s : shapes) {
      One one{random_rows(random, s.rows, s.cols), {}, {1, s.cols, random.normals(size_t(s.cols), 1)}};
      if (s.rows > 1) one.rows = {1, s.rows, random.normals(size_t(s.rows), 1)};
      for (HostMatrix* m : {&one.rows, &one.cols}) {
        for (float& v : m->values) v = v * v + 0.01f;
      }
      list_.push_back(std::move(one));
    }
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = 1});
    const auto upload = [&](const HostMatrix& m) {
      return m.values.empty() ? Tensor{} : backend.upload(m.values, m.rows, m.cols);
    };
    std::vector<AdafactorTerm> terms;
    for (const One& one : list_)
      terms.push_back({.g = upload(one.g),
                       .rows = upload(one.rows),
                       .cols = upload(one.cols),
                       .eps = 1e-30f,
                       .beta = beta_,
                       .update = {}});
    backend.stream().grad_ops()->adafactor(terms);
    std::vector<Output> outputs;
    for (const AdafactorTerm& t : terms) {
      outputs.push_back(read_output(backend, "update", t.update));
      outputs.push_back(read_output(backend, "cols", t.cols));
      outputs.push_back(read_output(backend, "g", t.g));
      if (t.rows) outputs.push_back(read_output(backend, "rows", t.rows));
    }
    return outputs;
  }

  /// Of a matrix: a mean that is rounded the other way is off by 2u of itself, a moment by that, its two products and
  /// their sum, 6u in all. 1/sqrt(row/mean) has half of 6u, 6u and 2u, and 4u of its own; 1/sqrt(column) 3u and 4u; two
  /// products are left.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<std::vector<double>> bounds;
    const auto relative = [](const Output& output, double error) {
      std::vector<double> bound;
      for (const float v : output.values) bound.push_back(error * std::abs(double(v)));
      return bound;
    };
    for (size_t i = 0, o = 0; i < list_.size(); ++i) {
      const bool matrix = !list_[i].rows.values.empty();
      bounds.push_back(relative(reference[o++], matrix ? 24 * kRoundF32 : 0));
      bounds.push_back(relative(reference[o++], matrix ? 6 * kRoundF32 : 0));
      bounds.push_back(relative(reference[o++], 0));
      if (matrix) bounds.push_back(relative(reference[o++], 6 * kRoundF32));
    }
    return bounds;
  }

 private:
  struct One {
    HostMatrix g, rows, cols;
  };
  std::vector<One> list_;
  float beta_;
};

class OrthogonalizeCase final : public ListCase {
 public:
  OrthogonalizeCase(const std::string& variant, const Shapes& shapes, int steps)
      : ListCase("orthogonalize", variant, shapes, 1), steps_(steps) {}

  /// A step takes a singular value s to 3.4445·s - 4.775·s³ + 2.0315·s⁵, at most 1.14 and with a slope of at
  /// most 3.4445. Elements that are rounded the other way, by 2u of themselves, are errors of 2u·1.3·sqrt(n) in x·xᵀ,
  /// hence of 26u·sqrt(n) in the polynomial, beside 6u·sqrt(n) of its own; that times 1.14 and another 2u: 40u·sqrt(n)
  /// in x, of which every later step makes 3.4445 times as much. The length at the beginning is off by 2u, a quotient
  /// by 2u.
  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<std::vector<double>> bounds;
    for (const Output& output : reference) {
      double error = 4 * kRoundF32;
      for (int i = 0; i < steps_; ++i)
        error = 3.4445 * error + 40 * kRoundF32 * std::sqrt(double(std::min(output.rows, output.cols)));
      bounds.emplace_back(output.values.size(), error);
    }
    return bounds;
  }

 private:
  std::vector<Output> call(GradOps& grad, const Operands& x) const override {
    grad.orthogonalize(x[0], steps_);
    return {};
  }
  int steps_;
};

class SumSquaresCase final : public ListCase {
 public:
  SumSquaresCase(const std::string& variant, const Shapes& shapes) : ListCase("sum_squares", variant, shapes, 1) {}

  /// n roundings of f64, and here the sums become f32.
  std::vector<std::vector<double>> bounds(const Precision& precision,
                                          const std::vector<Output>& reference) const override {
    std::vector<std::vector<double>> bounds = ListCase::bounds(precision, reference);
    for (size_t i = 0; i < shapes_.size(); ++i) {
      const double count = double(shapes_[i].rows) * double(shapes_[i].cols);
      bounds[0][i] = (2 * kRoundF32 + count * 0x1p-52) * double(reference[0].values[i]);
    }
    return bounds;
  }

 private:
  std::vector<Output> call(GradOps& grad, const Operands& x) const override {
    std::vector<double> sums(x[0].size());
    grad.sum_squares(x[0], sums);
    return {{"sums", 1, int(sums.size()), {sums.begin(), sums.end()}}};
  }
};

class ReadAllCase final : public ListCase {
 public:
  ReadAllCase(const std::string& variant, const Shapes& shapes) : ListCase("read_all", variant, shapes, 1) {}

 private:
  std::vector<Output> call(GradOps& grad, const Operands& x) const override {
    size_t size = 0;
    for (const Matrix& s : shapes_) size += size_t(s.rows) * size_t(s.cols);
    std::vector<float> flat(size);
    grad.read_all(x[0], flat);
    return {{"flat", 1, int(size), flat}};
  }
};

class WriteAllCase final : public ListCase {
 public:
  WriteAllCase(const std::string& variant, const Shapes& shapes) : ListCase("write_all", variant, shapes, 1) {}

 private:
  std::vector<Output> call(GradOps& grad, const Operands& x) const override {
    std::vector<float> flat;
    for (const Matrix& s : shapes_) {
      for (int i = 0; i < s.rows * s.cols; ++i) flat.push_back(float(flat.size()) + 0.5f);
    }
    grad.write_all(flat, x[0]);
    return {};
  }
};

class AddRowCase final : public OpCase {
 public:
  AddRowCase(const std::string& variant, int rows, int cols) : OpCase("add_row", variant) {
    Random random(seed_of(name()));
    y_ = random_rows(random, rows, cols);
    row_ = random_rows(random, 1, cols);
  }

  std::vector<Output> run(Backend& backend) const override {
    bind_plain(backend, {.rows = y_.rows});
    Tensor y = backend.upload(y_.values, y_.rows, y_.cols);
    const Tensor row = backend.upload(row_.values, 1, row_.cols), seen = y;
    backend.stream().grad_ops()->add_row(y, row);
    return {read_output(backend, "y", y), read_output(backend, "the other handle on y", seen),
            read_output(backend, "row", row)};
  }

  std::vector<std::vector<double>> bounds(const Precision&, const std::vector<Output>& reference) const override {
    std::vector<double> bound;
    for (const float v : reference[0].values) bound.push_back(2 * kRoundF32 * std::abs(double(v)));
    return {bound, bound, std::vector<double>(row_.values.size(), 0)};
  }

 private:
  HostMatrix y_, row_;
};

/// One tensor around every vector width, a list of unlike ones, and enough for several threads.
template <class Add>
void add_lists(const Add& add) {
  for (const int cols : {1, 2, 7, 15, 16, 17, 33, 100}) add("cols" + std::to_string(cols), {{cols % 3 + 1, cols}});
  add("none", {});
  add("list", {{1, 1}, {3, 7}, {1, 300}, {17, 2}, {8, 8}});
  add("threads", {{8, 1000}, {1, 3000}, {2000, 8}, {1, 5}, {64, 257}});
}

}  // namespace

void add_add_row(Cases& cases) {
  for (const int cols : {1, 2, 7, 15, 16, 17, 33, 100, 2048})
    cases.push_back(std::make_unique<AddRowCase>("cols" + std::to_string(cols), cols % 4 + 1, cols));
  cases.push_back(std::make_unique<AddRowCase>("many_rows", 41, 1024));
}

void add_clear(Cases& cases) {
  add_lists([&](const std::string& variant, const Shapes& shapes) {
    cases.push_back(std::make_unique<ClearCase>(variant, shapes));
  });
}

void add_axpby(Cases& cases) {
  add_lists([&](const std::string& variant, const Shapes& shapes) {
    cases.push_back(std::make_unique<AxpbyCase>(variant, shapes));
    cases.push_back(std::make_unique<AxpbyCase>(variant + "_same", shapes, true));
  });
}

void add_scale(Cases& cases) {
  add_lists([&](const std::string& variant, const Shapes& shapes) {
    cases.push_back(std::make_unique<ScaleCase>(variant, shapes));
  });
}

void add_divide(Cases& cases) {
  add_lists([&](const std::string& variant, const Shapes& shapes) {
    cases.push_back(std::make_unique<DivideCase>(variant, shapes));
  });
}

void add_adam(Cases& cases) {
  AdamStep step = {.b1 = 0.9f, .b2 = 0.999f, .rest1 = 0.1f, .rest2 = 0.001f, .eps = 1e-8f, .c1 = 1e-3f};
  add_lists([&](const std::string& variant, const Shapes& shapes) {
    cases.push_back(std::make_unique<AdamCase>(variant, shapes, step));
  });
  step.keep = 1 - 1e-5f;
  step.c2 = 1.37f;
  cases.push_back(std::make_unique<AdamCase>("decay_and_correction", Shapes{{5, 33}, {1, 64}}, step));
}

void add_adafactor(Cases& cases) {
  add_lists([&](const std::string& variant, const Shapes& shapes) {
    cases.push_back(std::make_unique<AdafactorCase>(variant, shapes, 0.7f));
  });
  cases.push_back(std::make_unique<AdafactorCase>("first_step", Shapes{{5, 33}, {1, 64}}, 0.0f));
}

void add_orthogonalize(Cases& cases) {
  const auto add = [&](const std::string& variant, const Shapes& shapes, int steps) {
    cases.push_back(std::make_unique<OrthogonalizeCase>(variant, shapes, steps));
  };
  add("wide", {{3, 40}}, 5);
  add("tall", {{40, 3}}, 5);
  add("square", {{9, 9}}, 5);
  add("one", {{1, 1}}, 5);
  add("length_alone", {{4, 17}}, 0);
  add("none", {}, 5);
  add("list", {{8, 257}, {257, 8}, {2, 2}, {4, 1000}, {16, 33}}, 5);
}

void add_sum_squares(Cases& cases) {
  add_lists([&](const std::string& variant, const Shapes& shapes) {
    cases.push_back(std::make_unique<SumSquaresCase>(variant, shapes));
  });
}

void add_read_all(Cases& cases) {
  add_lists([&](const std::string& variant, const Shapes& shapes) {
    cases.push_back(std::make_unique<ReadAllCase>(variant, shapes));
  });
}

void add_write_all(Cases& cases) {
  add_lists([&](const std::string& variant, const Shapes& shapes) {
    cases.push_back(std::make_unique<WriteAllCase>(variant, shapes));
  });
}

}  // namespace bumblebee::op_cases
