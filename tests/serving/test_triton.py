"""``edge.triton``: what it writes, its model on its own, and behind the real server."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge import Engine, command, triton


def run(*words: object) -> int:
    return command.run(triton.main, triton.arguments().parse_args([str(word) for word in words]))


@pytest.fixture(scope="module")
def bundle(small_bundle):
    return small_bundle("onnxruntime")


@pytest.fixture(scope="module")
def repository_(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton") / "models"
    assert run(bundle, folder, "--instances", "2", "--max-queue-delay-us", "500") == 0
    return folder


def photo(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_a_model_is_written_whole_and_never_over_another(bundle, repository_, capsys):
    model = repository_ / bundle.name
    assert {path.name for path in model.iterdir()} == {"config.pbtxt", "1"}
    assert {path.name for path in (model / "1").iterdir()} == {"model.py", "bundle", "edge"}
    config = (model / "config.pbtxt").read_text()
    for line in ("max_batch_size: 3", "max_queue_delay_microseconds: 500", "count: 2 kind: KIND_CPU", "dims: [ 20 ]"):
        assert line in config
    assert run(bundle, repository_) == 1
    assert "exists already" in capsys.readouterr().err
    assert run(bundle, repository_, "--instances", "0") == 1
    assert "--instances is 0" in capsys.readouterr().err


STAND_IN = """
import numpy as np
class Tensor:
    def __init__(self, name, value): self._name, self._value = name, value
    def name(self): return self._name
    def as_numpy(self): return self._value
class TritonError:
    def __init__(self, message): self.message = message
class InferenceResponse:
    def __init__(self, output_tensors=(), error=None): self.tensors, self.error = output_tensors, error
"""
CALL = """
import base64, importlib.util, json, sys
import numpy as np
import triton_python_backend_utils as pb
location = importlib.util.spec_from_file_location("model", sys.argv[1])
module = importlib.util.module_from_spec(location)
location.loader.exec_module(module)
model = module.TritonPythonModel()
model.initialize({})
class Request:
    def __init__(self, **inputs): self._inputs = [pb.Tensor(name, value) for name, value in inputs.items()]
    def inputs(self): return self._inputs
photos = [base64.b64decode(each) for each in json.loads(sys.argv[2])]
requests = [Request(photo=np.array([[each] for each in photos], object)), Request(photo=np.array([[b"no photograph"]], object)),
            Request(pixels=np.zeros((1, 40, 50, 3), np.uint8)), Request()]
found = []
for each in model.execute(requests):
    tensors = {one.name(): one.as_numpy().tolist() for one in each.tensors}
    found.append({"error": each.error.message if each.error else None, **tensors})
