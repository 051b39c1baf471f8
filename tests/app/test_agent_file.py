"""The file of agents: what it can say, what is refused and how, and what comes of it."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from datetime import date
from pathlib import Path

import pytest

from app.agent_file import OWN_KEYS, line_of
from app.agents.prices import load_prices
from app.agents.spec import AGENT_SPECS, PROMPTED_CLASS, ReleaseTool
from app.banner import agents_in_full
from app.launcher import AgentLauncher, offered_hands, with_unknown_models
from app.settings import AgentSettings, SettingsError, Source, load_settings, settings_of

SUPPORT = """
    [agents.support]
    prompt = "You answer questions of customers."
"""


@pytest.fixture
def load(tmp_path):
    def load(text, **environ):
        path = tmp_path / "agents.toml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return load_settings({"WORKER_AGENTS": str(path), **environ}, env_file=None)

    return load


def wrong(load, text, **environ):
    with pytest.raises(SettingsError) as caught:
        load(text, **environ)
    message = str(caught.value)
    assert "\n" not in message
    assert "agents.toml" in message
    return message.rpartition("agents.toml")[2]


def agent(settings, agent_id):
    return next(each for each in settings.agents if each.agent_id == agent_id)


def test_without_a_file_there_are_the_four_as_they_ship(tmp_path):
    settings = load_settings({}, env_file=tmp_path / ".env")
    assert tuple(each.spec for each in settings.agents) == AGENT_SPECS


def test_the_file_lies_beside_the_env_file_unless_a_variable_says_otherwise(tmp_path):
    (tmp_path / "agents.toml").write_text(textwrap.dedent(SUPPORT))
    env_file = tmp_path / ".env"
    assert [each.agent_id for each in load_settings({}, env_file=env_file).agents] == ["support"]
    assert len(load_settings({"WORKER_AGENTS": ""}, env_file=env_file).agents) == 4
    assert len(load_settings({}, env_file=None).agents) == 4


def test_the_file_lists_all_agents_that_there_are(load):
    settings = load(SUPPORT + "\n    [agents.content]\n")
    assert [each.agent_id for each in settings.agents] == ["support", "content"]
    support = agent(settings, "support")
    assert (support.class_path, support.spec.prompt) == (
        PROMPTED_CLASS,
        "You answer questions of customers.",
    )
    assert (support.spec.env_prefix, support.spec.enable_flag) == (
        "SUPPORT_AGENT_",
        "ENABLE_SUPPORT_AGENT",
    )
    assert (support.enabled, support.single, support.workers) == (True, False, 1)


def test_an_agent_of_a_shipped_name_is_that_one_with_what_the_file_says(load):
    (content,) = load("[agents.content]\nmodel = 'claude-opus-5-5'\n").agents
    shipped = next(spec for spec in AGENT_SPECS if spec.agent_id == "content")
    assert content.spec == shipped
    assert (content.model, content.poll_interval) == ("claude-opus-5-5", 60.0)


def test_an_agent_of_a_shipped_name_with_a_prompt_is_another_agent(load):
    (content,) = load("[agents.content]\nprompt = 'You write.'\n").agents
    assert content.class_path == PROMPTED_CLASS
    assert (content.spec.routines, content.spec.tables) == ((), ())


def test_a_shipped_class_under_another_name_needs_its_tables(load):
    text = "[agents.texts]\nclass = 'app.agents.content:ContentCreationDomainAgent'\n"
    (texts,) = load(text).agents
    assert texts.spec.tables == ("actp_viral_templates",)


IN_FILE = {
    "enabled": "false",
    "model": '"claude-opus-5-5"',
    "poll_interval": "7.5",
    "daily_budget_usd": "5",
    "task_budget_usd": "0.5",
    "effort": '"high"',
    "max_tokens": "9000",
    "max_turns": "12",
    "fallback_model": '"claude-haiku-4-5"',
    "tool_timeout": "60",
    "approval_timeout": "3600",
    "isolation": '"thread"',
    "single": "true",
    "workers": "3",
}


def test_every_setting_of_an_agent_can_be_in_the_file(load):
    assert {each.key for each in settings_of(AgentSettings).values()} == {*IN_FILE, "class"}
    lines = "\n".join(f"{key} = {value}" for key, value in IN_FILE.items())
    (support,) = load(f"[agents.support]\nprompt = 'x'\n{lines}\n").agents
    found = {each.key: getattr(support, name) for name, each in settings_of(AgentSettings).items()}
    assert found == {
        "class": PROMPTED_CLASS,
        "enabled": False,
        "model": "claude-opus-5-5",
        "poll_interval": 7.5,
        "daily_budget_usd": 5.0,
        "task_budget_usd": 0.5,
        "effort": "high",
        "max_tokens": 9000,
        "max_turns": 12,
        "fallback_model": "claude-haiku-4-5",
        "tool_timeout": 60.0,
        "approval_timeout": 3600.0,
        "isolation": "thread",
        "single": True,
        "workers": 3,
    }
    assert "line 3: agents.support.enabled is false" in support.why_disabled


def test_a_variable_wins_over_the_file(load):
    text = SUPPORT + "    workers = 3\n    model = 'one'\n"
    (support,) = load(text, SUPPORT_AGENT_MODEL="two", ENABLE_SUPPORT_AGENT="no").agents
    assert (support.model, support.workers, support.enabled) == ("two", 3, False)
    assert support.why_disabled == "ENABLE_SUPPORT_AGENT is false"
    assert support.sources["model"] is Source.ENVIRONMENT
    assert support.sources["workers"] is Source.FILE
    assert support.sources["effort"] is Source.DEFAULT


def test_a_slip_of_the_pen_in_a_variable_of_an_agent_of_the_file_is_warned_of(load):
    warnings = load(SUPPORT, SUPPORT_AGENT_MODLE="x").warnings
    meant = "SUPPORT_AGENT_MODLE is no setting of this program; did you mean SUPPORT_AGENT_MODEL?"
    assert meant in warnings


def test_a_prompt_may_stand_in_a_file_of_its_own(load, tmp_path):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "support.md").write_text("\nYou are kind.\n")
    (support,) = load("[agents.support]\nprompt = 'file:prompts/support.md'\n").agents
    assert support.spec.prompt == "You are kind."


def test_tools_approvals_and_servers_are_read(load):
    (support,) = load(
        SUPPORT
        + """
    tools = ["stripe", {name = "web_search", max_uses = 3}]
    approve = ["stripe_*"]
    [agents.support.mcp.time]
    command = "mcp-server-time"
    env = {ZONE = "${ZONE}"}
    [agents.support.mcp.crm]
    url = "https://mcp.example.com"
