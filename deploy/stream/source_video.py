"""Video files and RTSP, decoded by FFmpeg through PyAV."""

from __future__ import annotations

import io
from collections import deque
from pathlib import Path
from typing import Any

from deploy.stream.sources import Corrupt, Lost, Picture, library

_TIMEOUT_S = (5.0, 2.0)  # to open, and to wait for data
_NOW = {"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay"}


class VideoSource:
    """A file plays at its own rate. A network stream is live: when data stops it is opened again."""

    def __init__(self, text: str, *, data: bytes | None = None) -> None:
        """`data`: the bytes of a file that lies in another one; `text` is its name then."""
        self.name, self.live, self._data = text, "://" in text, data
        self.hz: float | None = None
        self._container: Any = None
        self._packets: Any = None
        self._decoded: deque[Any] = deque()

    def open(self) -> None:
        av = library("av", pip="av", source=self.name)
        if not self.live and not Path(self.name).is_file():
            raise ValueError(f"source {self.name}: no such file or folder")
        try:
            options = _NOW if self.live else {}
            place = self.name if self._data is None else io.BytesIO(self._data)
            self._container = av.open(place, options=options, timeout=_TIMEOUT_S if self.live else None)
            stream = self._container.streams.video[0]
            rate = stream.average_rate
            # frame threads hold frames back, which only a file does not mind
            stream.thread_type = "SLICE" if self.live else "AUTO"
            stream.codec_context.open(strict=False)
        except IndexError:
            raise ValueError(f"source {self.name}: holds no video; name another file") from None
        except (av.error.FFmpegError, OSError, ValueError) as error:
            said = str(error).partition(": '")[0]
            mend = "look at its address and whether it is on" if self.live else "convert it to H.264 in MP4"
            raise ValueError(f"source {self.name}: cannot be played ({said}); {mend}") from None
        if not self.live and self.hz is None:
            self.hz = float(rate) if rate else 25.0
        self._packets = self._container.demux(stream)

    def read(self) -> Picture | None:
        import av

        try:
            while not self._decoded:
                packet = next(self._packets, None)
                if packet is None:
                    if self.live:
                        raise Lost("the stream ended")
                    return None
                self._decoded.extend(packet.decode())
            frame = self._decoded.popleft()
            if frame.is_corrupt:
                raise Corrupt("a damaged frame")
            return Picture(frame.to_ndarray(format="rgb24"), None if frame.time is None else int(frame.time * 1e9))
        except av.error.InvalidDataError as error:
            raise Corrupt(f"data that cannot be decoded ({error})") from None
        except (av.error.FFmpegError, OSError) as error:
            raise Lost(f"reading failed ({error})") from None

    def close(self) -> None:
        self._decoded.clear()
        if self._container is not None:
            self._container.close()
        self._container = self._packets = None
