"""A stranger's folder: optimum_export.py CHECKPOINT OUT exports with optimum, whose graph wants position_ids."""

import sys

from optimum.exporters.onnx import main_export

checkpoint, out = sys.argv[1:]
main_export(checkpoint, out, task="feature-extraction", library_name="transformers", do_validation=False)