"""
    ).agents
    assert [(hand.name, dict(hand.options)) for hand in support.spec.hands] == [
        ("stripe", {}),
        ("web_search", {"max_uses": 3}),
        (
            "mcp",
            {
                "time": {"command": "mcp-server-time", "env": {"ZONE": "${ZONE}"}},
                "crm": {"url": "https://mcp.example.com"},
            },
        ),
    ]
    assert support.spec.approve == ("stripe_*",)


def test_the_file_changes_the_time_of_a_shipped_routine_and_leaves_one_out(load):
    (revenue,) = load("""
        [agents.revenue.routines]
        run_daily_check = "30 7 * * *"
        run_cost_audit = false
        weekend = {cron = "0 10 * * 6", goal = "Look at the week."}
    """).agents
    routines = {each.method: (each.cron, each.goal) for each in revenue.spec.routines}
    assert routines == {
        "run_daily_check": ("30 7 * * *", None),
        "run_weekly_report": ("0 20 * * 0", None),
        "weekend": ("0 10 * * 6", "Look at the week."),
    }


WRONG = {
    "[agents.support\n": ", line 1: expected ']' at the end of a table declaration",
    "": ": names no agent; write [agents.ID] for each",
    "[agnets.support]\n": ", line 1: agnets: is no key here, did you mean 'agents'?",
    "[agents.Support]\n": ", line 1: agents.Support: an agent's name has at most 40 small letters",
    "[agents.a]\nprompt = 'x'\nmodle = 'y'\n": ", line 3: agents.a.modle: is no key here, did you",
    "[agents.a]\nprompt = 'x'\n\n# so\nworkers = 0\n": ", line 5: agents.a.workers: must be a",
    "[agents.a]\nprompt = 'x'\nmodel = []\n": ", line 3: agents.a.model: must be a text, a number",
    "[agents.a]\nprompt = 'x'\nmodel = ' '\n": ", line 3: agents.a.model: is empty",
    "[agents.a]\nprompt = ''\n": ", line 2: agents.a.prompt: is empty",
    "[agents.a]\nprompt = 7\n": ", line 2: agents.a.prompt: must be a text, in quotes",
    "[agents.a]\nprompt = 'file:no.md'\n": ", line 2: agents.a.prompt: ",
    "[agents.a]\nmodel = 'x'\n": ", line 1: agents.a: needs a prompt, or a class",
    "[agents.a]\nclass = 'm:C'\nprompt = 'x'\n": ", line 3: agents.a.prompt: stands in place of a",
    "[agents.a]\nclass = 'module.Class'\n": ", line 2: agents.a.class: must be an import path",
    "[agents.a]\nprompt = 'x'\ntools = 'stripe'\n": ", line 3: agents.a.tools: must be a list",
    "[agents.a]\nprompt = 'x'\ntools = ['strip']\n": (
        ", line 3: agents.a.tools: there is no tool 'strip', did you mean 'stripe'?"
    ),
    "[agents.a]\nprompt = 'x'\ntools = [{max_uses = 1}]\n": ", line 3: agents.a.tools: must hold",
    "[agents.a]\nprompt = 'x'\ntools = ['http', 'http']\n": ", line 3: agents.a.tools: names",
    "[agents.a]\nprompt = 'x'\napprove = [1]\n": ", line 3: agents.a.approve: must be a text",
    "[agents.a]\nprompt = 'x'\nroutines.r = '0 25 * * *'\n": (
        ", line 3: agents.a.routines.r: bad hour '25' in cron expression '0 25 * * *'"
    ),
    "[agents.a]\nprompt = 'x'\n[agents.a.routines]\nr = {goal = 'g'}\n": (
        ", line 4: agents.a.routines.r: needs a time"
    ),
    "[agents.a]\nprompt = 'x'\n[agents.a.routines]\nr = {cron = '@daily', goal = ''}\n": (
        ", line 4: agents.a.routines.r.goal: is empty"
    ),
    "[agents.a]\nprompt = 'x'\n[agents.a.routines]\n'a b' = '@daily'\n": (
        ", line 4: agents.a.routines.a b: a routine's name has letters"
    ),
    "[agents.a]\nprompt = 'x'\n[agents.a.mcp.time]\nargs = []\n": (
        ", line 3: agents.a.mcp.time: needs a command or a url, and not both"
    ),
    "[agents.a]\nprompt = 'x'\n[agents.a.mcp.t]\ncomand = 'x'\n": (
        ", line 4: agents.a.mcp.t.comand: is no key here, did you mean 'command'?"
    ),
    "[agents.acquisition.about]\nideal_costumer = 'x'\n": (
        ", line 2: agents.acquisition.about.ideal_costumer: is no key here, did you mean "
        "'ideal_customer'?"
    ),
    "[agents.content.about]\nbrand = ''\n": ", line 2: agents.content.about.brand: is empty",
    "[agents.content.about]\nbrand = 7\n": ", line 2: agents.content.about.brand: must be a text",
    "[agents.social.release]\narguments = {}\n": (
        ", line 1: agents.social.release: needs the name of a tool"
    ),
    "[agents.social.release]\ntool = 't'\narguments = { url = 'traget' }\n": (
        ", line 3: agents.social.release.arguments.url: there is no field 'traget', did you mean "
        "'target'?"
    ),
    "[agents]\na = 7\n": ", line 2: agents.a: must be a table",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items(), ids=lambda text: repr(text)[:40])
def test_an_error_names_file_line_and_key(load, text, message):
    assert wrong(load, text).startswith(message)


def test_an_agent_needs_a_class_or_a_prompt(load):
    assert "needs a prompt, or a class" in wrong(load, "[agents.a]\nworkers = 2\n")
    text = "[agents.a]\nworkers = 2\n"
    (by_variable,) = load(text, A_AGENT_CLASS="package.module:Class").agents
    assert by_variable.class_path == "package.module:Class"


def test_two_agents_with_the_same_variables_are_refused(load):
    text = "[agents.my-own]\nprompt = 'x'\n[agents.my_own]\nprompt = 'y'\n"
    assert wrong(load, text) == (
        ", line 3: agents.my_own: its variables would begin with MY_OWN_AGENT_ as those of "
        "'my-own' do"
    )


def test_a_file_that_cannot_be_read_is_named(load, tmp_path):
    path = tmp_path / "agents.toml"
    path.write_bytes(b"[agents.a]\nprompt = '\xff'\n")
    with pytest.raises(SettingsError, match=r"agents\.toml cannot be read"):
        load_settings({"WORKER_AGENTS": str(path)}, env_file=None)


def test_a_class_in_the_file_that_cannot_be_an_agent_is_named_with_its_line(load):
    settings = load("[agents.a]\n\nclass = 'no.such:Class'\n")
    with pytest.raises(SettingsError, match=r"line 3: agents\.a\.class: cannot import 'no\.such'"):
        AgentLauncher(settings, store=None, instance="i")


def test_the_line_of_a_key_is_found_behind_texts_that_look_like_it():
    text = 'a = """\nb = 1\n[t]\nb = 2\n"""\n# b\n[t]\nx = 1\nb = [\n  1,\n]\n[u]\nb = 3\n'
    assert line_of(text, ("t", "b")) == 9
    assert line_of(text, ("u", "b")) == 13
    assert line_of(text, ("t",)) == 7
    assert line_of(text, ("t", "c")) is None


def test_the_dry_run_shows_what_came_of_file_and_environment(load):
    settings = load(
        SUPPORT
        + """
    model = "claude-opus-5-6"
    workers = 3
    tools = ["web_search"]
    [agents.support.routines]
    morning = {cron = "0 8 * * *", goal = "Sum up."}
    [agents.content]
    enabled = false
    [agents.content.about]
    brand = "Engines."
    [agents.social.release]
    tool = "mcp__poster__publish"
    [agents.revenue]
