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
SECONDS = {"load, s": "load", "load and a query, s": "first"}
"""Columns, and what they show."""

HEAD = """# Speed

Made by `scripts/bench --peers`. Qwen3-Embedding-0.6B's shape with random weights, the same token ids for all, two threads.
Tokens per second of text: padding is not counted, and is an engine's own matter. Medians of rounds in which the engines take
turns, a process each. *news*: lines of news in eight languages; *paragraphs*: paragraphs of Wikipedia and questions on them in
four languages; engines without a way of their own run 32 texts at a time, sorted by length, as sentence-transformers does.
The mixes are one call with 8,000 tokens, of slow engines with 4,000: texts of one batch differ much in length. *of many*: 8
neighbours at a time of 1,600 such texts sorted by length, 5,000 tokens with hardly any padding, as in a large corpus.

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
        f"{found['machine']}; rounds: {' to '.join(map(str, sorted({min(rounds), max(rounds)})))}{_commits(found)}.",
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
    peers = [name for name in peers if _over(found, name, shapes[0])]
    if peers:
        lines += [
            "",
            f"{OURS} over the best of the peers that count, and over {BASE}; medians of the rounds that have both:",
            "",
        ]
        lines += _table(["", *(name.replace("x", "×") for name in shapes)])
        lines.append(_row(["best peer", *(f"{min(_over(found, name, shape) for name in peers):.2f}" for shape in shapes)]))
        lines += [_row([BASE, *(f"{_over(found, BASE, shape):.2f}" for shape in shapes)])] if BASE in peers else []
    columns = {name: key for name, key in SECONDS.items() if all(key in of for of in figures.values())}
    lines += ["", *_table(["", "query p50, ms", "p95, ms", *columns, "memory, MB", "disk, MB"])]
    for name in engines:
        of = figures[name]
        times = [f"{1000 * of[key]:.0f}" for key in ("query_p50", "query_p95")] + [f"{of[key]:.1f}" for key in columns.values()]
        lines.append(_row([_label(name, found), *times, f"{of['memory'] / 1e6:,.0f}", f"{of['disk'] / 1e6:,.0f}"]))
    return "\n".join(lines) + "\n"


def _over(found: dict[str, Any], name: str, shape: str) -> float:
    """How many times as fast as this engine ours is: the median of the rounds that have both; 0 where none has."""
    both = [part for part in found["rounds"] if {OURS, name} <= set(part)]
    speeds = [(part[OURS]["tokens_per_second"], part[name]["tokens_per_second"]) for part in both]
    ratios = [ours[shape] / theirs[shape] for ours, theirs in speeds if shape in ours and shape in theirs]
    return statistics.median(ratios) if ratios else 0


def _commits(found: dict[str, Any]) -> str:
    """Of q3-onnx when it was measured, where that was kept."""
    commits = dict.fromkeys(of["commit"] for part in found["rounds"] for of in part.values() if "commit" in of)
    return f"; commit {', '.join(commits)}" if commits else ""


def _counts(fidelity: dict[str, float]) -> bool:
    return fidelity["mean"] >= (FLOOR.mean_floor or 0) and fidelity["min"] >= FLOOR.min_floor


def _label(name: str, found: dict[str, Any]) -> str:
    return name if _counts(found["fidelity"][name]) else f"({name})"


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    """Of each engine, in the order of their turns, the medians of its rounds."""
    engines = dict.fromkeys(name for part in found["rounds"] for name in part)
    return {name: _medians([part[name] for part in found["rounds"] if name in part]) for name in engines}


def _medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of figures, and of dicts of figures; of the rounds that have them: what has changed since is taken out of older ones."""
    known = {key: [of[key] for of in rounds if key in of] for key in dict.fromkeys(key for of in rounds for key in of)}
    return {
        key: _medians(values) if isinstance(values[0], dict) else statistics.median(values)
        for key, values in known.items()
        if not isinstance(values[0], str)
    }


def _table(names: Iterable[str]) -> list[str]:
    names = list(names)
    return [_row(names), "|" + "---|" * len(names)]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plot_path(mode: str) -> Path:
    return DOCS / "speed" / f"{mode.lower().replace(' ', '-').replace(',', '')}.svg"


def _plot(mode: str, found: dict[str, Any]) -> None:
    """Bars of the mixes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "q3"
    figures = _figures(found)
    engines = list(figures)
    figure = Figure(figsize=(8, 1.5 + 0.4 * len(engines)), layout="constrained")
    axes = figure.subplots()
    mixes = [name for name in figures[engines[0]]["tokens_per_second"] if not name[0].isdigit()]
    height = 0.8 / len(mixes)
    for number, mix in enumerate(mixes):
        places = [place + height * number for place in range(len(engines))]
        axes.barh(places, [figures[name]["tokens_per_second"][mix] for name in engines], height=height, label=mix)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(engines))], [_label(name, found) for name in engines])
    axes.invert_yaxis()
    axes.set(xlabel="tokens per second")
    figure.suptitle(f"Qwen3-Embedding-0.6B's shape, {mode}, 2 threads")  # of the figure, as the names beside the axes are long
    figure.legend(loc="outside lower center", ncols=len(mixes))
    _plot_path(mode).parent.mkdir(exist_ok=True)
    figure.savefig(_plot_path(mode), metadata={"Date": None})
