"""`FaultDisk`: real files whose operations are traced, and fail or wait on request."""

from __future__ import annotations

from strandline.tools.crash.simulation.faults import FaultPoint
from strandline.wal.disk import Disk, DiskFile, Kind, OpenMode
from strandline.wal.real_disk import RealDisk


class FaultFile:
    """An open file of a `FaultDisk`."""

    def __init__(self, point: FaultPoint, inner: DiskFile) -> None:
        self.path = inner.path
        self._point = point
        self._inner = inner

    def pwrite(self, data: bytes, offset: int, /) -> int:
        allowed = self._point.enter("pwrite", self.path, offset, len(data))
        return self._inner.pwrite(data[:allowed], offset)

    def pread(self, length: int, offset: int, /) -> bytes:
        return self._inner.pread(self._point.enter("pread", self.path, offset, length), offset)

    def fdatasync(self) -> None:
        self._point.enter("fdatasync", self.path)
        self._inner.fdatasync()

    def allocate(self, length: int) -> None:
        self._point.enter("allocate", self.path, 0, length)
        self._inner.allocate(length)

    def truncate(self, length: int) -> None:
        self._point.enter("truncate", self.path, 0, length)
        self._inner.truncate(length)

    def size(self) -> int:
        self._point.enter("size", self.path)
        return self._inner.size()

    def try_lock(self) -> bool:
        self._point.enter("try_lock", self.path)
        return self._inner.try_lock()

    def close(self) -> None:
        """Close the file, and only then fail if the hook says so."""
        self._inner.close()
        self._point.enter("close", self.path)


class FaultDisk(FaultPoint):
    """A disk, the real one if none is given, behind `operations` and `faults`."""

    def __init__(self, inner: Disk | None = None) -> None:
        super().__init__()
        self._inner = inner or RealDisk()

    def open(self, path: str, mode: OpenMode) -> FaultFile:
        self.enter("create" if mode == "create" else "open", path)
        return FaultFile(self, self._inner.open(path, mode))

    def kind(self, path: str) -> Kind:
        self.enter("kind", path)
        return self._inner.kind(path)

    def listdir(self, path: str) -> list[str]:
        self.enter("listdir", path)
        return self._inner.listdir(path)

    def mkdir(self, path: str) -> None:
        self.enter("mkdir", path)
        self._inner.mkdir(path)

    def rename(self, source: str, target: str) -> None:
        self.enter("rename", target)
        self._inner.rename(source, target)

    def unlink(self, path: str) -> None:
        self.enter("unlink", path)
        self._inner.unlink(path)

    def sync_directory(self, path: str) -> None:
        self.enter("sync_directory", path)
        self._inner.sync_directory(path)

    def free_bytes(self, path: str) -> int:
        self.enter("free_bytes", path)
        return self._inner.free_bytes(path)
