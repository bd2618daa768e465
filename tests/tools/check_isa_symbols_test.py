# Proves that tools/check_isa_symbols.py finds symbols that leak out of an ISA's namespace, on objects compiled here.
import os
import subprocess
import sys
import tempfile
import unittest

TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools")
sys.path.insert(0, TOOLS)
import check_isa_symbols  # noqa: E402

CLEAN = """
namespace bumblebee::cpu::avx2 {
static int hidden(int x) { return x + 1; }
namespace { int hidden_too(int x) { return x + 2; } }
template <class T> T twice(T x) { return x + x; }
struct Table { int (*f)(int); };
extern const Table kTable;
const Table kTable{hidden};
int visible(int x) { return hidden(x) + hidden_too(x) + twice(x); }
template int twice<int>(int);
}
namespace bumblebee::cpu { const void* avx2_kernels() { return &avx2::kTable; } }
"""
LEAKS = {
    "a global function": "int leaked(int x) { return x; }",
    "a shared inline function": "namespace bumblebee { inline int shared(int x) { return x; } int (*keep)(int) = nullptr; }"
                                "namespace bumblebee::cpu::avx2 { int visible(int x) { bumblebee::keep = shared; return shared(x); } }",
    "a library template": "#include <vector>\nnamespace bumblebee::cpu::avx2 { void grow(std::vector<int>& v) { v.push_back(1); } }",
    "another ISA's namespace": "namespace bumblebee::cpu::avx512 { int f(int x) { return x; } }",
    "another ISA's table": "namespace bumblebee::cpu { int avx512_kernels() { return 1; } }",
    "a name that only starts alike": "namespace bumblebee::cpu::avx2_more { int f(int x) { return x; } }",
}


class CheckIsaSymbolsTest(unittest.TestCase):
    def check(self, source):
        with tempfile.TemporaryDirectory() as build:
            folder = os.path.join(build, "src/backend/cpu/CMakeFiles/bumblebee_backend_cpu.dir/isa")
            os.makedirs(folder)
            subprocess.run([os.environ.get("CXX", "c++"), "-std=c++20", "-O0", "-x", "c++", "-c", "-", "-o", os.path.join(folder, "avx2.cpp.o")],
                           input=source, text=True, check=True)
            return subprocess.run([sys.executable, os.path.join(TOOLS, "check_isa_symbols.py"), build], capture_output=True, text=True)

    def test_a_clean_object_passes(self):
        result = self.check(CLEAN)
        self.assertEqual(0, result.returncode, result.stdout)

    def test_leaks_are_named(self):
        for name, source in LEAKS.items():
            with self.subTest(name):
                result = self.check(CLEAN.replace("visible", "seen") + source)
                self.assertEqual(1, result.returncode, result.stdout)
                self.assertIn("is outside bumblebee::cpu::avx2", result.stdout)

    def test_an_empty_object_is_reported(self):
        self.assertEqual(1, self.check("static int unused;").returncode)

    def test_a_build_without_objects_is_an_error(self):
        with tempfile.TemporaryDirectory() as build:
            result = subprocess.run([sys.executable, os.path.join(TOOLS, "check_isa_symbols.py"), build], capture_output=True)
            self.assertEqual(2, result.returncode)

    def test_return_types_of_template_instances_do_not_count(self):
        self.assertTrue(check_isa_symbols.is_inside("float bumblebee::cpu::avx2::dot<4, true>(float const*)", "bumblebee::cpu::avx2"))
        self.assertFalse(check_isa_symbols.is_inside("bumblebee::cpu::avx2::Vec std::max<bumblebee::cpu::avx2::Vec>(int)", "bumblebee::cpu::avx2"))


if __name__ == "__main__":
    unittest.main()
