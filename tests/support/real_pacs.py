"""Programs of others on loopback: Orthanc as a PACS, dcmtk's tools, and `edgemt pacs` in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from checkout import ROOT
from pacs_samples import until

from edgemt.io.child_process import environment

ORTHANC_FOLDERS = "/usr/sbin", "/usr/local/sbin", "/usr/bin"
DICOMWEB = "/usr/lib/orthanc", "/usr/share/orthanc/plugins"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def dcmtk(name: str) -> str:
    """A tool of dcmtk, not of pynetdicom, which has some of the same names. Skips where there is none."""
    for folder in ("/usr/bin", "/usr/local/bin", *os.environ.get("PATH", "").split(os.pathsep)):
        path = shutil.which(name, path=folder)
        if path and "dcmtk" in subprocess.run([path, "--version"], capture_output=True, text=True).stdout:
            return path
    pytest.skip(f"{name} of dcmtk is not installed (apt install dcmtk)")


def store(port: int, *files: Path, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """dcmtk's storescu."""
    command = [dcmtk("storescu"), "-v", "-aec", "EDGEMT", "-nh", *options, "127.0.0.1", str(port), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


class Orthanc:
    """An Orthanc with its storage in `folder`; the ports stay the same over `stop` and `start`."""

    def __init__(self, folder: Path, *, modality_port: int = 0, web: bool = False) -> None:
        program = next((path for path in (shutil.which("Orthanc", path=f) for f in ORTHANC_FOLDERS) if path), None)
        if program is None:
            pytest.skip("Orthanc is not installed (apt install orthanc)")
        self._program, self._folder = program, folder
        self.port, self.http = free_port(), free_port()
        plugins = [str(_web_plugin())] if web else []
        self._configuration = {
            "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "HttpPort": self.http,
            "DicomPort": self.port, "DicomAet": "ORTHANC", "RemoteAccessAllowed": False, "Plugins": plugins,
            "AuthenticationEnabled": False,
            "DicomModalities": {"edgemt": ["EDGEMT", "127.0.0.1", modality_port or 11112]},
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        (self._folder / "db").mkdir(parents=True, exist_ok=True)
        file = self._folder / "orthanc.json"
        file.write_text(json.dumps(self._configuration))
        with (self._folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, str(file)], stdout=log, stderr=log)
        try:
            until(self._answers, seconds=30.0)
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "Orthanc ended: see orthanc.log"
        with contextlib.suppress(OSError):
            return bool(self.get("/system"))
        return False

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=20) as answer:
            return json.loads(answer.read())

    def post(self, path: str, body: str) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data=body.encode(), method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def segs(self) -> list[pydicom.Dataset]:
        """The segmentations that it has, by their series number."""
        found = []
        for name in self.get("/instances"):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/instances/{name}/file", timeout=20) as answer:
                found.append(pydicom.dcmread(BytesIO(answer.read())))
        return sorted((image for image in found if image.Modality == "SEG"), key=lambda seg: seg.SeriesNumber)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None


def _web_plugin() -> Path:
    folders = [Path(folder) for folder in (*DICOMWEB, os.environ.get("EDGEMT_TEST_DICOMWEB", "")) if folder]
    found = [path for folder in folders for path in sorted(folder.glob("libOrthancDicomWeb.so*"))]
    if not found:
        pytest.skip("Orthanc's DICOMweb plug-in is not installed (apt install orthanc-dicomweb)")
    return found[0]


class PacsProcess:
    """`edgemt pacs` as a user starts it, listening."""

    def __init__(self, ship: Path, spool: Path, *words: str, port: int = 0, **variables: str) -> None:
        self._output = spool.with_suffix(".out")
        command = [sys.executable, "-m", "edgemt.cli", "pacs", str(ship), "--spool", str(spool), "--port", str(port)]
        more = ["--quiet-s", "1", "--retry.first-s", "0.3", "--retry.most-s", "1", "--min-free-mib", "0"]
        env = {**environment(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
        with self._output.open("ab") as out:
            begun = out.tell()
            self._process = subprocess.Popen([*command, *more, *words], stdout=out, stderr=out, env=env)
        until(lambda: "Ctrl-C ends it" in self.text[begun:] or self._process.poll() is not None, seconds=60.0)
        assert self._process.poll() is None, self.text
        address = next(line for line in self.text[begun:].splitlines() if line.startswith("EDGEMT@"))
        self.port = int(address.rpartition(":")[2])

    @property
    def text(self) -> str:
        return self._output.read_text()

    def kill(self) -> None:
        """kill -9"""
        self._process.kill()
        self._process.wait(10)

    def end(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill()


@contextlib.contextmanager
def closing(*things: Any) -> Iterator[Any]:
    try:
        yield things[0] if len(things) == 1 else things
    finally:
        for thing in things:
            (thing.stop if isinstance(thing, Orthanc) else thing.close)()
