"""tools/gpu_check without processes of ours: stages and their report, answers, bundles. From the root of the tree."""

import io
import json
import os
import stat
import struct
import sys
import tempfile
import time
import unittest
from contextlib import redirect_stdout

sys.path.insert(0, "tools/gpu_check")

import answers  # noqa: E402
import bundle  # noqa: E402
import correctness  # noqa: E402
import gpu_check  # noqa: E402
import plan as plans  # noqa: E402
import programs  # noqa: E402
import speed  # noqa: E402
import wide_heads  # noqa: E402
from report import Clock, Failed, Report, Skip, kernel_table, table  # noqa: E402


class InFolder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    def script(self, name, text):
        path = self.write(name, f"#!/bin/sh\n{text}\n")
        os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
        return path


class ReportTest(InFolder):
    def report(self, budget=60):
        return Report(self.path("result.json"), Clock(budget), {"commit": "abc"}, say=lambda _: None)

    def written(self):
        with open(self.path("result.json"), encoding="utf-8") as file:
            return json.load(file)

    def test_stages_and_their_figures(self):
        report = self.report()
        self.assertTrue(report.run("one", 5, lambda: {"tokens": 3}))
        self.assertEqual(report.figures("one"), {"tokens": 3})
        self.assertEqual(report.figures("two"), {})
        written = self.written()
        self.assertEqual((written["format"], written["commit"], written["passed"]), (1, "abc", True))
        self.assertEqual(written["stages"][0] | {"seconds": 0},
                         {"stage": "one", "status": "pass", "why": "", "seconds": 0, "figures": {"tokens": 3}})

    def test_a_failure_stays_and_stops_nothing(self):
        def fails():
            raise Failed("3 differ", different=3)

        def has_a_bug():
            return {}["nothing"]

        def cannot():
            raise Skip("no tool")

        report = self.report()
        self.assertEqual([report.run(name, 5, work) for name, work in
                          (("a", fails), ("b", has_a_bug), ("c", cannot), ("d", lambda: {}))], [False, False, False, True])
        self.assertEqual([stage["status"] for stage in self.written()["stages"]], ["fail", "fail", "skipped", "pass"])
        self.assertEqual(self.written()["stages"][0]["figures"], {"different": 3})
        self.assertIn("KeyError", self.written()["stages"][1]["why"])
        self.assertFalse(self.written()["passed"])

    def test_what_is_skipped_is_no_failure(self):
        def cannot():
            raise Skip("no tool")

        report = self.report()
        report.run("a", 5, cannot)
        self.assertTrue(report.passed())
        self.assertFalse(self.report().passed())  # nothing ran

    def test_a_stage_ends_at_its_limit(self):
        report, begin = self.report(), time.monotonic()
        report.run("slow", 1, lambda: time.sleep(30))
        self.assertLess(time.monotonic() - begin, 20)
        self.assertEqual((report.stages[0]["status"], report.stages[0]["why"]), ("fail", "not done within 1 s"))
        self.assertTrue(report.run("next", 5, lambda: {}))

    def test_without_time_a_stage_fails(self):
        now = [0.0]
        report = self.report()
        report.clock = Clock(10, lambda: now[0])
        now[0] = 9.5
        report.run("late", 5, lambda: {})
        self.assertEqual((report.stages[0]["status"], report.stages[0]["why"]), ("fail", "no time was left for it"))

    def test_processes_are_ended_after_each_stage(self):
        calls = []
        report = Report(self.path("result.json"), Clock(60), {}, say=lambda _: None, clean_up=lambda: calls.append(1))
        report.run("a", 5, lambda: {})
        report.run("b", 5, lambda: 1 / 0)
        self.assertEqual(len(calls), 2)

    def test_table(self):
        lines = table([{"stage": "a", "status": "pass", "why": "", "seconds": 1.25, "figures": {"rate": 12345.678, "list": [1]}},
                       {"stage": "b", "status": "fail", "why": "x | y\nmore", "seconds": 0, "figures": {}}])
        self.assertEqual(lines[2:], ["| a | pass | 1.2 | rate 1.235e+04 |", "| b | fail | 0.0 | x / y |"])


    def test_figures_of_gpu_bench(self):
        kernels = [{"op": "Linear", "size": "8 x 64", "us": 1.234, "gb_per_s": 4000.4, "bandwidth_percent": 89.9, "tera_per_s": 1.25,
                    "peak": "bf16 mma", "peak_percent": 0.4}]
        self.assertEqual(kernel_table(kernels)[2:], ["| Linear | 8 x 64 | 1.23 | 4000 | 90 % | 1.2 | 0 % |"])
        self.assertEqual(kernel_table(None), [])
        line = table([{"stage": "gpu_bench", "status": "pass", "why": "", "seconds": 1,
                       "figures": {"ceilings": {"copy_gb_per_s": 4000.0}, "kernels": kernels}}])[2]
        self.assertEqual(line, "| gpu_bench | pass | 1.0 | copy_gb_per_s 4000 |")


