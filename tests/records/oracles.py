"""Other people's readers and builders of records, to compare with.

kafka-python reads its schemas in a way that Python 3.11 calls deprecated; warnings are errors here, so not at import.
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from kafka import codec as kafka_codec
    from kafka.record.default_records import DefaultRecordBatch as KafkaPythonBatch
    from kafka.record.default_records import DefaultRecordBatchBuilder as KafkaPythonBuilder
    from kafka.record.legacy_records import LegacyRecordBatchBuilder as KafkaPythonLegacyBuilder
    from kafka.record.memory_records import MemoryRecords as KafkaPythonRecords

from aiokafka.record._crecords import DefaultRecordBatch as AiokafkaBatch
from aiokafka.record._crecords import DefaultRecordBatchBuilder as AiokafkaBuilder
from aiokafka.record._crecords import LegacyRecordBatchBuilder as AiokafkaLegacyBuilder
from aiokafka.record._crecords import MemoryRecords as AiokafkaRecords

__all__ = [
    "AiokafkaBatch",
    "AiokafkaBuilder",
    "AiokafkaLegacyBuilder",
    "AiokafkaRecords",
    "KafkaPythonBatch",
    "KafkaPythonBuilder",
    "KafkaPythonLegacyBuilder",
    "KafkaPythonRecords",
    "kafka_codec",
]
