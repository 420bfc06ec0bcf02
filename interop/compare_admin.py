"""The Java admin client 4.2 tours both brokers, every method once or more: `python -m interop.compare_admin`.

interop/clients/java/AdminTour.java prints a line for each outcome; lines that differ are shown, and fail the run where
they are not in DELIBERATE.
"""

from __future__ import annotations

import subprocess
import sys

from interop import setup
from interop.brokers import ApacheKafka, Broker, Trivium
from interop.compare_wire import compare
from interop.places import JAVA_CLASSES, KAFKA_JARS

LIMIT_S = 300
DELIBERATE = {
    # Loggers and metrics of clients are not configured here; all that is fixed is refused with the same words.
    "incrementalAlterConfigs metrics",
    "incrementalAlterConfigs logger",
    "listConfigResources",
    "listClientMetricsResources",
    # Kafka knows no lag before a share group has read on from where it was set, and no start before it has read.
    "listShareGroupOffsets",
    "listShareGroupOffsets some",
    # "This broker" where Kafka says "Local controller 1".
    "updateFeatures unknown",
    # Not served, which the client says at once: moving replicas, quorum voters, changing credentials and quotas,
    # tokens, streams groups; a transaction cannot hang, so there is none to abort from outside.
    "alterReplicaLogDirs",
    "alterReplicaLogDirs elsewhere",
    "alterPartitionReassignments same",
    "alterPartitionReassignments other",
    "alterPartitionReassignments cancel",
    "unregisterBroker",
    "addRaftVoter",
    "removeRaftVoter",
    "alterClientQuotas",
    "alterUserScramCredentials",
    "createDelegationToken",
    "renewDelegationToken",
    "expireDelegationToken",
    "describeDelegationToken",
    "describeStreamsGroups",
    "abortTransaction",
}


def answers_of(broker: Broker) -> dict[str, object]:
    """Step and future -> what became of it."""
    command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=off"]
    command += ["-cp", f"{JAVA_CLASSES}:{KAFKA_JARS}/*", "AdminTour"]
    with broker:
        broker.start()
        done = subprocess.run(
            command, env=broker.environment(), capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    if done.returncode:
        raise SystemExit(
            f"{broker.name}: the tour ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    answers: dict[str, object] = {}
    for line in done.stdout.splitlines():
        step, _, outcome = line.partition(" = ")
        while step in answers:
            step += " once more"
        answers[step] = outcome
    return answers


def main() -> int:
    setup.kafka()
    return compare(answers_of, Trivium, ApacheKafka, DELIBERATE)


if __name__ == "__main__":
    sys.exit(main())
