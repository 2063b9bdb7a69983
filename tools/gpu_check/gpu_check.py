"""Everything that only a GPU can say, in one run: see README.md. Standard library only.

Started by scripts/gpu_check.sh. Exit code 0: no stage failed; 1: one did; 2: it could not start.
"""

import argparse
import functools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile

import correctness
import plan as plans
import speed
from bundle import MANIFEST, checked_files, gpu_tests, Test
from programs import Programs
from report import Clock, Failed, Report, kernel_table, table

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUDGET_SECONDS = 480
DEFAULT_LIMIT = 120  # seconds of a stage
CHECKPOINT_STAGES = ("decode and prefill", "layer pair")  # keys of their limits
SIMULATED_KIND, SIMULATED_TEST = "-simulated-gpu", "simulated_gpu_test"


class Setup:
    """What is checked: programs, tests, and where they came from."""

    def __init__(self, flags, scratch):
        self.manifest = None
        root, build = ROOT, flags.build
        at_root = os.path.exists(os.path.join(ROOT, MANIFEST))
        if not build and flags.simulated and not flags.bundle and not at_root:
            build = os.path.join(ROOT, "build/release")
        if build:
            build = os.path.abspath(build)
            self.tests = [Test(SIMULATED_TEST, [os.path.join(build, "tests", SIMULATED_TEST)])] if flags.simulated else gpu_tests(
                build)
        else:
            root = unpacked(flags.bundle or (ROOT if at_root else default_bundle()), scratch)
            with open(os.path.join(root, MANIFEST), encoding="utf-8") as file:
                self.manifest = json.load(file)
            self.tests = [Test(test["name"], [os.path.join(root, test["command"][0]), *test["command"][1:]])
                          for test in self.manifest["tests"]]
        self.bundle_loader = flags.bundle_loader
        self.programs = Programs(root, os.path.join(build or root, "bin"), SIMULATED_KIND if flags.simulated else "",
                                 os.path.abspath(flags.out))


def default_bundle():
    return os.path.join(ROOT, "build/gpu_bundle.tar.xz")


