"""Checkpoint → folder, in the order of the README."""

import math
import sys
import time
from pathlib import Path

from q3_export import artifact, published, publishing, resources, side_files, targets
from q3_export.card import card
from q3_export.checkpoint import Checkpoint, open_checkpoint
from q3_export.output_ranges import output_ranges
from q3_export.probes import read_probes, run_reference, write_golden
from q3_export.recipes import DEFAULT_QUANT, chosen, laid_out
from q3_export.rounds import Maker, make_quant
from q3_export.specs import SPECS, mrl_dims
from q3_export.staging import Staging, check_place
from q3_export.verification import Judge, provider_of
from q3_runtime.builds import versions
from q3_runtime.durable import write_synced
from q3_runtime.errors import InputError, ModelError, UsageError
from q3_runtime.golden import TEXTS_NAME, VECTORS_NAME, Golden
from q3_runtime.manifest import MANIFEST_NAME, FileEntry, Manifest, as_folder

COMPONENTS = ("q3-onnx", "torch", "transformers", "onnxruntime")


def export_model(
    model: str | Path,
    *,
    quant: str | list[str] | tuple[str, ...] = DEFAULT_QUANT,
    out: str | Path | None = None,
    layout: str = "onnx",
    kind: str | None = None,
    device: str = "cpu",
    calibration: str | Path | None = None,
    probes: str | Path | None = None,
    min_cosine: float | None = None,
    pooled_only: bool = False,
    no_verify: bool = False,
    force: bool = False,
    push: str | None = None,
    revision: str | None = None,
    offline: bool = False,
    progress: bool = False,
) -> Path:
    """Export a checkpoint and prove it; returns the folder.

    Args:
        model: a key of :data:`q3_export.specs.SPECS`, the folder of a checkpoint, or ``ORG/NAME`` on the hub.
        quant: names of :data:`q3_export.recipes.RECIPES`, a comma list or a sequence.
        out: the folder to make; default ``./<name of the model, lower case>-onnx``.
        layout: a name of :data:`q3_export.recipes.LAYOUTS`.
        kind: ``embedding`` or ``reranker``; None takes what the checkpoint says.
        device: where the reference runs, ``cpu`` or ``cuda``, and the verification where CUDA runs the quant whole.
        calibration: a file of texts to take ranges from, in the same form as ``probes``; None takes the shipped ones.
        probes: a file of texts to judge by, JSONL or one a line; None takes the shipped ones.
        min_cosine: replaces the quant's min floor; lowering it is written into manifest and card.
        pooled_only: the graph gives ``sentence_embedding`` only, which makes its last layer cheaper.
        no_verify: do not measure; fidelity is then null in q3.json.
        force: replace an existing quant, a folder made from another source, and what is damaged.
        push: ``ORG/NAME``: upload the finished folder to the hub, see :mod:`q3_export.publishing`.
        revision: branch, tag or commit on the hub; None takes the key's pinned commit, else the newest.
        offline: take what is in the hub's cache, as with HF_HUB_OFFLINE.
        progress: say the stages and show bars on standard error.

    Raises:
        UsageError, InputError, ModelError, FidelityError, StorageError, ProviderError, BusyError: see q3_runtime.errors. The
        target is then as it was before.
    """
    started = time.monotonic()
    say = _say if progress else _say_nothing
    recipes = laid_out(chosen(quant), layout)
    graphs = {recipe.quant.name: recipe.quant.onnx_file for recipe in recipes}
    _check_before_download(min_cosine, [probes, calibration], out, no_verify=no_verify)
    resources.check_device(device, [] if no_verify else list(graphs))
    if push is not None:
        publishing.check(push, offline=offline)
    if str(model) in SPECS:
        _check_kind(str(model), SPECS[str(model)].kind, kind)  # before a download
        _check_options(SPECS[str(model)].kind, min_cosine, layout)
    checkpoint = open_checkpoint(model, kind, revision=revision, offline=offline, progress=progress)
    _check_options(checkpoint.kind, min_cosine, layout)
    if checkpoint.kind == "reranker" and side_files.has_other_template(checkpoint.folder):
        say("the checkpoint's own chat template is not taken but Qwen3-Reranker's, by which it is judged; see docs/reranker.md")
    target = as_folder(out or f"{checkpoint.id.split('/')[-1].lower()}-onnx").absolute()
    texts = read_probes(Path(probes) if probes is not None else None, checkpoint)
    others = read_probes(Path(calibration) if calibration is not None else None, checkpoint, judging=False)
    with Staging(target, say, force=force) as staging:
        folder = staging.folder
        say(f"{checkpoint.folder}: {checkpoint.weights / 1e6:,.1f} M weights, {checkpoint.layers} layers → {target}")
        longest = max(len(probe.ids) for probe in texts)
        on_cpu = [recipe for recipe in recipes if not no_verify and provider_of(device, recipe.quant.name) == "cpu"]
        resources.check(checkpoint, recipes, target.parent, longest, verified=on_cpu)
        source = checkpoint.sha256(progress=progress)
        if push is not None:
            publishing.check_source(push, source, force=force)
        plan = targets.plan(staging.existing, target, source, texts, graphs, force=force, say=say)
        checkpoint.check_finite(progress=progress)

        figures = published.figures_of(checkpoint)
        if figures is None:
            say("no figures are published for this model at this revision")
        else:
            say(published.check_reference(figures, checkpoint, device=device, progress=progress))
        known = Golden.read(target, checkpoint.kind) if plan.kept else None
        reference = run_reference(
            checkpoint,
            texts,
            known,
            forms=[recipe.forms for recipe in recipes if recipe.linears.bits],
            calibration=others,
            device=device,
            progress=progress,
            say=say,
        )
        write_golden(reference.golden, folder, checkpoint.kind)
        kept_graphs = [entry.onnx_file for entry in plan.kept.values()]
        written = artifact.write_side_files(checkpoint, [*kept_graphs, *graphs.values()], folder)
        say("trace the graph")
        from q3_export.tracing import trace  # here, as it imports transformers' model: seconds that a refusal shall not take

        traced = trace(checkpoint.config)
        manifest = _manifest(checkpoint, source, artifact.describe(folder, [*written, TEXTS_NAME, VECTORS_NAME]))
        if plan.add and staging.existing is not None and checkpoint.revision is None:  # it was called something when it began
            manifest.source, manifest.license = staging.existing.source, staging.existing.license
        if checkpoint.kind == "embedding":
            manifest.output_ranges = plan.output_ranges or output_ranges(reference.calibration)
            if not manifest.output_ranges:
                say(f"no int8 or uint8 vectors with this folder: {len(others)} calibration texts do not show their ranges")
        judge = None if no_verify else Judge(checkpoint.kind, min_cosine, device=device, progress=progress)
        for recipe in recipes:
            maker = Maker(traced, checkpoint, recipe, reference, folder, pooled_only=pooled_only, progress=progress)
            make_quant(maker, manifest, judge, say)
            if figures is not None and judge is not None:
                say(published.quant_line(figures, folder, recipe.quant.name, provider_of(device, recipe.quant.name)))
        manifest.quants = plan.kept | manifest.quants
        write_synced(folder / "README.md", card(manifest))
        write_synced(folder / MANIFEST_NAME, manifest.to_json())
        if plan.add:
            staging.add(manifest)
        else:
            staging.carry_over([name for entry in plan.kept.values() for name in entry.files])
            staging.swap()
    if push is not None:
        say(f"pushed to {publishing.push(target, push, force=force, progress=progress)}, private if it is new")
    say(f"done in {time.monotonic() - started:.0f} s")
    return target


