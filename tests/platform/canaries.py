"""Credentials that tests of this session give to the platform themselves, beside those that its Secrets hold: made up anew each time."""

from __future__ import annotations

import base64
import uuid

WEBHOOK = f"canary{uuid.uuid4().hex}"
"""The secret part of the address of Airflow's webhook for alerts."""
MAIL = f"canary{uuid.uuid4().hex}"
"""Password of Airflow's mail server for alerts."""
MAIL_LOGIN = "airflow-alerts"


def planted() -> dict[str, str]:
    """Each by whose it is; of the mail server also what a client sends, in which the password is not to be seen as it is."""
    return {
        "the webhook's": WEBHOOK,
        "the mail server's": MAIL,
        "the mail server's, as it is sent": base64.b64encode(f"\0{MAIL_LOGIN}\0{MAIL}".encode()).decode(),
    }
