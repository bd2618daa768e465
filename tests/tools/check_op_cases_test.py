# Proves that tools/check_op_cases.py sees an operation without cases, and cases without an operation.
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools"))
import check_op_cases  # noqa: E402

OPS = """
/// virtual int not_code() = 0;
struct Other { virtual void elsewhere() = 0; };
class Ops {
 public:
  virtual ~Ops() = default;
  /// Words; and { brackets }.
  virtual Tensor embed(const Weight& table) = 0;
  virtual void matmul(const Tensor& x, std::span<const Term> terms,
                      std::span<Tensor> y) = 0;
  virtual std::vector<float> with_default(int a = f(1)) { return {}; }
};
class After { virtual void later() = 0; };
"""
GRAD_OPS = "class GradOps {\n public:\n  enum class Op : uint8_t { plain };\n  virtual double head_loss(Op op) = 0;\n};\n"
REGISTRY = 'kOperations = {{{"embed", add_embed},\n {"matmul", add_matmul}, // {"gone", add_gone}\n {"with_default", add_with_default},' \
           '{"head_loss", add_head_loss}}};\n'


class CheckOpCasesTest(unittest.TestCase):
    def violations(self, ops=OPS, grad_ops=GRAD_OPS, registry=REGISTRY):
        files = {"src/backend/ops.h": ops, "src/backend/grad_ops.h": grad_ops, "tests/ops/cases/registry.cpp": registry}
        return list(check_op_cases.check(files.__getitem__))

    def test_methods_are_those_of_the_class(self):
        self.assertEqual(["embed", "matmul", "with_default"], check_op_cases.methods(OPS, "Ops"))
        self.assertEqual(["head_loss"], check_op_cases.methods(GRAD_OPS, "GradOps"))

    def test_a_complete_table_is_clean(self):
        self.assertEqual([], self.violations())

    def test_an_operation_without_cases(self):
        found = self.violations(ops=OPS.replace("virtual Tensor embed", "virtual Tensor sample(int) = 0;\n  virtual Tensor embed"))
        self.assertEqual(1, len(found))
        self.assertIn("operation sample", found[0])
        found = self.violations(registry=REGISTRY.replace('{"head_loss", add_head_loss}', ""))
        self.assertEqual(1, len(found))
        self.assertIn("grad_ops.h: operation head_loss", found[0])

    def test_cases_of_another_operation_do_not_count(self):
        self.assertIn("operation matmul", self.violations(registry=REGISTRY.replace("add_matmul", "add_embed"))[0])

    def test_cases_without_an_operation(self):
        found = self.violations(registry=REGISTRY.replace("}}};", '}, {"gone", add_gone}}};'))
        self.assertEqual(1, len(found))
        self.assertIn("group gone", found[0])

    def test_a_group_twice(self):
        self.assertIn("expected once, got 2", self.violations(registry=REGISTRY.replace("}}};", '}, {"embed", add_embed}}};'))[0])

    def test_a_contract_that_is_not_found_is_not_empty(self):
        self.assertIn("found none", self.violations(ops="class Operations {};")[0])


if __name__ == "__main__":
    unittest.main()
