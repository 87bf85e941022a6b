"""Steps in their pinned images, by the engines of this machine: what they see, what they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pydra.engine.submitter import Submitter

from axoloci.engines import Engine, Job, Mount
from axoloci.environments import StepEnvironment, StepError, image_identity
from axoloci.images import locked_images
from axoloci.io.nifti import write_nifti
from axoloci.tasks.dti.task import FitDti

MAPS = ("fa", "md", "ad", "rd")


@pytest.fixture(params=["docker", "singularity"])
def engine(request: pytest.FixtureRequest, engine_of: Callable[[str], Engine]) -> Engine:
    """An engine that has the images."""
    return engine_of(request.param)


@pytest.fixture
def scan(tmp_path: Path) -> Iterator[Path]:
    """A folder of a small scan; its name has a space, a comma and a letter beyond ASCII.

    The image is a link that leaves the folder, and nothing in it may be written to.
    """
    folder, store = tmp_path / "ä b,c" / "raw", tmp_path / "store"
    folder.mkdir(parents=True)
    store.mkdir()
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(12, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    bvecs = np.vstack([np.zeros(3), directions])
    bvals = np.r_[0, np.full(12, 1000.0)]
    adc = 0.7e-3 + 0.8e-3 * bvecs[:, 0] ** 2
    signal_ = 1000 * np.exp(-bvals * adc) * rng.uniform(0.98, 1.02, (6, 7, 8, 13))
    write_nifti(store / "dwi.nii.gz", signal_.astype(np.float32), np.eye(4))
    (folder / "dwi.nii.gz").symlink_to(store / "dwi.nii.gz")
    np.savetxt(folder / "dwi.bval", bvals[None], fmt="%d")
    np.savetxt(folder / "dwi.bvec", bvecs.T, fmt="%.8f")
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def fit(kind: str, scan: Path, out: Path, bvec: str = "dwi.bvec") -> Path:
    """Fit a tensor in an environment; the folder of the results."""
    out.mkdir(parents=True, exist_ok=True)
    task = FitDti(
        dwi=scan / "dwi.nii.gz",
        bval=scan / "dwi.bval",
        bvec=scan / bvec,
        prefix="sub-1",
        out_dir=str(out),
        image=image_identity(kind, "dti"),
    )
    where = StepEnvironment(kind, out / "logs" / "dti.log", writable=[out])
    with Submitter(cache_root=out / "cache", worker="debug", environment=where) as submitter:
        submitter(task, raise_errors=True)
    return out


def test_container__gives_the_bytes_of_the_host(engine: Engine, scan: Path, tmp_path: Path) -> None:
    native = fit("native", scan, tmp_path / "native ü")
    inside = fit(engine.kind, scan, tmp_path / "inside ü")
    for name in MAPS:
        file = f"sub-1_model-tensor_param-{name}_dwimap.nii.gz"
        assert (inside / file).read_bytes() == (native / file).read_bytes()
        assert (inside / file).stat().st_uid == os.getuid()
    record = json.loads((inside / "logs" / "dti.json").read_text())
    assert record["image"] == locked_images()["dti"].config_digest
    assert record["cpu_seconds"] > 0.1
    assert record["max_rss_mb"] > 30
    about = json.loads((inside / "sub-1_model-tensor_dwimap.json").read_text())
    assert about["Software"]["Code"] == record["image"]


def test_container__is_not_run_again_for_the_same_digest(
    engine: Engine, scan: Path, tmp_path: Path
) -> None:
    out = fit(engine.kind, scan, tmp_path / "out")
    record = (out / "logs" / "dti.json").read_text()
    fit(engine.kind, scan, out)
    assert (out / "logs" / "dti.json").read_text() == record
    fit("native", scan, out)  # other code, for all that the driver knows
    assert json.loads((out / "logs" / "dti.json").read_text())["why"] == "its code changed"


def test_container__knows_nothing_of_the_users_own_packages(
    engine: Engine, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned = tmp_path / "home" / ".local" / "lib" / "python3.11" / "site-packages"
    poisoned.mkdir(parents=True)
    (poisoned / "numpy.py").write_text("raise RuntimeError('the host leaks in')\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(poisoned))
    fit(engine.kind, scan, tmp_path / "out")


def test_container__says_why_a_step_failed(engine: Engine, scan: Path, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"axoloci-dti fit, exit 1: .*dwi\.bval"):
        fit(engine.kind, scan, tmp_path / "out", bvec="dwi.bval")


LOOK = """
import os, socket
seen = {"uid": os.getuid(), "secret": "SECRET" in os.environ}
for name, path in (("input", "{scan}/x"), ("output", "{out}/x"), ("system", "/usr/x")):
    try:
        open(path, "w").close()
        seen[name] = True
    except OSError:
        seen[name] = False
try:
    socket.create_connection(("192.0.2.1", 9), 1)
    seen["network"] = True
except TimeoutError:
    seen["network"] = True
except OSError:
    seen["network"] = False
print(seen)
"""


def test_container__can_do_no_more_than_it_must(
    engine: Engine, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan.chmod(0o755)  # what protects it is the mount
    monkeypatch.setenv("SECRET", "1")
    out = tmp_path / "out"
    out.mkdir()
    code = textwrap.dedent(LOOK).replace("{scan}", str(scan)).replace("{out}", str(out))
    words = engine.words(
        engine.locate(locked_images()["dti"]),
        Job(
            name=f"axoloci-test-{os.getpid()}",
            command=["python3", "-c", code],
            mounts=[Mount(scan), Mount(out, writable=True)],
            folder=out,
            variables={},
        ),
    )
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    wanted = {"uid": os.getuid(), "secret": False, "input": False, "output": True}
    assert done.stdout.strip() == str(wanted | {"system": False, "network": False})


DRIVER = """
import subprocess, sys
from pathlib import Path
from axoloci.engines import Job, Mount, find_engine
from axoloci.environments import _run
from axoloci.images import locked_images

engine = find_engine({kind!r})
out = Path({out!r})
code = "import threading, time; from axoloci import command; " \\
    "threading.Thread(target=command._end_with_driver, daemon=True).start(); " \\
    "[(open({beat!r}, 'a').write('.'), time.sleep(0.1)) for _ in range(600)]"
words = engine.words(engine.locate(locked_images()["dti"]), Job(
    "axoloci-test-driver", ["python3", "-c", code], [Mount(out, True)], out, {{}}
))
with open(out / "log", "wb") as log:
    _run(words, log, {{}}, stdin=subprocess.PIPE)
"""


def test_container__ends_with_its_driver(engine: Engine, tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    code = DRIVER.format(kind=engine.kind, out=str(tmp_path), beat=str(beat))
    driver = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    begun = time.monotonic()
    while not beat.exists():
        assert driver.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() - begun < 60
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(2)
    size = beat.stat().st_size
    time.sleep(2)
    assert beat.stat().st_size == size
