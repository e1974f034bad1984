"""Options of the broker that FRESHET_TEST_KAFKA names, as defaults of every Kafka client of a process that imports this."""

from __future__ import annotations

import json
import os
from typing import Any

__all__ = ["OPTIONS"]

OPTIONS: dict[str, Any] = json.loads(os.environ.get("FRESHET_TEST_KAFKA_OPTIONS", "{}"))
"""kafka-python's settings as a JSON object, such as security_protocol and sasl_plain_password."""

if OPTIONS:
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

    for client in (KafkaAdminClient, KafkaConsumer, KafkaProducer):
        client.DEFAULT_CONFIG.update(OPTIONS)