def _manifest(checkpoint: Checkpoint, source: str, files: dict[str, FileEntry]) -> Manifest:
    return Manifest(
        kind=checkpoint.kind,
        source={"id": checkpoint.id, "revision": checkpoint.revision, "sha256": source},
        license=checkpoint.license,
        made_with=versions(COMPONENTS),
        dims=checkpoint.dims,
        mrl_dims=mrl_dims(checkpoint.dims) if checkpoint.kind == "embedding" else [],
        max_tokens=checkpoint.max_tokens,
        prompts=checkpoint.prompts,
        files=files,
        quants={},
    )


def _check_before_download(
    min_cosine: float | None, texts: list[str | Path | None], out: str | Path | None, *, no_verify: bool
) -> None:
    """What is wrong whatever the checkpoint is."""
    if min_cosine is not None and not (math.isfinite(min_cosine) and -1 <= min_cosine <= 1):
        raise UsageError(f"min_cosine is {min_cosine}, expected a number from -1 to 1")
    if min_cosine is not None and no_verify:
        raise UsageError("min_cosine with no_verify, which measures no cosine; leave out one of them")
    for path in texts:
        if path is not None and not Path(path).exists():
            raise InputError(f"{path}: probes cannot be read (no such file), expected JSONL or one text a line in UTF-8")
    if out is not None:
        check_place(as_folder(out).absolute())


def _check_kind(model: str, kind: str, wanted: str | None) -> None:
    if wanted not in (None, kind):
        raise ModelError(f"{model}: its kind is {kind}, --kind says {wanted}; leave out --kind or give another model")


def _check_options(kind: str, min_cosine: float | None, layout: str) -> None:
    """What is of no use for a reranker."""
    if min_cosine is not None and kind == "reranker":
        raise UsageError(f"min_cosine {min_cosine:g} for a reranker, whose scores are judged by their ranks; leave it out")
    if layout == "tei" and kind == "reranker":
        raise UsageError("layout tei for a reranker, of which TEI runs no ONNX graph that gives one score; leave it out")


def _say(line: str) -> None:
    print(f"q3-export: {line}", file=sys.stderr)


def _say_nothing(_: str) -> None:
    pass