import edge
print(json.dumps([edge.__file__, found]))
"""


def test_the_model_answers_every_request_and_finds_its_own_edge(bundle, repository_, tmp_path):
    import base64

    (tmp_path / "triton_python_backend_utils.py").write_text(STAND_IN)
    photos = [photo(seed) for seed in range(4)]  # more than the engine takes at once
    model = repository_ / bundle.name / "1" / "model.py"
    given = json.dumps([base64.b64encode(each).decode() for each in photos])
    done = subprocess.run(
        [sys.executable, "-c", CALL, str(model), given],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    place, (several, bad, pixels, empty) = json.loads(done.stdout)
    assert Path(place).is_relative_to(repository_)
    with Engine.load(bundle) as engine:
        expected = engine.predict(photos)
    np.testing.assert_allclose(several["scores"], [one.scores for one in expected], atol=1e-6)
    assert [[each["name"] for each in json.loads(text)] for (text,) in several["labels"]] == [
        [name for name, _ in one.labels] for one in expected
    ]
    assert [len(json.loads(text)) for (text,) in several["regions"]] == [4] * 4
    assert bad["error"].startswith("[image] Cannot read")
    assert pixels["error"] is None
    assert "photo or pixels" in empty["error"]


# The real server.


@pytest.fixture(scope="module")
def server(bundle, repository_, tmp_path_factory):
    """The address of a Triton that serves the model; docs/serving.md says what EDGE_TRITON
    holds."""
    if "EDGE_TRITON" not in os.environ:
        pytest.skip("no Triton server: EDGE_TRITON names no unpacked nvidia-pytriton (docs/serving.md)")
    given, place = Path(os.environ["EDGE_TRITON"]), tmp_path_factory.mktemp("backends")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = given / f"pytriton/tritonserver/python_backend_stubs/{version}/triton_python_backend_stub"
    python = Path(sysconfig.get_config_var("LIBDIR"), f"libpython{version}.so.1.0")
    for needed in (stub, python):
        if not needed.is_file():
            pytest.skip(f"Triton's Python backend needs {needed}, which is not there")
    shutil.copytree(given / "pytriton/tritonserver/backends/python", place / "python")
    shutil.copy(stub, place / "python")
    (place / "python" / "triton_python_backend_stub").chmod(0o755)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    # The server's Python is that of the environment first on PATH; PYTHONPATH it does not read.
    venv.create(place / "env")
    packages = next((place / "env").glob("lib/python*/site-packages"))
    (packages / "given.pth").write_text(f"{given / 'python'}\n{sysconfig.get_path('purelib')}\n")
    libraries = [given / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    path = f"{place / 'env' / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries)), "PATH": path}
    program = given / "pytriton/tritonserver/bin/tritonserver"
    program.chmod(0o755)
    words = [program, "--model-repository", repository_, "--backend-directory", place, "--http-port", port, "--http-address", "127.0.0.1"]
    words += ["--allow-grpc", "false", "--allow-metrics", "false"]
    log = place / "log"
    with open(log, "w") as out:
        process = subprocess.Popen([str(word) for word in words], env=environment, stdout=out, stderr=out)
    address, deadline = f"http://127.0.0.1:{port}/v2", time.monotonic() + 120
    try:
        while not ready(address):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        yield f"{address}/models/{bundle.name}/infer"
        assert process.poll() is None, log.read_text()[-3000:]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health/ready", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def ask(address: str, data: bytes) -> tuple[int, dict]:
    """Triton's binary form: a JSON header, then a length and the bytes of the photograph."""
    body = len(data).to_bytes(4, "little") + data
    entry = {"name": "photo", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(body)}}
    header = json.dumps({"inputs": [entry]}).encode()
    request = urllib.request.Request(address, header + body, {"Inference-Header-Content-Length": str(len(header))})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, {each["name"]: each["data"] for each in json.loads(answer.read())["outputs"]}
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_application_of_the_page_runs(server, repository, tmp_path):
    text = (repository / "docs" / "serving.md").read_text(encoding="utf-8")
    code = text.partition("<!-- application -->\n```python\n")[2].partition("```")[0]
    assert code.count('"http://localhost:8000/v2/models/first/infer"') == 1
    (tmp_path / "photo.jpg").write_bytes(photo(0))
    words = [sys.executable, "-c", code.replace("http://localhost:8000/v2/models/first/infer", server)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "'scores': [" in done.stdout
    assert "'regions': [" in done.stdout


def test_the_server_gives_what_predict_gives(bundle, server):
    photos = [photo(seed) for seed in range(5)]
    with Engine.load(bundle) as engine:
        expected = engine.predict(photos)
    for data, one in zip(photos, expected, strict=True):
        status, found = ask(server, data)
        assert status == 200
        np.testing.assert_allclose(found["scores"], one.scores, atol=1e-5)
        assert [each["name"] for each in json.loads(found["labels"][0])] == [name for name, _ in one.labels]
        assert [each["label"] for each in json.loads(found["regions"][0])] == [region.label for region in one.regions]


def test_every_request_is_answered_bad_ones_too(server):
    count = int(os.environ.get("EDGE_TRITON_REQUESTS", "200"))
    good = photo(0)
    seconds: list[float] = []

    def one(number: int) -> int:
        start = time.perf_counter()
        status, _ = ask(server, b"no photograph" if number % 100 == 50 else good)
        seconds.append(time.perf_counter() - start)
        return status

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, range(count)))
    assert [number for number, status in enumerate(found) if status != 200] == list(range(50, count, 100))
    print(f"{count} requests: p50 {np.percentile(seconds, 50) * 1e3:.1f} ms, p99 {np.percentile(seconds, 99) * 1e3:.1f} ms")
    assert ask(server, good)[0] == 200
