"""The parts of a ``.pt2`` archive, each read once, by this one reader.

An archive that two readers take for two things can pass the check of the one and run code in the other. So nothing else
opens the file, and any other form than that of PyTorch's writer is refused: entries one after the other from the first
byte on, stored as they are, each with its checksum, and no byte that belongs to none of them.
"""

from __future__ import annotations

import io
import struct
import zipfile

LOCAL, CENTRAL, END = 30, 46, 22  # bytes of a local header, of one in the directory, and of the end, all without names
END_64 = 56 + 20
SIZES, LARGE_SIZES = 16, 24  # behind the data: checksum and sizes; of an archive above 4 GiB, with an extra field
FLAGS = 0x0808  # names in UTF-8, sizes behind the data


def read_parts(data: bytes) -> dict[str, bytes]:
    """The content of each entry, by its name below the folder that all entries are in.

    Raises:
        ValueError: the archive has another form, or a checksum is wrong.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_form(data, archive)
            return {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}
    except (zipfile.BadZipFile, struct.error, NotImplementedError, EOFError, RuntimeError) as error:
        raise ValueError(f"it is no archive of torch.export, or a damaged one ({error})") from error


def _check_form(data: bytes, archive: zipfile.ZipFile) -> None:
    found = archive.infolist()
    if len({info.filename for info in found}) < len(found) or len({i.filename.partition("/")[0] for i in found}) != 1:
        raise ValueError("its entries are not of one folder, each with a name of its own")
    at, directory = 0, 0
    for info in found:
        name, extra = struct.unpack("<HH", data[at + 26 : at + LOCAL])
        stored = info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
        if info.header_offset != at or info.flag_bits != FLAGS or not stored:
            raise ValueError(f"{info.filename} does not lie there as PyTorch would have written it")
        at += LOCAL + name + extra + info.file_size + (LARGE_SIZES if info.extra else SIZES)
        directory += CENTRAL + len(info.orig_filename.encode()) + len(info.extra) + len(info.comment)
    ends = (at + directory + END, at + directory + END_64 + END)
    if archive.start_dir != at or len(data) not in ends or archive.comment:
        raise ValueError("it has bytes that belong to none of its entries")
