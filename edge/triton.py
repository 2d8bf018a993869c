"""``python -m edge.triton``: a bundle as a model of NVIDIA's Triton Inference Server."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from edge import backends, command
from edge.atomic import folder_written_atomically, is_free
from edge.bundle import Bundle
from edge.errors import EdgeError
from edge.folder import copy_folder

MAX_INSTANCES = 1024
PACKAGE = Path(__file__).resolve().parent
NOT_SERVED = ("assets", "cpp", "_native", "__pycache__", "training", "charts", "report", "models", "data")  # what no engine runs with

CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: {batch}
input [
  {{ name: "photo" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "pixels" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] optional: true }}
]
output [
  {{ name: "scores" data_type: TYPE_FP32 dims: [ {classes} ] }},
  {{ name: "labels" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "regions" data_type: TYPE_STRING dims: [ 1 ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: {delay} }}
instance_group [ {{ count: {instances} kind: {kind} }} ]
"""

MODEL = '''\
"""Photographs in (`photo`: a file's bytes, or `pixels`: uint8 RGB); `scores`, and as JSON `labels` and `regions`, out."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # the edge that wrote this
from edge import Engine, EdgeError
from edge.image import decode


class TritonPythonModel:
    def initialize(self, args):
        self.engine = Engine.load(HERE / "bundle")

    def execute(self, requests):
        photos = [self.photos(request) for request in requests]
        try:
            found = iter(self.engine.predict([photo for each in photos if isinstance(each, list) for photo in each]))
            return [self.answer([next(found) for _ in each]) if isinstance(each, list) else self.refusal(each) for each in photos]
        except EdgeError as error:
            return [self.refusal(error) for _ in requests]

    def photos(self, request):
        """The photographs of a request, or what is wrong with one of them: the requests beside it are answered."""
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        try:
            if len(given) != 1:
                raise EdgeError("triton", "The request must have exactly one input", "Send photo or pixels")
            return [decode(each) for each in given["pixels"]] if "pixels" in given else [decode(each) for each in given["photo"].ravel()]
        except EdgeError as error:
            return error

    def answer(self, found):
        labels = [[{"name": name, "score": score} for name, score in one.labels] for one in found]
        regions = [[asdict(region) for region in one.regions] for one in found]
        texts = {"labels": labels, "regions": regions}
        tensors = [pb_utils.Tensor("scores", np.stack([one.scores for one in found]))]
        tensors += [pb_utils.Tensor(name, np.array([[json.dumps(each)] for each in value], object)) for name, value in texts.items()]
        return pb_utils.InferenceResponse(output_tensors=tensors)

    def refusal(self, error):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))

    def finalize(self):
        self.engine.close()
'''


def arguments() -> argparse.ArgumentParser:
    made = command.parser(
        "triton",
        "Write a bundle into a Triton model repository: its configuration, the bundle, a model.py that uses edge.Engine.\n"
        "The server's Python needs NumPy, Pillow and the library of the bundle's backend; edge itself is copied with it.",
        "example:\n  python -m edge.triton engines/demo-int8 repository\n  tritonserver --model-repository repository",
    )
    made.add_argument("bundle", type=Path, help="bundle folder made by edge.build")
    made.add_argument("repository", type=Path, metavar="DIR", help="model repository; the model gets the bundle's name")
    made.add_argument(
        "--instances", type=int, default=1, metavar="N", help="engines that run in parallel, each in its own process (default 1)"
    )
    made.add_argument(
        "--max-queue-delay-us", type=int, default=1000, metavar="US", help="microseconds that a request may wait for a batch (default 1000)"
    )
    return made


def main(args: argparse.Namespace) -> None:
    for name, least, most in (("instances", 1, MAX_INSTANCES), ("max_queue_delay_us", 0, 10**9)):
        if not least <= vars(args)[name] <= most:
            raise EdgeError("triton", f"`{name}` is {vars(args)[name]}", f"Use a number from {least} to {most}")
    bundle = Bundle.read(args.bundle)
    bundle.verify()
    name = re.sub(r"[^A-Za-z0-9._-]", "-", bundle.path.resolve().name)
    backend = backends.backend(bundle.target.backend)
    config = CONFIG.format(
        name=name,
        batch=bundle.target.max_batch,
        classes=len(bundle.model.labels),
        delay=args.max_queue_delay_us,
        instances=args.instances,
        kind="KIND_GPU" if backend.on_gpu else "KIND_CPU",
    )
    with folder_written_atomically(args.repository / name, _check_free) as folder:
        (folder / "config.pbtxt").write_text(config, encoding="utf-8")
        version = folder / "1"
        version.mkdir()
        (version / "model.py").write_text(MODEL, encoding="utf-8")
        copy_folder(bundle.path, version / "bundle")
        copy_folder(PACKAGE, version / "edge", _not_served)
    written = {"model": name, "folder": str(args.repository / name)}
    command.say(f"wrote      {written['folder']}")
    command.say(f"serve      tritonserver --model-repository {args.repository}")
    command.write_json(args.json, written)


def _check_free(path: Path) -> None:
    if not is_free(path):
        raise EdgeError("triton", f"{path} exists already", "Remove it, or choose another repository")


def _not_served(name: str) -> bool:
    return name in NOT_SERVED or name.endswith(".pyc")


if __name__ == "__main__":
    sys.exit(command.run(main, arguments().parse_args()))
