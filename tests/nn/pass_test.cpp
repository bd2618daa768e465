// The residual stream adds once and in order, however the additions and norms meet; passes see what they should.
#include "nn/pass.h"

#include <gtest/gtest.h>

#include "nn/infer_pass.h"
#include "nn/tap_pass.h"
#include "tests/support/backends.h"
#include "tests/support/random.h"

namespace bumblebee::nn {
namespace {

using namespace testing_support;

class PassTest : public testing::Test {
 protected:
  PassTest()
      : backend_(create_reference()),
        kv_(backend_->make_kv(
            {.groups = {{.kind = KvGroup::Kind::attention, .layers = 1, .kv_heads = 1, .head_dim = 4}}, .pages = 1})) {
    batch_.append(std::vector<int32_t>{0, 1}, 0, std::vector<int32_t>{0}, Batch::Want::last);
    backend_->stream().bind(batch_, kv_.get());
    norm_.params = {backend_->upload(std::vector<float>(4, 2.0f), 1, 4), 0.0f};
    norm_.name = "model.layers.0.input_layernorm";
  }
  Tensor tensor(float value) { return backend_->upload(std::vector<float>{value, 0, 0, 0, 0, value, 0, 0}, 2, 4); }
  std::vector<float> read(const Tensor& t) {
    std::vector<float> values(size_t(t.rows()) * size_t(t.cols()));
    backend_->read(t, values);
    return values;
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<KvStore> kv_;
  Batch batch_;
  RmsNorm norm_;
};

TEST_F(PassTest, AnAdditionWaitsForTheNorm) {
  InferPass pass(backend_->stream().ops(), *kv_);
  Residual r{&pass, tensor(1), {}};
  r += tensor(2);
  EXPECT_TRUE(r.pending);
  EXPECT_EQ(read(r.x)[0], 1.0f);
  EXPECT_EQ(read(pass.norm(r, norm_))[0], 4.0f);  // 3/sqrt(9/4)·2
  EXPECT_FALSE(r.pending);
  EXPECT_EQ(read(r.x)[0], 3.0f);
}

TEST_F(PassTest, TwoAdditionsSettleTheFirst) {
  InferPass pass(backend_->stream().ops(), *kv_);
  Residual r{&pass, tensor(1), {}};
  r += tensor(2);
  r += tensor(4);
  EXPECT_EQ(read(r.x)[0], 3.0f);
  pass.flush_residual(r);
  EXPECT_EQ(read(r.x)[0], 7.0f);
  EXPECT_FALSE(r.pending);
  pass.flush_residual(r);
  EXPECT_EQ(read(r.x)[0], 7.0f);
}

TEST_F(PassTest, ATapSeesTheNormUnderItsShortName) {
  std::vector<std::string> names;
  TapPass pass(backend_->stream().ops(), *kv_, [&](const std::string& name, const Tensor& value) {
    names.push_back(name);
    EXPECT_EQ(value.rows(), 2);
  });
  Residual r{&pass, tensor(1), {}};
  pass.norm(r, norm_);
  EXPECT_EQ(names, std::vector<std::string>{"attn_norm"});
}

TEST_F(PassTest, AttentionNeedsALayer) {
  InferPass pass(backend_->stream().ops(), *kv_);
  const Tensor t = tensor(1);
  EXPECT_DEATH(pass.attend(t, t, t, {.heads = 1, .kv_heads = 1, .head_dim = 4}), "attend outside a layer");
}

}  // namespace
}  // namespace bumblebee::nn
