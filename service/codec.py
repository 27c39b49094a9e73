"""Payloads as only those with the key can read them: AES-256-GCM over all that we give to Temporal.

`MERGEWRIGHT_ENCRYPTION_KEY` is one key or several, `id:base64` with commas between them; more, one a line, may stand in
the file that `MERGEWRIGHT_ENCRYPTION_KEY_FILE` names. The first one encrypts, each decrypts what names its id. So a
new key is put first, and an old one goes when no history needs it any more. What is not encrypted is read as it is:
`temporal workflow start` without a key still works, and so do tasks that began before there was one.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter, PayloadCodec

from service.converter import EncodedFailureConverter, data_converter

KEY = "MERGEWRIGHT_ENCRYPTION_KEY"
KEY_FILE = "MERGEWRIGHT_ENCRYPTION_KEY_FILE"
ENCODING = b"binary/encrypted"
_KEY_ID = "encryption-key-id"
_NONCE = 12
"""Bytes; a random one for each payload: safe for 2^32 of them with one key (NIST SP 800-38D, 8.3)."""


class BadKey(Exception):
    """One line with the remedy, without the key."""


class Undecodable(Exception):
    """A payload that none of the keys opens; one line."""


@dataclass(frozen=True)
class EncryptionCodec(PayloadCodec):
    keys: Mapping[str, AESGCM]
    """By their ids; the first one encrypts. None: what is written is not encrypted."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [self._encrypted(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Raises Undecodable."""
        return [self._decrypted(payload) for payload in payloads]

    def _encrypted(self, payload: Payload) -> Payload:
        if not self.keys or payload.metadata.get("encoding") == ENCODING:
            return payload
        name, key = next(iter(self.keys.items()))
        nonce = os.urandom(_NONCE)
        data = nonce + key.encrypt(nonce, payload.SerializeToString(), name.encode())
        return Payload(metadata={"encoding": ENCODING, _KEY_ID: name.encode()}, data=data)

    def _decrypted(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != ENCODING:
            return payload
        name = payload.metadata.get(_KEY_ID, b"").decode("utf-8", "replace")
        if name not in self.keys:
            raise Undecodable(f"a payload is encrypted with the key {name!r}: add it to {KEY}")
        try:
            opened = self.keys[name].decrypt(payload.data[:_NONCE], payload.data[_NONCE:], name.encode())
        except (InvalidTag, ValueError):
            raise Undecodable(f"a payload does not open with the key {name!r}: another one had that id") from None
        return Payload.FromString(opened)


def codec(environment: Mapping[str, str] = os.environ) -> EncryptionCodec:
    """As the variables say; without a key it encrypts nothing, and says what it cannot read. Raises BadKey."""
    given = environment.get(KEY, "")
    if file := environment.get(KEY_FILE, ""):
        try:
            given = f"{given},{Path(file).read_text()}"
        except (OSError, UnicodeDecodeError) as error:
            raise BadKey(f"{KEY_FILE}: {file} cannot be read: {getattr(error, 'strerror', 'no text')}") from None
    keys: dict[str, AESGCM] = {}
    for number, entry in enumerate(filter(None, re.split(r"[,\s]+", given)), 1):
        name, _, encoded = entry.partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not name or len(key) != 32:
            raise BadKey(f"{KEY}: key {number} is not `id:` and 32 bytes in base64; make one: openssl rand -base64 32")
        if name in keys:
            raise BadKey(f"{KEY}: two keys have the id {name!r}")
        keys[name] = AESGCM(key)
    if not keys and (given or file):
        raise BadKey(f"{KEY_FILE}: there is no key in {file}")
    return EncryptionCodec(keys)


def converter(environment: Mapping[str, str] = os.environ) -> DataConverter:
    """Ours, with encryption where there is a key. Raises BadKey."""
    found = codec(environment)
    if not found.keys:
        return replace(data_converter, payload_codec=found)
    return replace(data_converter, payload_codec=found, failure_converter_class=EncodedFailureConverter)
