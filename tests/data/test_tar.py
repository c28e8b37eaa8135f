"""Where files lie in a tar file, against the standard library's tarfile; what is damaged is named."""

import bz2
import gzip
import io
import lzma
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.data.tar import BLOCK, Member, _parse_extension, read_members
from moco.errors import BadInputError

Content = list[tuple[str, bytes]]


def packed(content: Content, form: int) -> bytes:
    """A tar file, as the standard library writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8") as tar:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def found(content: bytes) -> list[Member]:
    """What our reader finds in it."""
    descriptor = os.memfd_create("tar") if hasattr(os, "memfd_create") else pytest.skip("no memory files")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        return list(read_members(descriptor, "x.tar"))
    finally:
        os.close(descriptor)


def expected(content: bytes) -> list[Member]:
    """What the standard library finds in it."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        return [
            Member(info.name.encode("utf-8", "surrogateescape"), info.offset_data, info.size)
            for info in tar
            if info.isreg()
        ]


def refusal(content: bytes) -> str:
    """What our reader says against it, in one line."""
    with pytest.raises(BadInputError) as caught:
        found(content)
    message = str(caught.value)
    assert message.startswith("x.tar: at byte ")
    assert len(message.splitlines()) == 1
    return message


letters = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1)
names = st.lists(letters | st.just("a" * 120), min_size=1, max_size=4).map("/".join)
contents = st.lists(st.tuples(names, st.binary(max_size=1100)), max_size=6)


