"""Half an hour of texts of random lengths: a process that embeds for days must not grow."""

import math
import random
import time

import pytest

from q3_runtime import Embedder
from q3_runtime.memory import resident

MINUTES, MOST_GROWTH = 30, 50e6
WORDS = ["river", "Straße", "石油", "נהר", "🏳️‍🌈", "a", "antidisestablishmentarianism", "\0", "12,345.67"]


@pytest.mark.full("hardening")
@pytest.mark.filterwarnings("ignore:.* had more than 2048 tokens:UserWarning")
def test_half_an_hour_of_random_lengths_grows_by_less_than_50_mb(mini_folder):
    draw = random.Random(12)
    models = [Embedder(mini_folder, quant=quant) for quant in ("fp32", "int8")]

    def texts() -> list[str]:
        lengths = [int(math.exp(draw.uniform(0, math.log(800)))) for _ in range(draw.randint(1, 40))]
        return [" ".join(draw.choices(WORDS, k=length)) for length in lengths]

    done, sizes = 0, []
    for model in models:  # the largest that comes, so that what follows has nothing to grow for
        model.encode([" ".join(draw.choices(WORDS, k=800)) for _ in range(40)])
    started = time.monotonic()
    while (minutes := (time.monotonic() - started) / 60) < MINUTES:
        batch = texts()
        vectors = draw.choice(models).encode(batch)
        assert vectors.shape[0] == len(batch)
        done += len(batch)
        sizes.append((minutes, resident()))
    early = max(size for minutes, size in sizes if minutes < MINUTES / 6)
    late = max(size for minutes, size in sizes if minutes > MINUTES / 2)
    print(f"\n{done} texts; at most {early / 1e6:.0f} MB in the first 5 minutes, {late / 1e6:.0f} MB in the last 15")
    assert late - early < MOST_GROWTH
