"""The hand `app_store`: sales by day, from App Store Connect's reports."""

from __future__ import annotations

import csv
import io
import zlib
from contextlib import asynccontextmanager
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, Final

import trio
from pydantic import Field

from actp_supervise.clock import SystemWallClock

from .contract import (
    Address,
    Arguments,
    Hand,
    HandError,
    Json,
    Kind,
    Options,
    SetUp,
    SetUpError,
    Use,
    Variable,
    options_of,
    tool_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    import httpx

    from actp_supervise.clock import WallClock

API: Final = "https://api.appstoreconnect.apple.com"

AUDIENCE: Final = "appstoreconnect-v1"

TOKEN_LIFE: Final = 600.0
"""Seconds that a token is good for; Apple takes at most twenty minutes."""

TIMEOUT: Final = 120.0
"""Seconds that a tool may take: each day is a request."""

REQUEST_TIMEOUT: Final = 30.0
"""Seconds that one request may take."""

MOST_DAYS: Final = 31
"""Days of one answer."""

MOST_BYTES: Final = 20_000_000
"""Bytes of a report, unpacked."""


class AppStoreOptions(Options):
    """Which form of the report is asked for, and where."""

    api: Address = API

    version: Annotated[str, Field(pattern=r"^\d_\d$")] | None = None
    """Apple's present one where not given."""


class AppStoreSales(Arguments):
    """Return the App Store's sales by day and app: units, and proceeds by currency.

    A day's report comes out on the day after, in the morning of Pacific time.
    """

    since: Annotated[date, Field(description="The first day.")]
    until: Annotated[date, Field(description="The last day; at most 31 days.")]


class AppStoreConnect:
    """Reports of App Store Connect.

    Args:
        client: A client whose base address is Apple's.
        key_id: The key's name.
        issuer_id: Of the team.
        key: The private key, as PEM.
        vendor: Whose sales.
        version: Of the report.
        clock: By which tokens end.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        key_id: str,
        issuer_id: str,
        key: str,
        vendor: str,
        version: str | None = None,
        clock: WallClock | None = None,
    ) -> None:
        self._client = client
        self._key_id = key_id
        self._issuer_id = issuer_id
        self._key = key
        self._vendor = vendor
        self._version = version
        self._clock = clock or SystemWallClock()

    async def sales(self, given: AppStoreSales, use: Use) -> Json:
        """Return the sales of some days."""
        count = (given.until - given.since).days + 1
        if not 1 <= count <= MOST_DAYS:
            raise HandError(f"Ask for 1 to {MOST_DAYS} days, since before until.")
        days = [given.since + timedelta(days=number) for number in range(count)]
        return {"days": [await self._day(day) for day in days]}

    async def _day(self, day: date) -> dict[str, Any]:
        report = await self._report(day)
        told: dict[str, Any] = {"day": day.isoformat()}
        if isinstance(report, str):
            return {**told, "not_there": report}
        return {**told, "apps": sales_of(csv.DictReader(report, delimiter="\t"))}

    async def _report(self, day: date) -> io.StringIO | str:
        """Return a day's report; or why there is none, where that is what Apple says."""
        import httpx

        asked = {
            "filter[frequency]": "DAILY",
            "filter[reportType]": "SALES",
            "filter[reportSubType]": "SUMMARY",
            "filter[vendorNumber]": self._vendor,
            "filter[reportDate]": day.isoformat(),
            **({"filter[version]": self._version} if self._version else {}),
        }
        headers = {"Authorization": f"Bearer {self.token()}", "Accept": "application/a-gzip"}
        try:
            response = await self._client.get(
                "/v1/salesReports", params=asked, headers=headers, timeout=REQUEST_TIMEOUT
            )
        except httpx.HTTPError as error:
            raise HandError(f"App Store Connect is away: {type(error).__name__}.") from None
        if response.status_code == 200:
            return io.StringIO(_unpacked(response.content))
        if response.status_code == 404:
            return _why(response)
        if response.status_code in {401, 403}:
            raise HandError(
                "App Store Connect refuses the key: APPLE_KEY_ID, APPLE_ISSUER_ID and "
                "APPLE_KEY_FILE must be of one key, which has the role Sales or Finance."
            )
        raise HandError(f"App Store Connect: {_why(response)}")

    def token(self) -> str:
        """Return a token for one request."""
        import jwt

        now = self._clock.now().timestamp()
        claims = {
            "iss": self._issuer_id,
            "iat": int(now),
            "exp": int(now + TOKEN_LIFE),
            "aud": AUDIENCE,
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._key_id})