@given(contents, st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
@settings(max_examples=80, deadline=None)
def test_any_names_and_contents(content: Content, form: int) -> None:
    """Long names and others than ASCII, in GNU and PAX headers: the same places as the standard library."""
    tar = packed(content, form)
    assert found(tar) == expected(tar)
    assert [tar[member.offset : member.offset + member.length] for member in found(tar)] == [
        data for _, data in content
    ]


def test_ustar_prefixes() -> None:
    """A path of up to 255 bytes is split over two fields."""
    content = [("d" * 100 + "/" + "e" * 40 + "/cat.jpg", b"1"), ("dog.jpg", b"22")]
    tar = packed(content, tarfile.USTAR_FORMAT)
    assert [member.name.decode() for member in found(tar)] == [name for name, _ in content]
    assert found(tar) == expected(tar)


@pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar")
@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_the_program_tar_writes(tmp_path: Path, form: str) -> None:
    """In all its formats."""
    for name in ("a/cat.jpg", "a/dog.png", "b.cls"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 100)
    (tmp_path / "link").symlink_to("b.cls")
    os.link(tmp_path / "b.cls", tmp_path / "hard")
    command = ["tar", f"--format={form}", "-cf", "x.tar", "a", "b.cls", "link", "hard"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    tar = (tmp_path / "x.tar").read_bytes()
    assert found(tar) == expected(tar)
    assert sorted(member.name for member in found(tar)) == [b"a/cat.jpg", b"a/dog.png", b"b.cls"]


KINDS = {
    "link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "device": tarfile.CHRTYPE,
    "disk": tarfile.BLKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "folder": tarfile.DIRTYPE,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "cat.jpg", "a" * 200])
def test_what_is_no_file_is_passed_over(kind: str, name: str) -> None:
    """Also where its header claims a size: no data follows it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = KINDS[kind], "/etc/shadow", 600
        tar.addfile(info)
        tar.addfile(tarfile.TarInfo("dog.jpg"))
    assert [member.name for member in found(buffer.getvalue())] == [b"dog.jpg"]
    assert found(buffer.getvalue()) == expected(buffer.getvalue())


def test_an_unknown_kind_is_passed_over_with_its_data() -> None:
    """As the standard requires."""
    tar = bytearray(packed([("secret", bytes(600)), ("dog.jpg", b"1")], tarfile.USTAR_FORMAT))
    tar[156:157] = b"Z"
    tar[148:156] = b"%06o\0 " % (sum(tar[:148]) + sum(tar[156:512]) + 8 * 32)
    assert [member.name for member in found(bytes(tar))] == [b"dog.jpg"]
    with tarfile.open(fileobj=io.BytesIO(bytes(tar))) as oracle:
        places = {info.name: info.offset_data for info in oracle}
    assert found(bytes(tar))[0].offset == places["dog.jpg"]


def header(size: bytes) -> bytes:
    """A header of one file with this size field."""
    block = bytearray(BLOCK)
    block[:7], block[124:136], block[156:157], block[257:265] = b"cat.jpg", size, b"0", b"ustar\x0000"
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 8 * 32)
    return bytes(block)


def test_sizes_beyond_eight_gigabytes() -> None:
    """GNU writes them in binary: read, and found to lie beyond the end of this file."""
    large = b"\x80" + (2**40).to_bytes(11, "big")
    assert "has 1099511627776 bytes, and the file ends after 1024" in refusal(header(large) + bytes(1024))
    assert tarfile.TarInfo.frombuf(header(large), "utf-8", "strict").size == 2**40


@pytest.mark.parametrize("size", [b"\xff" * 12, b"not a number", b"-0000000001\0", b"00000_00001\0", b"0000000001x\0"])
def test_a_size_that_is_no_number(size: bytes) -> None:
    """Negative ones too."""
    assert "the size of a member" in refusal(header(size) + bytes(1024))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_file_that_is_cut_off(form: int) -> None:
    """Wherever it ends before its empty block, also between two members."""
    tar = packed([("a" * 90 + ".jpg", b"1" * 700), ("ü" * 40, b"2")], form)
    end = len(tar.rstrip(b"\0")) // BLOCK * BLOCK + BLOCK
    assert found(tar[: end + BLOCK]) == expected(tar)
    for stop in {*range(0, end + BLOCK, 64), *range(0, end, BLOCK), end + BLOCK - 1}:
        assert "cut off" in refusal(tar[:stop]), stop


@given(st.integers(0, BLOCK - 1), st.integers(0, 7))
@settings(max_examples=100, deadline=None)
def test_one_wrong_bit_in_a_header(byte: int, bit: int) -> None:
    """Refused wherever it stands, but where the checksum keeps its value: a blank for its first 0, what follows it."""
    tar = bytearray(packed([("cat.jpg", b"1")], tarfile.USTAR_FORMAT))
    tar[byte] ^= 1 << bit
    if byte in (154, 155) or (byte, bit) == (148, 4):
        return
    assert "checksum" in refusal(bytes(tar))


@pytest.mark.parametrize("kind", [gzip, bz2, lzma])
def test_a_compressed_file(kind: Any) -> None:
    """It has no places to read from; the message says so where it can tell."""
    message = refusal(kind.compress(packed([("cat.jpg", b"")], tarfile.USTAR_FORMAT)) + bytes(BLOCK))
    assert ("decompress it" if kind is gzip else "no tar header") in message


def test_sparse_members(tmp_path: Path) -> None:
    """Their bytes do not lie in one place: refused by name."""
    with (tmp_path / "cat.jpg").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x" * 5000)
    for form in ("gnu", "posix"):
        command = ["tar", f"--format={form}", "--sparse", "-cf", "x.tar", "cat.jpg"]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
        assert "sparse" in refusal((tmp_path / "x.tar").read_bytes())


@pytest.mark.parametrize(
    "record", [b"1 a=b\n", b"0 path=x\n", b"99 path=x\n", b"path=x\n", b"9 path=xy", b"11 size=-1\n", b"11 size=1e\n"]
)
def test_pax_headers_that_cannot_be_read(record: bytes) -> None:
    """Lengths that do not fit would never end."""
    tar = bytearray(packed([("x", record), ("cat.jpg", b"")], tarfile.USTAR_FORMAT))
    tar[156:157] = b"x"
    tar[148:156] = b"%06o\0 " % (sum(tar[:148]) + sum(tar[156:512]) + 8 * 32)
    assert "PAX" in refusal(bytes(tar)) or "size" in refusal(bytes(tar))


def test_a_name_without_end_is_not_read() -> None:
    """A GNU header that claims a name of gigabytes, in a sparse file that has them."""
    claim = bytearray(header(b"%011o\0" % (2**33 - 1)))
    claim[156:157] = b"L"
    claim[148:156] = b"%06o\0 " % (sum(claim[:148]) + sum(claim[156:]) + 8 * 32)
    descriptor = os.memfd_create("tar") if hasattr(os, "memfd_create") else pytest.skip("no memory files")
    try:
        os.write(descriptor, claim)
        os.truncate(descriptor, 2**34)
        with pytest.raises(BadInputError, match="a name of 8589934591 bytes"):
            list(read_members(descriptor, "x.tar"))
    finally:
        os.close(descriptor)


def test_many_records_are_read_in_one_pass() -> None:
    """A PAX header of a million bytes: its records are not copied again for each of them."""
    records = b"".join(b"%d k%05d=%s\n" % (20, i, b"v" * 9) for i in range(50_000))
    started = time.process_time()
    assert len(_parse_extension(b"x", records, "x.tar")) == 50_000
    assert time.process_time() - started < 2