ANSWER = """{"prompt":{"tokens":[]}}
{"prompt":{"tokens":[{"id":1,"logprob":0},{"id":2,"logprob":-9.12855625}]}}
{"delta":{"tokens":[{"id":7,"logprob":-0.1,"rank":1,"candidates":[{"id":7,"logprob":-0.1}]}]}}
{"finish":{"reason":"FINISH_REASON_LENGTH","usage":{"completion_token_count":1}}}
"""


class AnswersTest(unittest.TestCase):
    def test_numbers_stay_as_they_were_written(self):
        answer = answers.read_answer(ANSWER)
        self.assertEqual(answer, answers.Answer((7,), ("-0.1",), (1,), (((7, "-0.1"),),), ("0", "-9.12855625")))
        self.assertEqual(answer.prompt_values(), [0, -9.12855625])

    def test_what_is_no_answer(self):
        for text in ("", ANSWER.replace("finish", "other"), ANSWER.replace('count":1', 'count":2'), ANSWER + '{"delta":{}}\n'):
            with self.assertRaises(Failed):
                answers.read_answer(text)

    def test_the_last_bit_counts(self):
        requests = [answers.Request("first", (1,), ()), answers.Request("second", (2,), ())]
        one = answers.read_answer(ANSWER)
        other = answers.read_answer(ANSWER.replace("-9.12855625", "-9.12855626"))
        answers.compare([one, one], [one, one], requests)
        with self.assertRaisesRegex(Failed, r"1 of 2 answers differ: second \(prompt_logprobs\)"):
            answers.compare([one, other], [one, one], requests)
        with self.assertRaises(ValueError):
            answers.compare([one], [one, one], requests)

    def test_requests_are_the_same_each_time_and_differ(self):
        requests = answers.make_requests(plans.FULL.lengths, plans.FULL.new_tokens)
        self.assertEqual(requests, answers.make_requests(plans.FULL.lengths, plans.FULL.new_tokens))
        self.assertEqual(len(set(requests)), len(plans.FULL.lengths))
        self.assertTrue(all(any(flag.startswith("--seed=") for flag in request.flags) for request in requests))


PASSED = "[==========] 5 tests from 2 test suites ran. (1 ms total)\n[  PASSED  ] {} tests.\n"


class CorrectnessTest(unittest.TestCase):
    def test_outcomes_of_test_programs(self):
        self.assertEqual(correctness.test_outcome(0, PASSED.format(5)), (5, 0))
        self.assertEqual(correctness.test_outcome(0, PASSED.format(3)), (3, 2))
        failed = PASSED.format(4) + "[  FAILED  ] A.B\n"
        for code, output, why in ((77, "skipped", "no GPU"), (1, failed, "A.B"), (0, PASSED.format(0), "none of 5"),
                                  (0, "", "exit code 0"), (-11, PASSED.format(5), "exit code -11")):
            with self.assertRaisesRegex(Failed, why):
                correctness.test_outcome(code, output)

    def test_agreement(self):
        wanted = [-0.1 * i for i in range(1, 30)]
        self.assertEqual(correctness.agreement(wanted, wanted, 0.01, 0.999)["largest_error"], 0)
        for got in ([value + 0.5 for value in wanted], wanted[::-1], wanted[1:], [float("nan")] * 29, []):
            with self.assertRaises(Failed):
                correctness.agreement(got, wanted, 0.01, 0.999)

    def test_metric(self):
        text = "# HELP a_sum x\na_sum 3\na_sum_b 9\na_sum{worker=\"x\"} 4.5\n"
        self.assertEqual(programs.metric_of(text, "a_sum"), 7.5)
        with self.assertRaises(Failed):
            programs.metric_of(text, "c")


