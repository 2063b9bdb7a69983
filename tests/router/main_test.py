"""m1-router as a process: exit codes, the line it prints, SIGTERM. Standard library only.

Usage: main_test.py PATH_OF_M1_ROUTER (from the root of the source tree).
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROUTER = ""
# Port 9 (discard): nobody answers, which is no error.
GOOD = ["--model=models/tiny", "--attention_workers=127.0.0.1:9"]


def run(*flags):
    return subprocess.run([ROUTER, *flags], capture_output=True, text=True, timeout=60)


class RouterProcessTest(unittest.TestCase):
    def test_bad_flags_exit_2_and_are_named(self):
        for flag, flags in [
            ("model", ["--attention_workers=127.0.0.1:9"]),
            ("attention_workers", ["--model=models/tiny"]),
            ("attention_workers", ["--model=models/tiny", "--attention_workers=nonsense"]),
            ("attention_workers", ["--model=models/tiny", "--attention_workers=a:1,,b:2"]),
            ("port", GOOD + ["--port=65536"]),
            ("port", GOOD + ["--port=-1"]),
            ("queue_size", GOOD + ["--queue_size=0"]),
            ("max_message_bytes", GOOD + ["--max_message_bytes=1"]),
            ("worker_loss_timeout", GOOD + ["--worker_loss_timeout=0s"]),
            ("drain_timeout", GOOD + ["--drain_timeout=-1s"]),
            ("slow_reader_timeout", GOOD + ["--slow_reader_timeout=0s"]),
            ("repetition_run_tokens", GOOD + ["--repetition_run_tokens=-1"]),
            ("repetition_probability", GOOD + ["--repetition_probability=0"]),
            ("repetition_probability", GOOD + ["--repetition_probability=1"]),
            ("repetition_probability", GOOD + ["--repetition_probability=nan"]),
            ("log_level", GOOD + ["--log_level=loud"]),
            ("address", GOOD + ["--address=256.0.0.1"]),
        ]:
            with self.subTest(flags=flags):
                result = run(*flags)
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertIn("--" + flag, result.stderr)

    def test_bad_model_files_exit_3(self):
        def damaged(name, content):
            folder = tempfile.mkdtemp()
            self.addCleanup(shutil.rmtree, folder)
            for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
                shutil.copy(os.path.join("models/tiny", file), folder)
            path = os.path.join(folder, name)
            os.remove(path)
            if content is not None:
                with open(path, "w", encoding="utf-8") as file:
                    file.write(content)
            return folder

        for folder in ("does/not/exist", damaged("config.json", None), damaged("config.json", "{"),
                       damaged("tokenizer.json", None), damaged("tokenizer.json", "{\"model\": 5}")):
            with self.subTest(folder=folder):
                result = run("--model=" + folder, "--attention_workers=127.0.0.1:9")
                self.assertEqual(result.returncode, 3, result.stderr)
                self.assertIn("--model", result.stderr)

    def test_listens_and_ends_on_sigterm(self):
        process = subprocess.Popen([ROUTER, *GOOD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = process.stdout.readline()
        self.assertRegex(line, r"^listening 127\.0\.0\.1:\d+\n$")
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, err)
        self.assertEqual(out, "")
        self.assertLess(time.monotonic() - started, 15)  # --drain_timeout is 30 s

    def test_port_in_use_exits_2(self):
        process = subprocess.Popen([ROUTER, *GOOD], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        port = process.stdout.readline().strip().rsplit(":", 1)[1]
        try:
            result = run(*GOOD, "--port=" + port)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertIn("--port", result.stderr)
        finally:
            process.kill()
            process.communicate()


if __name__ == "__main__":
    ROUTER = sys.argv.pop(1)
    unittest.main()
