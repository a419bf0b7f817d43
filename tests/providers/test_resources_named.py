"""Which ids a request names: every JSON that some parser reads, and every disguise of what is AssemblyAI's own."""

from __future__ import annotations

import codecs
import json
from typing import Any

import pytest

from keypool_asgi.core import ownership
from keypool_asgi.core.ownership import named_values
from keypool_asgi.core.resources import Ref
from keypool_asgi.errors import BadRequest
from keypool_asgi.providers.assemblyai.resources import describe, is_known

UUID = "0f4c2c1e-8a5b-4d57-9d8e-1f4b6f0f9c11"
UPLOAD = f"https://cdn.assemblyai.com/upload/{UUID}"

LONG_S = "\u017f"

NAMED = {
    "plain": '{"transcript_id": "x"}',
    "capitals": '{"Transcript_ID": "x"}',
    "long s": f'{{"tran{LONG_S}cript_id": "x"}}',
    "long s, escaped": '{"tran\\u017fcript_id": "x"}',
    "escaped": '{"transcript\\u005fid": "x"}',
    "all escaped": json.dumps({"k": "x"}).replace("k", "".join(f"\\u{ord(c):04X}" for c in "transcript_id")),
    "value escaped": '{"transcript_id": "\\u0078"}',
    "nested": '{"speech": {"request": {"transcript_id": "x"}}}',
    "in a list": '{"messages": [{"a": [{"transcript_id": "x"}]}]}',
    "space": '{"transcript_id"\r\n\t : \r\n"x"}',
    "beside others' letters": '{"prompt": "\u00e4", "transcript_id": "x"}',
}


@pytest.mark.parametrize("body", NAMED.values(), ids=NAMED)
def test_a_name_is_found_however_it_is_written(body: str) -> None:
    assert named_values(body.encode(), {"transcript_id": "transcript"}) == [("transcript_id", "x")]


def test_a_mark_of_the_byte_order_is_no_hiding_place() -> None:
    body = codecs.BOM_UTF8 + b'{"transcript_id": "x"}'
    assert named_values(body, ["transcript_id"]) == [("transcript_id", "x")]


def test_members_that_stand_twice_all_count() -> None:
    body = b'{"audio_url": "a", "Audio_URL": "b", "audio_url": "c", "x": {"AUDIO_URL": "d"}}'
    assert sorted(named_values(body, ["audio_url"])) == [("audio_url", name) for name in "abcd"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ['{"audio_url": "x"}', "{}"])
def test_other_encodings_are_refused(encoding: str, text: str) -> None:
    with pytest.raises(BadRequest):
        named_values(text.encode(encoding), ["audio_url"])


@pytest.mark.parametrize(
    "body",
    [
        b'{"audio_url": "x\0"}',
        b'{"audio_url": "x"}\0',
        b'\0{"audio_url": "x"}',
        b'{"a": "\xff", "audio_url": "x"}',
        b'{"a": "\xc0\xa2"}',
        b'+AHsAIg-audio_url":"x"}',
        b'"audio_url"',
        b'[{"audio_url": "x"}]',
        b'{"audio_url": "x"',
        b'{"audio_url": "x"} {}',
        b'{"a":' * 50_000 + b'"audio_url"',
        codecs.BOM_UTF8 * 2 + b'{"audio_url": "x"}',
    ],
)
def test_what_cannot_be_read_for_certain_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        named_values(body, ["audio_url"])


def test_a_body_without_names_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(*_: object, **__: object) -> Any:
        raise AssertionError("parsed")

    monkeypatch.setattr(ownership.json, "loads", loads)
    assert named_values(b'{"model": "m", "messages": []}', ["transcript_id"]) == []
    with pytest.raises(AssertionError, match="parsed"):
        named_values(b'{"Transcript_Id": "x"}', ["transcript_id"])


# What must be AssemblyAI's own