def _unpacked(content: bytes) -> str:
    unpacker = zlib.decompressobj(wbits=47)  # gzip, whatever its header says
    try:
        text = unpacker.decompress(content, MOST_BYTES)
    except zlib.error:
        raise HandError("App Store Connect sent a report that cannot be unpacked.") from None
    if unpacker.unconsumed_tail:
        raise HandError("The report is too long.")
    return text.decode("utf-8", "replace")


def _why(response: httpx.Response) -> str:
    """Return the reason that Apple gives."""
    try:
        return str(response.json()["errors"][0]["detail"])[:300]
    except (ValueError, LookupError, TypeError):
        return f"it answers with status {response.status_code}"


def sales_of(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add up the rows of a report by app; what a row brought is units times proceeds.

    Raises:
        HandError: If it is no such report.
    """
    units: dict[str, Decimal] = {}
    proceeds: dict[str, dict[str, Decimal]] = {}
    for row in rows:
        try:
            app = row["Title"]
            count = Decimal(row["Units"])
            currency = row["Currency of Proceeds"] or "?"
            brought = count * Decimal(row["Developer Proceeds"] or "0")
        except (KeyError, TypeError, InvalidOperation):
            raise HandError("The report of App Store Connect is not in the known form.") from None
        units[app] = units.get(app, Decimal(0)) + count
        of_the_app = proceeds.setdefault(app, {})
        if brought:
            of_the_app[currency] = of_the_app.get(currency, Decimal(0)) + brought
    return [
        {
            "app": app,
            "units": int(units[app]),
            "proceeds": {currency: str(amount) for currency, amount in proceeds[app].items()},
        }
        for app in sorted(units)
    ]


@asynccontextmanager
async def open_app_store(setup: SetUp) -> AsyncIterator[Hand]:
    """Open the hand."""
    import httpx
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    options = options_of(AppStoreOptions, setup.options, "app_store")
    variables = setup.variables
    try:
        path = await trio.Path(variables["APPLE_KEY_FILE"]).expanduser()
        key = await path.read_text("ascii")
        load_pem_private_key(key.encode(), None)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no private key"
        raise SetUpError(f"app_store: APPLE_KEY_FILE cannot be used: {why}") from None
    async with httpx.AsyncClient(base_url=options.api) as client:
        reports = AppStoreConnect(
            client,
            key_id=variables["APPLE_KEY_ID"],
            issuer_id=variables["APPLE_ISSUER_ID"],
            key=key,
            vendor=variables["APPLE_VENDOR_NUMBER"],
            version=options.version,
        )
        tool = tool_of(
            "app_store_sales", AppStoreSales, reports.sales, effect="read", timeout=TIMEOUT
        )
        yield Hand(name="app_store", tools=lambda: (tool,), secrets=(key,))


APP_STORE: Final = Kind(
    name="app_store",
    summary="Sales by day",
    options=AppStoreOptions,
    open=open_app_store,
    variables=(
        Variable(name="APPLE_KEY_ID", purpose="A key of App Store Connect", secret=True),
        Variable(name="APPLE_ISSUER_ID", purpose="The issuer that its page shows"),
        Variable(name="APPLE_KEY_FILE", purpose="The file of the key (.p8)"),
        Variable(name="APPLE_VENDOR_NUMBER", purpose="Whose sales, from Payments and Reports"),
    ),
    package="jwt",
)
