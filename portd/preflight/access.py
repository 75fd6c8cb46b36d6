"""Can we get there, and is the way safe?"""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING

from portd.preflight.findings import error, fine, note, warning

if TYPE_CHECKING:
    from portd.net.endpoint import Endpoint
    from portd.preflight.findings import Finding
    from portd.preflight.survey import Survey, Unreachable

CERTIFICATE_DAYS = 14  # warn when less is left


def is_local(endpoint: Endpoint) -> bool:
    """The end runs on this machine, as far as its address tells."""
    if endpoint.path is not None or endpoint.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(endpoint.host).is_loopback
    except ValueError:
        return False


def unreachable(side: str, endpoint: Endpoint, problem: Unreachable) -> Finding:
    """The end cannot be surveyed."""
    action = f"check host, port, TLS and firewalls of {endpoint.display}"
    if problem.hint:
        action = problem.hint
    elif problem.refused:
        action = f"check {side}_password and the user in the URL"
    return error(
        f"{side}.reachable",
        str(problem),
        "there is no sync without it",
        action,
        exit_code=os.EX_NOPERM if problem.refused else os.EX_UNAVAILABLE,
    )


def reached(side: str, endpoint: Endpoint, survey: Survey) -> list[Finding]:
    """The end answered; what its connection is worth."""
    user = f" as {survey.user}" if survey.user else ""
    findings = [fine(f"{side}.reachable", f"{survey.identity.name} at {endpoint.display}{user}")]
    if survey.info.get("loading") == "1":
        findings.append(
            error(
                f"{side}.loading",
                "it is still loading its data",
                "it refuses commands",
                "wait until it has loaded",
                exit_code=os.EX_UNAVAILABLE,
            )
        )
    return findings + _tls(side, endpoint, survey)


def _tls(side: str, endpoint: Endpoint, survey: Survey) -> list[Finding]:
    subject = f"{side}.tls"
    if endpoint.tls is None:
        if is_local(endpoint):
            return []
        return [
            note(
                subject,
                "the connection is not encrypted",
                "data and password can be read on the way",
                "use rediss:// where the server offers TLS, or a private network",
            )
        ]
    if not endpoint.tls.verify:
        return [
            warning(
                subject,
                f"{survey.tls_version}, but the certificate is not checked",
                "anyone on the way can read and change the data",
                f"leave {side}_tls_insecure out and give {side}_tls_ca",
            )
        ]
    days = survey.certificate_days
    if days is not None and days < CERTIFICATE_DAYS:
        return [
            warning(
                subject,
                f"{survey.tls_version}; the certificate expires in {days:.0f} days",
                "new connections fail from then on",
                "renew it",
            )
        ]
    return [fine(subject, f"{survey.tls_version}" + (f", certificate valid for {days:.0f} days" if days else ""))]
