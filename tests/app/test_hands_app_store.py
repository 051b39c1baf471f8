"""The hand `app_store`, against a server that speaks as App Store Connect does."""

from __future__ import annotations

import gzip
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hands_server import Reply, as_reply, serving

from actp_supervise.clock import SystemWallClock
from app.hands import HandError, SetUpError, Wanted, open_hands

HEADER = "Title\tUnits\tDeveloper Proceeds\tCurrency of Proceeds\tCustomer Price"


class Connect:
    """What App Store Connect does: checks the token, and has a report for some days."""

    def __init__(self, public):
        self.public = public
        self.reports = {}
        self.queries = []
        self.tokens = []

    async def answer(self, request):
        token = request.headers["authorization"].removeprefix("Bearer ")
        try:
            claims = jwt.decode(
                token, self.public, algorithms=["ES256"], audience="appstoreconnect-v1"
            )
        except jwt.InvalidTokenError:
            return problem(401, "Provide a properly configured and signed bearer token")
        self.tokens.append((jwt.get_unverified_header(token), claims))
        self.queries.append(request.query)
        reply = self.reports.get(request.query["filter[reportDate]"])
        return reply or problem(404, "There were no sales for the date specified.")


def problem(status, detail):
    return as_reply({"errors": [{"status": str(status), "detail": detail}]}, status)


def report(*rows):
    text = "\n".join([HEADER, *rows, ""])
    return Reply(headers={"content-type": "application/a-gzip"}, body=gzip.compress(text.encode()))


@asynccontextmanager
async def connect(folder, *, wrong_key=False, **options):
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "key.p8").write_bytes(pem)
    known = ec.generate_private_key(ec.SECP256R1()) if wrong_key else key
    service = Connect(known.public_key())
    async with serving(service.answer) as url:
        wanted = [Wanted(name="app_store", options={**options, "api": url})]
        async with open_hands(wanted, variables(folder / "key.p8")) as hands:
            yield service, hands


def variables(path):
    return {
        "APPLE_KEY_ID": "KEY1",
        "APPLE_ISSUER_ID": "57246542-96fe",
        "APPLE_KEY_FILE": str(path),
        "APPLE_VENDOR_NUMBER": "80012345",
    }


def days(since, until):
    return {"since": since, "until": until}


async def test_sales_are_added_up_by_day_and_app(tmp_path):
    async with connect(tmp_path) as (service, hands):
        service.reports["2026-11-01"] = report(
            "Notes\t3\t0.70\tUSD\t0.99",
            "Notes\t2\t0.60\tEUR\t0.99",
            "Notes\t-1\t0.70\tUSD\t0.99",
            "Tasks\t10\t0\tUSD\t0",
        )
        answer = await hands.call("app_store_sales", days("2026-11-01", "2026-11-02"), key="k")
        assert answer["days"] == [
            {
                "day": "2026-11-01",
                "apps": [
                    {"app": "Notes", "units": 4, "proceeds": {"USD": "1.40", "EUR": "1.20"}},
                    {"app": "Tasks", "units": 10, "proceeds": {}},
                ],
            },
            {"day": "2026-11-02", "not_there": "There were no sales for the date specified."},
        ]


async def test_the_report_is_asked_for_as_apple_wants_it(tmp_path):
    async with connect(tmp_path, version="1_1") as (service, hands):
        await hands.call("app_store_sales", days("2026-11-01", "2026-11-01"), key="k")
        assert service.queries == [
            {
                "filter[frequency]": "DAILY",
                "filter[reportType]": "SALES",
                "filter[reportSubType]": "SUMMARY",
                "filter[vendorNumber]": "80012345",
                "filter[reportDate]": "2026-11-01",
                "filter[version]": "1_1",
            }
        ]


async def test_the_token_is_signed_by_es256_and_short_lived(tmp_path):
    async with connect(tmp_path) as (service, hands):
        await hands.call("app_store_sales", days("2026-11-01", "2026-11-01"), key="k")
        ((header, claims),) = service.tokens
        assert header == {"alg": "ES256", "kid": "KEY1", "typ": "JWT"}
        assert (claims["iss"], claims["aud"]) == ("57246542-96fe", "appstoreconnect-v1")
        assert timedelta(seconds=claims["exp"] - claims["iat"]) <= timedelta(minutes=20)
        issued = datetime.fromtimestamp(claims["iat"], UTC)
        assert abs(SystemWallClock().now() - issued) < timedelta(minutes=5)


async def test_a_key_that_is_refused_is_named_and_not_shown(tmp_path):
    async with connect(tmp_path, wrong_key=True) as (_, hands):
        with pytest.raises(HandError, match="App Store Connect refuses the key") as caught:
            await hands.call("app_store_sales", days("2026-11-01", "2026-11-01"), key="k")
        assert "PRIVATE" not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (problem(400, "The version is not valid."), "The version is not valid."),
        (Reply(status=503, body=b"<html>"), "answers with status 503"),
        (Reply(body=b"no gzip"), "cannot be unpacked"),
        (Reply(body=gzip.compress(b"Other\tColumns\n1\t2\n")), "not in the known form"),
        (Reply(body=gzip.compress(bytes(30_000_000))), "too long"),
    ],
)
async def test_what_is_no_report_is_the_tool_s_error(reply, why, tmp_path):
    async with connect(tmp_path) as (service, hands):
        service.reports["2026-11-01"] = reply
        with pytest.raises(HandError, match=why):
            await hands.call("app_store_sales", days("2026-11-01", "2026-11-01"), key="k")


async def test_apple_away_is_the_tool_s_error(tmp_path):
    async with connect(tmp_path):
        pass
    wanted = [Wanted(name="app_store", options={"api": "http://127.0.0.1:9"})]
    async with open_hands(wanted, variables(tmp_path / "key.p8")) as hands:
        with pytest.raises(HandError, match="App Store Connect is away"):
            await hands.call("app_store_sales", days("2026-11-01", "2026-11-01"), key="k")


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), ("nonsense", "no private")])
async def test_a_key_file_that_cannot_be_used_is_an_error_of_the_opening(content, why, tmp_path):
    if content is not None:
        (tmp_path / "key.p8").write_text(content)
    with pytest.raises(SetUpError, match=f"APPLE_KEY_FILE cannot be used: .*{why}"):
        async with open_hands([Wanted(name="app_store")], variables(tmp_path / "key.p8")):
            pass


async def test_too_many_days_are_refused_before_apple_is_asked(tmp_path):
    async with connect(tmp_path) as (service, hands):
        with pytest.raises(HandError, match="Ask for 1 to 31 days"):
            await hands.call("app_store_sales", days("2026-10-01", "2026-11-30"), key="k")
        assert service.queries == []