DISGUISES = {
    "plain": "{cdn}/upload/1",
    "slash in user": "https://u%2F@cdn.assemblyai.com/upload/1",
    "question in user": "https://u%3F@cdn.assemblyai.com/upload/1",
    "hash in user": "https://u%23@cdn.assemblyai.com/upload/1",
    "twice encoded": "https://u%252F@cdn%252Eassemblyai.com/upload/1",
    "one slash": "https:/cdn.assemblyai.com/upload/1",
    "three slashes": "https:///cdn.assemblyai.com/upload/1",
    "no slash": "https:cdn.assemblyai.com/upload/1",
    "no scheme": "cdn.assemblyai.com/upload/1",
    "backslash": "https://x\\@cdn.assemblyai.com/upload/1",
    "backslashes": "https:\\\\cdn.assemblyai.com\\upload\\1",
    "ideographic stop": "https://cdn\u3002assemblyai\u3002com/upload/1",
    "half-width stop": "https://cdn\uff61assemblyai.com/upload/1",
    "full-width": "https://\uff43\uff44\uff4e.assemblyai.com/upload/1",
    "circled": "https://\u24d2dn.assemblyai.com/upload/1",
    "encoded full-width": "https://cdn%EF%BC%8Eassemblyai.com/upload/1",
    "encoded letter": "https://%63dn.assemblyai.com/upload/1",
    "twice encoded letter": "https://%2563dn.assemblyai.com/upload/1",
    "encoded full-width letter": "https://%EF%BD%83dn.assemblyai.com/upload/1",
    "soft hyphen": "https://cdn.assembly\u00adai.com/upload/1",
    "zero width": "https://cdn.assembly\u200bai.com/upload/1",
    "tab": "https://cdn.assem\tblyai.com/upload/1",
    "line end": "https://cdn.assem\r\nblyai.com/upload/1",
    "capitals": "HTTPS://CDN.AssemblyAI.COM/upload/1",
    "eu": "https://cdn.eu.assemblyai.com/upload/1",
    "port": "https://cdn.assemblyai.com:443/upload/1",
    "root": "https://cdn.assemblyai.com./upload/1",
}


@pytest.mark.parametrize("url", DISGUISES.values(), ids=DISGUISES)
def test_an_upload_is_known_in_every_disguise(url: str) -> None:
    assert is_known(Ref("upload", url.replace("{cdn}", "https://cdn.assemblyai.com")))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/talk.mp3",
        "https://storage.googleapis.com/aai-web-samples/5_common_sports_injuries.mp3",
        "https://github.com/AssemblyAI-Community/audio-examples/raw/main/20230607_me_canadian_wildfires.mp3",
        "https://assembly.ai/wildfires.mp3",
        "https://example.com/assemblyai.com/talk.mp3",
        "https://www.assemblyai.com/talk.mp3",
        "https://cdn.example.com/talk.mp3?from=assemblyai",
    ],
)
def test_other_urls_pass(url: str) -> None:
    assert not is_known(Ref("upload", url))


@pytest.mark.parametrize(
    "voice",
    [
        UUID,
        UUID.upper(),
        UUID.replace("-", ""),
        f"{{{UUID}}}",
        f"urn:uuid:{UUID}",
        f" {UUID}\t",
        UUID.replace("-", "\u2010"),
        UUID.replace("0", "\uff10"),
        UUID.replace("-", "%2D"),
    ],
)
def test_a_cloned_voice_is_known_however_its_uuid_is_written(voice: str) -> None:
    assert is_known(Ref("voice", voice))


@pytest.mark.parametrize("voice", ["jane", "aai-michael", "", "deadbeef", UUID[:-1]])
def test_a_stock_voice_is_everybodys(voice: str) -> None:
    assert not is_known(Ref("voice", voice))


def test_what_a_list_shows_is_cut() -> None:
    long = "x" * 100_000
    status, summary = describe("transcript", {"status": "error", "error": long, "audio_url": long, "completed": [long]})
    assert status == "error"
    assert len(summary) < 5000
    assert json.loads(summary)["completed"] is None
    assert json.loads(summary)["error"] == long[:2048]
