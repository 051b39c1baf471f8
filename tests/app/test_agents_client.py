"""The client of Claude's API that an agent is given."""

from __future__ import annotations

import ssl

import pytest

from app.agents.client import make_client


@pytest.mark.parametrize("base_url", [None, "https://claude.example.org", "http://127.0.0.1:9"])
def test_all_clients_share_the_certificates_that_are_trusted(base_url, monkeypatch):
    make_client("sk-ant-first", None)
    read = []
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_: read.append(1))
    client = make_client("sk-ant-x", base_url)
    assert read == []
    assert client.api_key == "sk-ant-x"
    assert str(client.base_url).rstrip("/") == (base_url or "https://api.anthropic.com")
    for variable in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    make_client("sk-ant-y", base_url)
    assert read == [], "nor does the way by a proxy read them"