""",
        SUPPORT_AGENT_EFFORT="high",
        TELEGRAM_BOT_TOKEN="4711:secret",
        TELEGRAM_CHAT_ID="1",
    )
    prices = load_prices(None)
    settings = with_unknown_models(settings, prices)
    assert any("claude-opus-5-6 of support is not in the price" in w for w in settings.warnings)
    launcher = AgentLauncher(settings, store=None, instance="i")
    text = agents_in_full(settings, prices, launcher.routines(), date(2026, 11, 29))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "prompt 'You answer questions of customers.' (file)" in lines
    assert "effort high (environment)" in lines
    assert "workers 3 (file)" in lines
    assert "poll_interval 30 (default)" in lines
    assert "tools web_search" in lines
    assert "about brand" in lines
    assert "release mcp__poster__publish" in lines
    assert "tools telegram (their keys are set)" in lines
    assert "goes without stripe: STRIPE_SECRET_KEY must be set" in lines
    assert "routine morning at 0 8 * * *: Sum up." in lines
    (model,) = (line for line in lines if line.startswith("model claude-opus-5-6"))
    assert model.endswith("UNKNOWN: as the dearest (file)")
    assert any(line.startswith("content (disabled: ") for line in lines)


def test_a_known_model_is_not_warned_of_whatever_its_snapshot(load):
    prices = load_prices(None)
    assert prices.knows("claude-sonnet-5-5")
    assert prices.knows("claude-sonnet-5-5-20261101")
    assert with_unknown_models(load(SUPPORT), prices).warnings == load(SUPPORT).warnings


def test_no_field_of_an_agents_spec_is_forgotten_when_it_comes_from_the_file(load):
    """What the file can say reaches the spec, whatever order it is said in."""
    (support,) = load(SUPPORT + "    approve = ['*']\n    tools = ['http']\n").agents
    said = {
        field.name
        for field in dataclasses.fields(support.spec)
        if getattr(support.spec, field.name) != field.default
    }
    assert {"prompt", "hands", "approve", "given", "place"} <= said


# What the shipped ones are about, what they have where keys are set, and what carries things out.


def test_what_the_file_says_of_the_business_is_given_to_the_agent(load, tmp_path):
    (tmp_path / "voice.md").write_text("Plain.\n")
    (content,) = load(
        "[agents.content.about]\nbrand = ' Engines. '\nvoice = 'file:voice.md'\n"
    ).agents
    assert content.spec.about == {"brand": "Engines.", "voice": "Plain."}


def test_a_class_of_one_s_own_may_be_told_anything(load):
    text = "[agents.content]\nclass = 'several_workers:Slow'\n"
    (content,) = load(text + "[agents.content.about]\nweather = 'Fine.'\n").agents
    assert content.spec.about == {"weather": "Fine."}


def offered(settings):
    """Return the names of the hands that the revenue agent asks for and may go without."""
    (config,) = settings.agents
    return [wanted.name for wanted in offered_hands(config, settings)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["stripe", "app_store", "telegram"]),
        ("tools = []", []),
        ("tools = ['web_search']", []),
        ("class = 'several_workers:Slow'", []),
        ("prompt = 'You count.'", []),
    ],
)
def test_the_revenue_agent_has_its_hands_unless_the_file_says_which_it_has(load, text, names):
    assert offered(load(f"[agents.revenue]\n{text}\n")) == names


def test_a_class_that_a_variable_names_has_no_hands_of_the_shipped_one(load):
    settings = load("[agents.revenue]\n", REVENUE_AGENT_CLASS="several_workers:Slow")
    assert offered(settings) == []


def test_offered_hands_need_no_key_and_read_alone(load):
    settings = load("[agents.revenue]\n")
    AgentLauncher(settings, store=None, instance="i")  # which refuses a hand that lacks a key
    (config,) = settings.agents
    stripe, _, telegram = offered_hands(config, settings)
    assert stripe.options["refunds"] is False
    assert stripe.options["timezone"] == str(settings.timezone)
    assert (telegram.for_model, telegram.optional) == (False, True)


# The example.

EXAMPLE = Path(__file__).parents[2] / "agents.example.toml"


def test_the_example_is_read_and_its_agents_can_be_started():
    settings = load_settings({"WORKER_AGENTS": str(EXAMPLE)}, env_file=None)
    assert [each.agent_id for each in settings.agents] == [
        "support",
        "content",
        "acquisition",
        "social",
        "revenue",
    ]
    launcher = AgentLauncher(settings, store=None, instance="i")
    jobs = {job.name: (job.cron, job.disabled) for job in launcher.routines()}
    assert jobs["support.morning"] == ("30 7 * * 1-5", None)
    assert jobs["content.run_daily_pipeline"] == ("30 7 * * *", None)
    assert not any(
        "price table" in w for w in with_unknown_models(settings, load_prices()).warnings
    )


def test_the_example_names_every_key():
    text = EXAMPLE.read_text()
    keys = {each.key for each in settings_of(AgentSettings).values()} - {"fallback_model"}
    named = {key for key in (*keys, *OWN_KEYS) if re.search(rf"\b{key}\b", text)}
    assert named == {*keys, *OWN_KEYS}


def test_what_is_commented_out_in_the_example_can_be_read_too(tmp_path):
    lines = EXAMPLE.read_text().splitlines()
    shown = [
        re.sub(r"^# (\[|command|args|url|headers|env|tool|arguments|class|run_daily)", r"\1", line)
        for line in lines
    ]
    assert shown != lines
    path = tmp_path / "agents.toml"
    path.write_text("\n".join(shown))
    settings = load_settings({"WORKER_AGENTS": str(path)}, env_file=None)
    assert "own" in [each.agent_id for each in settings.agents]
    social = agent(settings, "social").spec.release
    assert social == ReleaseTool(
        tool="mcp__poster__publish", arguments={"url": "target", "text": "content"}
    )


def test_every_key_is_in_the_reference():
    reference = (EXAMPLE.parent / "docs" / "reference" / "agents-file.md").read_text()
    keys = {each.key for each in settings_of(AgentSettings).values()}
    tables = [f"[agents.ID.{key}]" for key in ("about", "release", "routines", "mcp.NAME")]
    named = (*keys, "prompt", "tools", "approve", *tables)
    missing = [key for key in named if f"`{key}`" not in reference]
    assert missing == []