class SanitizerTest(InFolder):
    def sanitize(self, body, tool="memcheck"):
        self.script("compute-sanitizer", body)
        path = os.environ["PATH"]
        self.addCleanup(os.environ.__setitem__, "PATH", path)
        os.environ["PATH"] = f"{self.folder}:{path}"
        return correctness.sanitize(programs.Programs(self.folder, self.folder, logs=self.folder), tool,
                                    [bundle.Test("a_test", ["/a_test"])])

    def test_clean(self):
        figures = self.sanitize(f"echo $GTEST_TOTAL_SHARDS $@ >{self.path('said')}; printf '{PASSED.format(5)}'")
        self.assertEqual((figures["tests"], figures["programs"]), (5, "1 of 1 in the time given"))
        with open(self.path("said"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "4 --tool=memcheck --error-exitcode=86 -- /a_test\n")

    def test_findings(self):
        for body in (f"printf '{PASSED.format(5)}'; exit 86", f"printf '{PASSED.format(5)}ERROR SUMMARY: 1 error\n'"):
            with self.assertRaisesRegex(Failed, "found errors"):
                self.sanitize(body)

    def test_nothing_ran(self):
        with self.assertRaisesRegex(Failed, "no test ran"):
            self.sanitize("echo '[==========] 0 tests from 0 test suites ran.'")
        with self.assertRaisesRegex(Failed, "exit code 1"):
            self.sanitize("exit 1")

    def test_a_device_that_it_refuses(self):
        with self.assertRaisesRegex(Skip, "refuses"):
            self.sanitize("echo 'Error: Device not supported'; exit 1")


class WideHeadsTest(InFolder):
    def test_heads_get_zeros_and_powers_of_two(self):
        def bf16(*values):
            return b"".join(struct.pack("<f", value)[2:] for value in values)

        def convert(name, shape, *values):
            return wide_heads.converted(f"model.layers.0.self_attn.{name}.weight", "BF16", shape, bf16(*values), 2)

        self.assertEqual(convert("v_proj", [2, 1], 3, -5), ([8, 1], bf16(3, -5, 0, 0, 0, 0, 0, 0)))
        self.assertEqual(convert("q_proj", [2, 1], 3, -5), ([8, 1], bf16(6, -10, 0, 0, 0, 0, 0, 0)))
        self.assertEqual(convert("norm", [4], 1, 2, 0, 3)[1], bf16(0.5, 1, 0, 0, 0, 0, 0, 0, 0, 1.5, 0, 0, 0, 0, 0, 0))
        self.assertEqual(convert("o_proj", [1, 4], 1, 2, 3, 4), ([1, 16], bf16(1, 2, 0, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0)))
        self.assertEqual(convert("other", [2], 1, 2), ([2], bf16(1, 2)))
        with self.assertRaises(ValueError):
            convert("norm", [1], 1e-38)
        with self.assertRaises(ValueError):
            wide_heads.converted("a.self_attn.q_proj.weight", "F32", [1, 1], b"1234", 1)


class SpeedTest(InFolder):
    def test_a_rate_above_its_bound_voids_the_stage(self):
        loads = {"decode_1": {"bytes": 1e9, "pair_flops": 1e9, "fp32_flops": 0},
                 "prefill_512": {"bytes": 1e9, "pair_flops": 1e12, "fp32_flops": 1e12}}
        self.script("m1", f"echo '{json.dumps({'bounds': loads})}'")
        fake = programs.Programs(self.folder, self.folder, logs=self.folder)
        limits = {"bytes_per_s": 4e12, "flops_per_s": 1e14}  # bounds: 4000 by bytes, 25600 by operations
        figures = speed.with_bounds(fake, "model", {"decode_1": 1000, "prefill_512": 12800}, limits)
        self.assertEqual((figures["decode_1_of_bound"], figures["prefill_512_of_bound"]), (0.25, 0.5))
        with self.assertRaisesRegex(Failed, "above its bound: decode_1"):
            speed.with_bounds(fake, "model", {"decode_1": 4001}, limits)

    def test_checkpoints_that_cannot_be_made(self):
        self.script("m1", "echo no space; exit 1")
        self.write("c.json", json.dumps({"num_local_experts": 4}))
        fake = programs.Programs(self.folder, self.folder, logs=self.folder)
        made = speed.Checkpoints(fake, {"bench": ("c.json", None, 1), "huge": ("c.json", None, 1e18)}, self.folder)
        made.start()
        for name, why in (("bench", "no space"), ("huge", "are free")):
            with self.assertRaisesRegex(Failed, why):
                made.folder(name)
        made.stop()


class BundleTest(InFolder):
    def test_files_are_those_of_the_manifest(self):
        self.write("a", "1")
        manifest = {"files": {"a": bundle.sha256(self.path("a"))}}
        self.assertEqual(bundle.checked_files(self.folder, manifest), 1)
        self.write("a", "2")
        with self.assertRaisesRegex(bundle.BundleError, "a is not the file"):
            bundle.checked_files(self.folder, manifest)
        os.unlink(self.path("a"))
        with self.assertRaisesRegex(bundle.BundleError, "a is missing"):
            bundle.checked_files(self.folder, manifest)

    def test_an_archive_comes_back_and_has_a_size(self):
        self.write("in/bin/x", "1" * 100)
        self.write("in/y", "2")
        archive = self.path("a.tar.xz")
        bundle.pack(self.path("in"), archive)
        root = gpu_check.unpacked(archive, self.path("out"))
        self.assertEqual(bundle.all_files(root), ["bin/x", "y"])
        with redirect_stdout(io.StringIO()):
            bundle.check_size(self.path("in"), archive)
            with self.assertRaisesRegex(bundle.BundleError, "largest, unpacked: bin/x"):
                bundle.check_size(self.path("in"), archive, 10)

    def test_files_that_a_test_names(self):
        for name in ("tests/golden/a/x.json", "tests/golden/a/b/y", "tests/golden/c/z", "models/m/config.json", "models/m/other"):
            self.write(name, "1")
        program = self.write("program", "\0tests/golden/a\0tests/golden/none\0models/m/config.json\0tests/golden/\0")
        self.assertEqual(bundle.named_files(self.folder, program), {"tests/golden/a/x.json", "tests/golden/a/b/y", "models/m/config.json"})

    def test_a_test_that_was_not_built_is_missed(self):
        self.write("build/CTestTestfile.cmake", 'add_test(a_test "/bin/true" "x")\nset_tests_properties(a_test PROPERTIES LABELS gpu)\n'
                   'add_test(b_test "/bin/true")\n')
        self.assertEqual(bundle.gpu_tests(self.path("build")), [bundle.Test("a_test", ["/bin/true", "x"])])
        self.write("build/CTestTestfile.cmake", 'add_test(c_test "/none/c_test")\nset_tests_properties(c_test PROPERTIES LABELS gpu)\n')
        with self.assertRaisesRegex(bundle.BundleError, "not built: c_test"):
            bundle.gpu_tests(self.path("build"))
        self.write("build/CTestTestfile.cmake", 'add_test(b_test "/bin/true")\n')
        with self.assertRaisesRegex(bundle.BundleError, "label gpu"):
            bundle.gpu_tests(self.path("build"))


if __name__ == "__main__":
    unittest.main()
