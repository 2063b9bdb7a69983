"""Each layout rule finds a planted violation, and a clean tree has none."""

import os
import tempfile
import unittest

import layout_lint

HEADER = "// A header.\n#pragma once\n"


class LayoutLintTest(unittest.TestCase):

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name
        self.write("common/README.md", "# common\n")
        self.write("common/base/README.md", "# base\n")
        self.write("common/base/check.h", HEADER)

    def write(self, path, text):
        full = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as file:
            file.write(text)

    def source(self, path, *includes, start="// A file.\n"):
        """Writes a source file and the READMEs above it."""
        lines = "".join(f"#include {header}\n" for header in includes)
        self.write(path, start + ("#pragma once\n" if path.endswith(".h") else "") + lines)
        folder = os.path.dirname(path)
        while folder:
            self.write(folder + "/README.md", "# folder\n")
            folder = os.path.dirname(folder)

    def assert_clean(self):
        self.assertEqual(layout_lint.check(self.root), [])

    def assert_found(self, *parts):
        violations = layout_lint.check(self.root)
        self.assertEqual(len(violations), 1, violations)
        for part in parts:
            self.assertIn(part, violations[0])

    def test_clean_tree(self):
        self.source("router/queue.cc", '"router/queue.h"', '"common/text/tokenizer.h"', "<vector>")
        self.source("router/inference_service.cc", '"m1/v1/inference.grpc.pb.h"', '"common/rpc/channel.h"')
        self.source("expert_worker/engine.cc", '"common/kernels/backend.h"', '"absl/status/status.h"')
        self.source("attention_worker/main.cc", '"expert_worker/engine.h"', '"attention_worker/attention_service.h"')
        self.assert_clean()

    def test_lower_layer_includes_higher(self):
        self.source("common/kernels/cpu/linear.cc", '"common/model/config.h"')
        self.assert_found("common/kernels/cpu/linear.cc:2", "must not include common/model/config.h")

    def test_router_policy_includes_kernels(self):
        self.source("router/queue.cc", '"common/kernels/backend.h"')
        self.assert_found("router policy must not include")

    def test_engine_knows_grpc(self):
        self.source("expert_worker/engine.cc", "<grpcpp/grpcpp.h>")
        self.assert_found("must not know gRPC")

    def test_engine_knows_protos(self):
        self.source("attention_worker/engine.h", '"m1/v1/attention.pb.h"')
        self.assert_found("must not know gRPC")

    def test_worker_includes_the_other_worker(self):
        self.source("attention_worker/engine.cc", '"expert_worker/engine.h"')
        self.assert_found("must not include expert_worker/engine.h")

    def test_services_include_one_another(self):
        self.source("router/control_service.cc", '"router/inference_service.h"')
        self.assert_found("services are included by their main.cc")

    def test_code_includes_tests(self):
        self.source("router/queue.cc", '"tests/support/fakes.h"')
        self.assert_found("code does not include tests")

    def test_cuda_outside_its_folder(self):
        self.source("common/kernels/cpu/linear.cc", "<cuda_runtime.h>")
        self.assert_found("only common/kernels/cuda and common/nccl know CUDA")

    def test_long_header(self):
        self.write("common/base/long.h", HEADER + "\n" * 198)
        self.assert_found("common/base/long.h: 200 lines")

    def test_long_source(self):
        self.write("common/base/long.cc", "// Long.\n" + "\n" * 399)
        self.assert_found("common/base/long.cc: 400 lines")

    def test_no_pragma_once(self):
        self.write("common/base/plain.h", "// A header.\n")
        self.assert_found("no #pragma once")

    def test_no_first_comment(self):
        self.write("common/base/plain.h", "#pragma once\n")
        self.assert_found("starts without a comment")

    def test_no_readme(self):
        self.write("common/tensor/dtype.h", HEADER)
        self.assert_found("common/tensor: no README.md")

    def test_folder_of_no_layer(self):
        self.source("common/utils/strings.h")
        self.assert_found("belongs to no layer")


if __name__ == "__main__":
    unittest.main()
