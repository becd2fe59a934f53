"""docs/speed.json → docs/speed.md and a plot for each kind of CPU."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from q3_runtime.quants import QUANTS

DOCS = Path(__file__).parents[2] / "docs"
RESULTS, PAGE = DOCS / "speed.json", DOCS / "speed.md"
BASE, OURS = "PyTorch fp32", "q3-onnx int8"
FLOOR = QUANTS["int8"]

HEAD = """# Speed

Made by `scripts/bench --peers`. Qwen3-Embedding-0.6B's shape with random weights, the same token ids for all, two threads.
Tokens per second of text: padding is not counted, and is an engine's own matter. Medians of rounds in which the engines take
turns, a process each. *news*: lines of news in eight languages; *paragraphs*: paragraphs of Wikipedia and questions on them in
four languages; engines without a way of their own run 32 texts at a time, sorted by length, as sentence-transformers does.
The mixes have 8,000 tokens, those of slow engines 4,000: sorted among more texts, those of a batch would differ less in length.

Cosine is to PyTorch in float32 on a checkpoint of 28 layers with the outliers of the published weights: mean and least. An
engine below the floor of int8 (mean {mean}, least {min}) is set in brackets and is no peer to beat. Memory is the peak of
resident pages after 8×128, mapped files counted; a query has 16 tokens; loading is from a warm disk.
"""


def read() -> dict[str, Any]:
    """What was measured, by kind of CPU."""
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    return found


def write(mode: str, found: dict[str, Any]) -> None:
    """Keep it, and the page that shows it."""
    results = read() | {mode: found}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    parts = [_section(name, of) for name, of in results.items() if any(of["rounds"])]
    if parts:
        PAGE.write_text("\n".join([HEAD.format(mean=FLOOR.mean_floor, min=FLOOR.min_floor), *parts]), "utf-8")
        if any(found["rounds"]):
            _plot(mode, found)


def _section(mode: str, found: dict[str, Any]) -> str:
    figures = _figures(found)
    engines = list(figures)
    shapes = list(next(iter(figures.values()))["tokens_per_second"])
    rounds = [sum(name in part for part in found["rounds"]) for name in engines]
    lines = [
        f"## {mode}",
        "",
        f"{found['machine']}; rounds: {' to '.join(map(str, sorted({min(rounds), max(rounds)})))}.",
        "",
        f"![tokens per second]({_plot_path(mode).relative_to(DOCS)})",
        "",
    ]
    lines += _table(["tokens/s", *(name.replace("x", "×") for name in shapes), "cosine"])
    for name in engines:
        speeds = [f"{figures[name]['tokens_per_second'][shape]:,.0f}" for shape in shapes]
        fidelity = f"{found['fidelity'][name]['mean']:.4f} / {found['fidelity'][name]['min']:.4f}"
        lines.append(_row([_label(name, found), *speeds, fidelity]))
    peers = [name for name in engines if _counts(found["fidelity"][name]) and not name.startswith("q3-onnx")]
    if OURS in engines and peers:
        lines += ["", f"{OURS} over the best of the peers that count, and over {BASE}:", ""]
        lines += _table(["", *(name.replace("x", "×") for name in shapes)])
        ours = figures[OURS]["tokens_per_second"]
        best = [max(figures[name]["tokens_per_second"][shape] for name in peers) for shape in shapes]
        lines.append(_row(["best peer", *(f"{ours[shape] / speed:.2f}" for shape, speed in zip(shapes, best, strict=True))]))
        base = figures.get(BASE, {}).get("tokens_per_second")
        lines += [_row([BASE, *(f"{ours[shape] / base[shape]:.2f}" for shape in shapes)])] if base else []
    lines += ["", *_table(["", "query p50, ms", "p95, ms", "load, s", "memory, MB", "disk, MB"])]
    for name in engines:
        of = figures[name]
        times = [f"{1000 * of['query_p50']:.0f}", f"{1000 * of['query_p95']:.0f}", f"{of['load']:.1f}"]
        lines.append(_row([_label(name, found), *times, f"{of['memory'] / 1e6:,.0f}", f"{of['disk'] / 1e6:,.0f}"]))
    return "\n".join(lines) + "\n"


def _counts(fidelity: dict[str, float]) -> bool:
    return fidelity["mean"] >= (FLOOR.mean_floor or 0) and fidelity["min"] >= FLOOR.min_floor


def _label(name: str, found: dict[str, Any]) -> str:
    return name if _counts(found["fidelity"][name]) else f"({name})"


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    """Of each engine, in the order of their turns, the medians of its rounds."""
    engines = dict.fromkeys(name for part in found["rounds"] for name in part)
    return {name: _medians([part[name] for part in found["rounds"] if name in part]) for name in engines}


def _medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of figures, and of dicts of figures."""
    return {
        key: _medians([of[key] for of in rounds]) if isinstance(value, dict) else statistics.median(of[key] for of in rounds)
        for key, value in rounds[0].items()
    }


def _table(names: Iterable[str]) -> list[str]:
    names = list(names)
    return [_row(names), "|" + "---|" * len(names)]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plot_path(mode: str) -> Path:
    return DOCS / "speed" / f"{mode.lower().replace(' ', '-').replace(',', '')}.svg"


def _plot(mode: str, found: dict[str, Any]) -> None:
    """Bars of the two mixes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "q3"
    figures = _figures(found)
    engines = list(figures)
    figure = Figure(figsize=(8, 0.5 + 0.4 * len(engines)), layout="constrained")
    axes = figure.subplots()
    for number, mix in enumerate(("news", "paragraphs")):
        places = [place + 0.4 * number for place in range(len(engines))]
        axes.barh(places, [figures[name]["tokens_per_second"][mix] for name in engines], height=0.4, label=mix)
    axes.set_yticks([place + 0.2 for place in range(len(engines))], [_label(name, found) for name in engines])
    axes.invert_yaxis()
    axes.set(xlabel="tokens per second")
    figure.suptitle(f"Qwen3-Embedding-0.6B's shape, {mode}, 2 threads")  # of the figure, as the names beside the axes are long
    axes.legend()
    _plot_path(mode).parent.mkdir(exist_ok=True)
    figure.savefig(_plot_path(mode), metadata={"Date": None})
