"""What the tests of files share: a file taken apart and put together again, and the message of one that is refused."""

import json
import re
import struct

import pytest
from file_torture import read

import sepmat as sm
from sepmat import _container

MESSAGE = re.compile(r"[\w.]+: [^:]+.*; expected .+\. .+\.", re.DOTALL)  # where: argument: got; expected …. advice.


def refused(data, *words):
    """The message of the FormatError, which has its five parts and these words."""
    with pytest.raises(sm.FormatError) as error:
        read(data)
    text = str(error.value)
    assert MESSAGE.fullmatch(text), text
    for word in words:
        assert word in text, text
    return text


def parts(data):
    """(header, manifest, bytes of the arrays)"""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["sepmat"]), data[8 + length :]


def joined(header, manifest, arrays, sign=True):
    """A file of these parts, with the digest that its manifest has."""
    header = json.loads(json.dumps(header))
    if manifest is not None:
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        header["__metadata__"]["sepmat"] = text
        if sign:
            header["__metadata__"]["sha256"] = _container.digest(text.encode())
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + arrays


def resigned(data):
    return joined(*parts(data))
