# Proves that tools/check_layers.py reports a violation of each of its rules, and nothing on a tree that keeps them.
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools"))
import check_layers  # noqa: E402

HEADER = "// What lives here.\n#pragma once\n"
SOURCE = "// What lives here.\n"


class CheckLayersTest(unittest.TestCase):
    def violations(self, files):
        with tempfile.TemporaryDirectory() as root:
            for path, text in files.items():
                full = os.path.join(root, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, "w", encoding="utf-8") as file:
                    file.write(text)
            return [(path, line, rule) for path, line, rule, _ in check_layers.check_tree(root)]

    def include(self, path, target):
        return self.violations({path: f'{SOURCE}#include "{target}"\n'})

    def test_a_tree_that_keeps_the_rules_is_clean(self):
        self.assertEqual([], self.violations({
            "include/bumblebee/error.h": HEADER,
            "include/bumblebee/model.h": HEADER + '#include "bumblebee/error.h"\n',
            "src/base/error.h": HEADER + '#include "bumblebee/error.h"\n#ifdef BB_DEBUG_CHECKS\n#endif\n',
            "src/backend/registry.cpp": SOURCE + '#include "backend/cpu/backend.h"\n#if BB_CUDA\n#endif\nCpuBackend x;\n',
            "src/backend/cpu/backend.h": HEADER + '#include "backend/ops.h"\n#include "quant/format.h"\n',
            "src/api/load.cpp": SOURCE + '#include "bumblebee/model.h"\n#include "models/registry.h"\n',
            "apps/bumblebee/convert.cpp": SOURCE + '#include "io/gguf.h"\n#include "bumblebee/model.h"\n',
            "tools/x.py": "#!/usr/bin/env python3\n# What it does.\n",
        }))

    def test_nothing_points_up(self):
        for path, target in [
            ("src/base/x.cpp", "tensor/tensor.h"),
            ("src/tensor/x.cpp", "quant/format.h"),
            ("src/quant/x.cpp", "backend/ops.h"),
            ("src/io/x.cpp", "backend/ops.h"),
            ("src/text/x.cpp", "tensor/tensor.h"),
            ("src/backend/x.cpp", "nn/pass.h"),
            ("src/backend/cpu/x.cpp", "nn/pass.h"),
            ("src/nn/x.cpp", "models/registry.h"),
            ("src/nn/x.cpp", "io/safetensors.h"),
            ("src/models/x.cpp", "io/safetensors.h"),
            ("src/models/x.cpp", "engine/engine.h"),
            ("src/lora/x.cpp", "engine/engine.h"),
            ("src/engine/x.cpp", "train/trainer.h"),
            ("src/train/x.cpp", "engine/engine.h"),
            ("src/serve/x.cpp", "engine/engine.h"),
            ("src/nn/x.cpp", "bumblebee/model.h"),
            ("src/base/x.cpp", "bumblebee/model.h"),
            ("apps/bumblebee/chat.cpp", "engine/engine.h"),
            ("apps/bumblebee/chat.cpp", "io/gguf.h"),
            ("apps/bumblebee/convert.cpp", "engine/engine.h"),
        ]:
            with self.subTest(path=path, target=target):
                self.assertEqual([(path, 2, "layers")], self.include(path, target))

    def test_a_relative_include_is_followed(self):
        self.assertEqual([("src/base/x.cpp", 2, "layers")], self.violations({
            "src/base/x.cpp": SOURCE + '#include "../nn/pass.h"\n', "src/nn/pass.h": HEADER}))

    def test_the_program_includes_its_own_files_from_its_root(self):
        self.assertEqual([], self.violations({"apps/a/x.cpp": SOURCE + '#include "ui/x.h"\n', "apps/ui/x.h": HEADER}))

    def test_an_unknown_layer_is_reported(self):
        self.assertEqual([("src/surprise/x.cpp", 1, "layers")], self.violations({"src/surprise/x.cpp": SOURCE}))

    def test_backends_do_not_know_each_other(self):
        self.assertEqual([("src/backend/cpu/x.cpp", 2, "layers")], self.include("src/backend/cpu/x.cpp", "backend/ref/backend.h"))

    def test_only_the_registry_names_a_backend(self):
        self.assertEqual([("src/backend/x.cpp", 2, "layers")], self.include("src/backend/x.cpp", "backend/cpu/backend.h"))
        self.assertEqual([("src/engine/x.cpp", 2, "backends")], self.violations({"src/engine/x.cpp": SOURCE + "CpuBackend b;\n"}))
        self.assertEqual([("src/nn/x.cpp", 2, "backends")],
                         self.violations({"src/nn/x.cpp": SOURCE + "auto b = make_ref_backend();\n"}))
        self.assertEqual([], self.violations({"src/nn/x.cpp": SOURCE + "// as CpuBackend has it\n"}))

    def test_switches_stay_in_their_places(self):
        for line in ["#if BB_CUDA", "#ifdef BB_TRAIN", "#if defined(BB_MLX)", "# elif BB_X"]:
            with self.subTest(line=line):
                self.assertEqual([("src/engine/x.cpp", 2, "switches")],
                                 self.violations({"src/engine/x.cpp": SOURCE + line + "\n"}))

    def test_each_file_opens_with_a_comment(self):
        self.assertEqual([("src/base/x.h", 1, "opening")], self.violations({"src/base/x.h": "#pragma once\n"}))
        self.assertEqual([("src/base/y.h", 1, "opening")], self.violations({"src/base/y.h": "// Here.\n"}))
        self.assertEqual([("tests/base/x_test.cpp", 1, "opening")], self.violations({"tests/base/x_test.cpp": "int x;\n"}))
        self.assertEqual([("tools/x.py", 1, "opening")], self.violations({"tools/x.py": "#!/usr/bin/env python3\nimport os\n"}))
        self.assertEqual([("src/rust/src/lib.rs", 1, "opening")], self.violations({"src/rust/src/lib.rs": "use std;\n"}))
        self.assertEqual([("src/base/empty.cpp", 1, "opening")], self.violations({"src/base/empty.cpp": ""}))

    def test_files_stay_short(self):
        self.assertEqual([], self.violations({"src/base/x.cpp": SOURCE * 700}))
        self.assertEqual([("src/base/x.cpp", 700, "length")], self.violations({"src/base/x.cpp": SOURCE * 701}))


if __name__ == "__main__":
    unittest.main()
