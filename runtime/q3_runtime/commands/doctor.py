"""Examine any ONNX embedding folder: what is wrong with it, and which tools can load it."""

from argparse import ArgumentParser, Namespace

from q3_runtime.command_line import print_json

MARKS = {"ok": "ok      ", "note": "note    ", "problem": "PROBLEM "}


def add_arguments(parser: ArgumentParser) -> None:
    """Folder, quant."""
    parser.add_argument("folder", metavar="FOLDER", help="any folder with an ONNX graph, ours or a stranger's")
    parser.add_argument("--quant", help="which of its graphs (default: the one that q3 would take)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: Namespace) -> int:
    """0 where nothing is wrong, 3 where something is."""
    from q3_runtime.doctor import diagnose

    found = diagnose(args.folder, args.quant)
    if args.json:
        print_json(found.to_dict())
        return 3 if found.problems else 0
    print(_line(f"{found.folder}: {found.graph}, {found.kind}"))
    for finding in found.findings:
        rest = f"; {finding.remedy}" if finding.remedy else ""
        print(_line(f"{MARKS[finding.level]}{finding.check}: {finding.text}{rest}"))
    if found.loaders:
        print("who loads it and gets the model's own vectors or scores:")
    for tool, obstacles in found.loaders:
        print(_line(f"{'NO      ' if obstacles else 'yes     '}{tool}" + (f": {'; '.join(obstacles)}" if obstacles else "")))
    count = len(found.problems)
    print(f"{count or 'no'} problem{'' if count == 1 else 's'}")
    return 3 if count else 0


def _line(text: str) -> str:
    """What a stranger's files say stays on its line and moves no cursor."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