def unpacked(path, scratch):
    """The folder of a bundle, which may be an archive of it."""
    if os.path.isdir(path):
        return os.path.abspath(path)
    with tarfile.open(path) as archive:
        archive.extractall(scratch, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(scratch)
    return os.path.join(scratch, "gpu_bundle")


def machine(setup):
    """A stage: what this is. Without a GPU all that follows would say nothing."""
    facts = {"cpus": os.cpu_count(), "kernel": platform.release(), "libc": "-".join(platform.libc_ver()),
             "python": platform.python_version()}
    with open("/proc/meminfo", encoding="utf-8") as file:
        facts["memory_gib"] = int(next(line for line in file if line.startswith("MemTotal")).split()[1]) >> 20
    if setup.programs.worker_kind:
        return facts | {"gpu": "simulated"}
    smi = shutil.which("nvidia-smi", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/bin", "/usr/local/nvidia/bin"]))
    if not smi:
        raise Failed("there is no nvidia-smi", **facts)
    code, output = setup.programs.call(
        [smi,
         "--query-gpu=name,driver_version,memory.total,clocks.max.sm,compute_cap", "--format=csv,noheader"], "machine.log")
    if code != 0 or not output.strip():
        raise Failed(f"nvidia-smi ended with {code}: {output[-300:].strip()}", **facts)
    names = ("gpu", "driver", "gpu_memory", "max_sm_clock", "compute_capability")
    return facts | dict(zip(names, (part.strip() for part in output.splitlines()[0].split(","))))


def programs_start(setup):
    """A stage: the files are those of the manifest, and every program says its --help, by this machine's loader or the
    bundle's own."""
    programs = setup.programs
    figures = {"files": checked_files(programs.root, setup.manifest)} if setup.manifest else {}
    names = ["m1", "m1-router", programs.worker("attention"), programs.worker("expert")]
    try:
        if setup.bundle_loader:
            raise Failed("--bundle_loader")
        programs.help(names[0])
        figures["loader"] = "this machine's"
    except (OSError, Failed) as error:
        loader = os.path.join(programs.root, "libc", "ld-linux-x86-64.so.2")
        if not os.path.exists(loader):
            raise
        folders = [os.path.join(programs.root, part) for part in ("libc", "lib")]
        programs.loader = [loader, "--library-path", os.pathsep.join(folders + driver_folders())]
        figures |= {"loader": "the bundle's", "because": str(error)}
    for name in names:
        programs.help(name)
    return figures


def driver_folders():
    """Where libcuda lies: the bundle's loader has no cache of its own."""
    cache = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout if shutil.which("ldconfig") else ""
    paths = [line.split("=>")[1].strip() for line in cache.splitlines() if "libcuda.so.1" in line and "x86-64" in line]
    return list(dict.fromkeys([*map(os.path.dirname, paths), *os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep),
                               "/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"]))


def stages(setup, plan, checkpoints, report, scratch):
    """[(name, key of its limit, work)], in order: first whether answers are right, then how fast they are."""
    programs = setup.programs
    result = [("machine", "machine", lambda: machine(setup)),
              ("programs", "programs", lambda: programs_start(setup))]
    for test in setup.tests:
        result.append((f"test: {test.name}", "tests", functools.partial(correctness.run_test, programs, test)))
    result += [("recorded answers of the embedded model", "recorded", lambda: correctness.recorded_answers(programs, plan)),
               ("golden: mini-bf16", "score", lambda: correctness.golden_logprobs(programs, plan, scratch)),
               ("logprobs against the CPU", "score", lambda: correctness.against_cpu(programs, plan, correctness.MODEL))]
    result += [(name, "one answer", work) for name, work in correctness.one_answer_stages(programs, plan)]
    return result + speed_stages(programs, plan, checkpoints, report) + [
        (f"sanitizer: {tool}", "sanitizer", functools.partial(correctness.sanitize, programs, tool, setup.tests))
        for tool in correctness.SHARDS]


def speed_stages(programs, plan, checkpoints, report):
    base = "decode and prefill: bench"
    limits = functools.partial(speed.gpu_limits, lambda: report.figures("gpu_bench"))
    result = [("gpu_bench", "gpu_bench", lambda: speed.gpu_bench(programs)),
              (base, "decode and prefill", lambda: speed.decode_and_prefill(programs, plan, checkpoints, "bench", limits))]
    for name in plan.layouts:
        result.append((f"cost of exchange: {name}", "decode and prefill", functools.partial(
            speed.exchange_cost, programs, plan, checkpoints, name, lambda: report.figures(base))))
    return result + [("decode and prefill: a layer pair of M1", "layer pair",
                      lambda: speed.decode_and_prefill(programs, plan, checkpoints, "layer_pair", limits))]


def chosen(all_stages, only):
    """The first two always, since the others need them."""
    return [stage for index, stage in enumerate(all_stages) if index < 2 or any(part in stage[0] for part in only.split(","))]


def run(all_stages, report, plan, checkpoints):
    """Without programs nothing else is tried. Checkpoints are made by them, meanwhile."""
    for index, (name, key, work) in enumerate(all_stages):
        report.run(name, plan.limits.get(key, DEFAULT_LIMIT), work)
        if index == 1 and report.stages[-1]["status"] != "pass":
            return
        if index == 1 and any(key in CHECKPOINT_STAGES for _, key, _ in all_stages):
            checkpoints.start()


def commit(setup):
    if setup.manifest:
        return setup.manifest["commit"]
    described = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown"


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="folder or archive of scripts/gpu_bundle.sh (build/gpu_bundle.tar.xz)")
    parser.add_argument("--build", help="a build folder in place of a bundle: build/cuda")
    parser.add_argument("--out", default="build/gpu_check", help="folder of result.json and logs (%(default)s)")
    parser.add_argument("--scratch", help="folder with 40 GB for random checkpoints (the system's)")
    parser.add_argument("--budget", type=float, default=BUDGET_SECONDS, help="seconds for all stages (%(default)s)")
    parser.add_argument("--only", default="", help="stages whose name contains one of these (commas), and the first two")
    parser.add_argument("--bundle_loader", action="store_true", help="start programs by the bundle's loader and C library, as is done "
                        "where this machine's cannot")
    parser.add_argument("--simulated", action="store_true", help="few stages, on the simulated GPU of the release build")
    return parser.parse_args(arguments)


def main():
    flags = parse(None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # processes are ended by the way out
    clock = Clock(flags.budget)
    os.makedirs(flags.out, exist_ok=True)
    for name in os.listdir(flags.out):
        if name.endswith((".log", ".json", ".md")):
            os.unlink(os.path.join(flags.out, name))
    plan = plans.SIMULATED if flags.simulated else plans.FULL
    with tempfile.TemporaryDirectory(prefix="m1_gpu_check_", dir=flags.scratch) as scratch:
        try:
            setup = Setup(flags, scratch)
        except (OSError, ValueError, tarfile.TarError) as error:
            print(f"gpu_check: {error}", file=sys.stderr)
            return 2
        report = Report(os.path.join(flags.out, "result.json"), clock,
                        {"commit": commit(setup), "simulated": flags.simulated}, clean_up=setup.programs.kill_all)
        checkpoints = speed.Checkpoints(setup.programs, plan.speed.checkpoints, scratch)
        try:
            run(chosen(stages(setup, plan, checkpoints, report, scratch), flags.only), report, plan, checkpoints)
        finally:
            setup.programs.kill_all()
            checkpoints.stop()
    kernels = kernel_table(report.figures("gpu_bench").get("kernels"))
    lines = [*table(report.stages), *([""] if kernels else []), *kernels]
    with open(os.path.join(flags.out, "result.md"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(["", *lines, "", f"gpu_check: {'passed' if report.passed() else 'FAILED'} in {clock.elapsed():.0f} s; "
                     f"{report.path}"]))
    return 0 if report.passed() else 1


if __name__ == "__main__":
    sys.exit(main())
