"""How much is asked of a GPU, and of a simulated one, where a step takes a second."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Speed:
    """What is measured in tokens a second."""
    decode: tuple  # numbers of streams
    prefill: tuple  # lengths of prompts
    exchange: tuple  # which of these figures are taken with experts elsewhere, too
    answer_tokens: int  # of a stream
    repeats: int  # of decode figures; the median counts
    prefill_tokens: int  # of one figure: 16 prompts of 512
    warm_up_tokens: int
    checkpoints: dict  # name: (config, experts in place of its own or None, bytes of disk wanted)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes, and limits of the stages in seconds."""
    lengths: tuple  # of the prompts of the one-answer suite
    new_tokens: tuple  # of its answers, in turn
    step_tokens: tuple  # chunk sizes beside the default
    attention_flags: tuple
    layouts: tuple  # of LAYOUTS, beside inproc
    questions: int  # of the embedded model's recorded answers
    answer_tokens: int  # of them at most
    golden_tokens: int  # longest prompt of a golden that is scored
    golden_cases: int
    golden_correlation: float  # of probabilities, at least
    score_tokens: tuple  # lengths of random prompts scored on CPU and GPU
    least_rows: float  # of a step, on average, when all is asked at once: else nothing ran together
    kill_after_rows: int  # computed: all prompts, and less than all answers
    speed: Speed
    limits: dict


FULL = Plan(
    lengths=(1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129, 256, 257, 511, 512, 513, 1100),
    new_tokens=(200, 40, 400),
    step_tokens=(7, 64, 4096),
    attention_flags=("--max_sequences=64",),
    layouts=("grpc", "shm", "nccl"),
    questions=100,
    answer_tokens=10000,
    golden_tokens=300,
    golden_cases=100,
    golden_correlation=0.998,
    score_tokens=(130, 400, 1100),
    least_rows=4,
    kill_after_rows=5500,
    speed=Speed(decode=(1, 8, 32), prefill=(512, 2048, 8192), exchange=("decode_1", "decode_32", "prefill_2048"), answer_tokens=128,
                repeats=3, prefill_tokens=8192, warm_up_tokens=600,
                checkpoints={"bench": ("models/bench/config.json", None, 6e9),
                             "layer_pair": ("models/wide/config.json", 32, 30e9)}),
    limits={"machine": 20, "programs": 30, "tests": 150, "recorded": 40, "score": 40, "one answer": 45, "gpu_bench": 60,
            "decode and prefill": 90, "layer pair": 150, "sanitizer": 60})

SIMULATED = Plan(
    lengths=(2, 17), new_tokens=(3,), step_tokens=(7,), layouts=("shm", "nccl"), questions=1, answer_tokens=2, golden_tokens=5,
    golden_cases=1, golden_correlation=0.99, score_tokens=(20,),
    attention_flags=("--max_sequences=4", "--kv_bytes=2097152", "--max_step_tokens=32", "--exchange_timeout=120s"),
    least_rows=1, kill_after_rows=1,
    speed=Speed(decode=(1,), prefill=(4,), exchange=("decode_1",), answer_tokens=3, repeats=1, prefill_tokens=4, warm_up_tokens=2,
                checkpoints={name: ("models/tiny/config.json", None, 1e8) for name in ("bench", "layer_pair")}),
    limits={})
