"""What `.env` says reaches the code of agents, and no text that is shown."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from app.agents.prices import load_prices
from app.banner import agents_in_full
from app.environment import SharedEnvironment
from app.settings import load_settings, names_a_secret


@pytest.fixture
def env_file(tmp_path):
    return tmp_path / ".env"


def test_the_environment_gets_what_only_the_file_has(env_file):
    environ = {"HOME": "/home", "NOTES_DIR": ""}
    env_file.write_text("NOTES_DIR=notes\nCRM_TOKEN=tok-123456\nSTRIPE_SECRET_KEY=sk_1234567\n")
    shared = SharedEnvironment(environ)
    shared.share(load_settings(shared.given, env_file=env_file).only_in_file)
    assert environ == {
        "HOME": "/home",
        "NOTES_DIR": "",  # an empty value hides the file's, as for our own settings
        "CRM_TOKEN": "tok-123456",
        "STRIPE_SECRET_KEY": "sk_1234567",
    }
    assert shared.given == {"HOME": "/home", "NOTES_DIR": ""}


def test_a_file_that_was_changed_is_read_anew_though_the_environment_has_its_old_values(env_file):
    environ = {}
    shared = SharedEnvironment(environ)
    for text in ("WORKER_DRAIN_TIMEOUT=3\nCRM=1\n", "WORKER_DRAIN_TIMEOUT=4\n"):
        env_file.write_text(text)
        settings = load_settings(shared.given, env_file=env_file)
        shared.share(settings.only_in_file)
    assert settings.drain_timeout == 4
    assert environ == {"WORKER_DRAIN_TIMEOUT": "4"}


def test_what_was_put_in_the_place_of_a_variable_is_put_back(env_file):
    environ = {"ANTHROPIC_API_KEY": "real"}
    shared = SharedEnvironment(environ)
    shared.share({"ANTHROPIC_API_KEY": "simulated"})
    assert environ == {"ANTHROPIC_API_KEY": "simulated"}
    shared.share({})
    assert environ == {"ANTHROPIC_API_KEY": "real"}


def test_the_dry_run_names_what_it_found_in_the_file_and_shows_no_value(env_file):
    env_file.write_text("CRM_TOKEN=tok-123456\nNOTES_DIR=the-notes\n")
    settings = load_settings({}, env_file=env_file)
    text = agents_in_full(replace(settings, agents=()), load_prices(), [], date(2026, 11, 29))
    assert ".env       CRM_TOKEN, NOTES_DIR" in text
    assert "tok-123456" not in text
    assert "the-notes" not in text


def test_what_the_file_calls_a_secret_is_taken_out_of_texts(env_file):
    env_file.write_text("CRM_TOKEN=tok-123456\nNOTES_DIR=the-notes\nPIN_KEY=1234\n")
    settings = load_settings({}, env_file=env_file)
    assert "tok-123456" in settings.secrets
    assert "the-notes" not in settings.secrets
    assert "1234" not in settings.secrets  # too short to be taken out of everything


@pytest.mark.parametrize("name", ["CRM_TOKEN", "DB_PASSWORD", "OPENAI_API_KEY", "SENTRY_DSN"])
def test_a_secret_is_known_by_its_name(name):
    assert names_a_secret(name)
    assert not names_a_secret(f"{name}_FILE")
