import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.TransactionDescription;
import org.apache.kafka.clients.admin.TransactionState;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;

/** Transactions of the Java client 4.2, which speaks transaction.version 2 (KIP-890) where the broker offers it. */
final class Transactions {
    static void register(Harness harness) {
        harness.test("transaction-commit-and-abort", Transactions::commitAndAbort);
        harness.test("transaction-many-in-a-row", Transactions::manyInARow);
        harness.test("transaction-consume-transform-produce", () -> transform("classic"));
        harness.test("transaction-consume-transform-produce-kip848", () -> transform("consumer"));
        harness.test("transaction-fencing", Transactions::fencing);
        harness.test("transaction-time-out-aborts", Transactions::timeOut);
        harness.test("transaction-described-and-fenced-by-admin", Transactions::admin);
    }

    static void commitAndAbort() throws Exception {
        String topic = Clients.topic("transaction", 2);
        try (KafkaProducer<String, String> producer = Clients.producer("transactional.id", Harness.unique("tx"))) {
            producer.initTransactions();
            for (String name : List.of("a", "b", "c")) {
                producer.beginTransaction();
                for (int i = 0; i < 10; i++) {
                    producer.send(new ProducerRecord<>(topic, i % 2, null, name));
                }
                producer.flush();
                if (name.equals("b")) {
                    producer.abortTransaction();
                } else {
                    producer.commitTransaction();
                }
            }
        }
        List<String> committed = Clients.values(Clients.readTopic(topic, 20, 2, "isolation.level", "read_committed"));
        Harness.same(committed.stream().sorted().collect(Collectors.joining()), "aaaaaaaaaacccccccccc", "read_committed");
        Harness.same(Clients.readTopic(topic, 30, 2).size(), 30, "read_uncommitted");
    }

    static void manyInARow() throws Exception {
        String topic = Clients.topic("row", 3);
        try (KafkaProducer<String, String> producer = Clients.producer("transactional.id", Harness.unique("tx"))) {
            producer.initTransactions();
            for (int i = 0; i < 100; i++) {
                producer.beginTransaction();
                producer.send(new ProducerRecord<>(topic, i % 3, null, String.valueOf(i)));
                if (i % 10 == 9) {
                    producer.abortTransaction();
                } else {
                    producer.commitTransaction();
                }
            }
        }
        List<String> values = Clients.values(Clients.readTopic(topic, 90, 3, "isolation.level", "read_committed"));
        Harness.same(values.size(), 90, "committed records");
        Harness.yes(values.stream().noneMatch(value -> value.endsWith("9")), "an aborted record was read");
    }

    static void transform(String protocol) throws Exception {
        String source = Clients.topic("source", 1);
        String sink = Clients.topic("sink", 1);
        TopicPartition place = new TopicPartition(source, 0);
        try (KafkaProducer<String, String> plain = Clients.producer()) {
            for (int i = 0; i < 20; i++) {
                plain.send(new ProducerRecord<>(source, String.valueOf(i)));
            }
        }
        try (KafkaConsumer<String, String> consumer = Clients.consumer(
                "group.id", Harness.unique("group"), "group.protocol", protocol);
            KafkaProducer<String, String> producer = Clients.producer("transactional.id", Harness.unique("tx"))) {
            consumer.subscribe(List.of(source));
            List<String> values = Clients.values(Clients.read(consumer, 20));
            producer.initTransactions();
            for (boolean commit : new boolean[] {false, true}) {
                producer.beginTransaction();
                values.forEach(value -> producer.send(new ProducerRecord<>(sink, "done-" + value)));
                producer.sendOffsetsToTransaction(Map.of(place, new OffsetAndMetadata(20)), consumer.groupMetadata());
                if (commit) {
                    producer.commitTransaction();
                } else {
                    producer.abortTransaction();
                }
                OffsetAndMetadata offset = consumer.committed(java.util.Set.of(place)).get(place);
                Harness.same(offset == null ? -1L : offset.offset(), commit ? 20L : -1L, "offset after commit=" + commit);
            }
        }
        List<String> done = Clients.values(Clients.readTopic(sink, 20, 1, "isolation.level", "read_committed"));
        Harness.same(done.get(0) + " " + done.get(19) + " " + done.size(), "done-0 done-19 20", "transformed");
    }

    static void fencing() throws Exception {
        String topic = Clients.topic("fence", 1);
        String name = Harness.unique("tx");
        try (KafkaProducer<String, String> old = Clients.producer("transactional.id", name);
            KafkaProducer<String, String> now = Clients.producer("transactional.id", name)) {
            old.initTransactions();
            old.beginTransaction();
            old.send(new ProducerRecord<>(topic, "old")).get();
            now.initTransactions();
            Harness.raises(KafkaException.class, () -> {
                old.send(new ProducerRecord<>(topic, "late")).get();
                old.commitTransaction();
            });
            now.beginTransaction();
            now.send(new ProducerRecord<>(topic, "new"));
            now.commitTransaction();
        }
        Harness.same(Clients.values(Clients.readTopic(topic, 1, 1, "isolation.level", "read_committed")), List.of("new"), "committed");
    }

    static void timeOut() throws Exception {
        String topic = Clients.topic("timeout", 1);
        KafkaProducer<String, String> stuck = Clients.producer(
            "transactional.id", Harness.unique("tx"), "transaction.timeout.ms", "1500");
        stuck.initTransactions();
        stuck.beginTransaction();
        stuck.send(new ProducerRecord<>(topic, "stuck")).get();
        try (KafkaProducer<String, String> plain = Clients.producer()) {
            plain.send(new ProducerRecord<>(topic, "plain")).get();
        }
        // The reader waits at the last stable offset until the coordinator aborts the transaction.
        Harness.same(Clients.values(Clients.readTopic(topic, 1, 1, "isolation.level", "read_committed")), List.of("plain"), "committed");
        Harness.raises(KafkaException.class, stuck::commitTransaction);
        stuck.close(java.time.Duration.ofSeconds(1));
    }

    static void admin() throws Exception {
        String topic = Clients.topic("described", 1);
        String name = Harness.unique("tx");
        try (Admin admin = Clients.admin();
            KafkaProducer<String, String> producer = Clients.producer("transactional.id", name)) {
            producer.initTransactions();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(topic, "open")).get();
            TransactionDescription found = admin.describeTransactions(List.of(name)).description(name).get();
            Harness.same(found.state(), TransactionState.ONGOING, "state");
            Harness.same(found.topicPartitions().toString(), "[" + topic + "-0]", "partitions");
            TopicPartition place = new TopicPartition(topic, 0);
            long producerId = admin.describeProducers(List.of(place)).partitionResult(place).get().activeProducers().get(0).producerId();
            Harness.same(producerId, found.producerId(), "producer id");
            Harness.yes(admin.listTransactions().all().get().stream().anyMatch(t -> t.transactionalId().equals(name)), "not listed");
            admin.fenceProducers(List.of(name)).all().get(20, TimeUnit.SECONDS);
            Harness.raises(KafkaException.class, producer::commitTransaction);
        }
    }
}
