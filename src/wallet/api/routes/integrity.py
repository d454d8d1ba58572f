"""GET /integrity: the results of the integrity monitor."""

from typing import Final

from wallet.access.principal import Scope
from wallet.api.contract.examples import EXAMPLE_REPORT
from wallet.api.contract.problems import Code, Refused
from wallet.api.contract.reply import Reply, json_reply
from wallet.api.contract.route import ANY, Route
from wallet.api.contract.schemas import IntegrityResponse
from wallet.api.edge.exchange import Exchange
from wallet.api.services import Services
from wallet.queries.reading import ReadFailed

_DESCRIPTION: Final = """\
Cheap enough to ask every few seconds. New batches are checked every 5 seconds; a full check in the background covers \
everything else. The report has its age and duration. **starting**: not everything has been checked once yet. \
**clean**: every promise holds and nothing is overdue; the summary says what is under way. **behind**: nothing is \
lost, see `warnings`. **broken**: `faults` names the first row of each promise that is broken, until a full check \
finds it repaired. The HTTP status is 200 in all four.
"""


async def get_integrity(services: Services, exchange: Exchange) -> Reply:
    """Returns the report. The status is 200 even if a promise is broken."""
    try:
        return json_reply(await services.integrity.report())
    except ReadFailed as error:
        raise Refused(Code.UNAVAILABLE, f"{error} The report can't be read; try again.") from None


ROUTES: Final = (
    Route(
        method="GET",
        path="/integrity",
        handler=get_integrity,
        access=Scope.OPERATE,
        operation_id="getIntegrity",
        tag="operating",
        summary="Are the books right?",
        description=_DESCRIPTION,
        success="What the integrity monitor has found, good or bad.",
        response=IntegrityResponse,
        response_example=EXAMPLE_REPORT,
        codes=(Code.UNAVAILABLE, *ANY),
    ),
)
