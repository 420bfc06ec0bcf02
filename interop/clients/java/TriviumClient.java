import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;

/** The Java client 4.2: produce, groups of both protocols, time; transactions and admin are in their own files. */
public final class TriviumClient {
    private static final long NOW = System.currentTimeMillis();

    public static void main(String[] names) {
        Harness harness = new Harness();
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            for (String acks : List.of("0", "1", "all")) {
                harness.test("produce-" + codec + "-acks-" + acks, () -> produce(codec, acks));
            }
        }
        harness.test("produce-topic-compression", TriviumClient::topicCompression);
        harness.test("log-append-time", TriviumClient::logAppendTime);
        harness.test("topic-created-by-produce", TriviumClient::autoCreate);
        harness.test("message-too-large-refused", TriviumClient::tooLarge);
        harness.test("seek-by-time", TriviumClient::seekByTime);
        harness.test("long-poll-and-fetch-session", TriviumClient::longPoll);
        harness.test("group-rebalance-and-restart", () -> group("group.protocol", "classic", "session.timeout.ms", "10000"));
        harness.test("group-rebalance-and-restart-cooperative", () -> group("session.timeout.ms", "10000",
            "partition.assignment.strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor"));
        harness.test("group-rebalance-and-restart-kip848", () -> group("group.protocol", "consumer"));
        harness.test("group-rebalance-and-restart-kip848-range",
            () -> group("group.protocol", "consumer", "group.remote.assignor", "range"));
        harness.test("group-static-member", () -> staticMember("classic"));
        harness.test("group-static-member-kip848", () -> staticMember("consumer"));
        harness.test("group-upgrade-to-kip848", TriviumClient::upgrade);
        Transactions.register(harness);
        Shares.register(harness);
        Resets.register(harness);
        Administration.register(harness);
        harness.main(names);
    }

    static void produce(String codec, String acks) throws Exception {
        String topic = Clients.topic("produce", 1);
        List<String> sent = new ArrayList<>();
        String idempotent = String.valueOf(acks.equals("all"));
        try (KafkaProducer<String, String> producer = Clients.producer(
            "acks", acks, "compression.type", codec, "linger.ms", "5", "enable.idempotence", idempotent)) {
            for (int i = 0; i < 300; i++) {
                String key = i % 7 == 0 ? null : "key-" + i % 10;
                String value = i % 11 == 5 ? null : ("value-" + i + "-").repeat(1 + i % 30);
                ProducerRecord<String, String> record = new ProducerRecord<>(topic, 0, NOW + i, key, value);
                if (i % 2 == 1) {
                    record.headers().add(new RecordHeader("number", String.valueOf(i).getBytes(StandardCharsets.UTF_8)));
                    record.headers().add(new RecordHeader("null", null));
                }
                sent.add(key + "|" + value + "|" + (NOW + i) + "|" + (i % 2 == 1 ? i + ",null" : ""));
                producer.send(record);
            }
        }
        List<ConsumerRecord<String, String>> found = Clients.readTopic(topic, 300, 1);
        Harness.same(found.stream().map(ConsumerRecord::offset).collect(Collectors.toList()),
            IntStream.range(0, 300).mapToObj(Long::valueOf).collect(Collectors.toList()), "offsets");
        List<String> read = new ArrayList<>();
        for (ConsumerRecord<String, String> record : found) {
            List<String> headers = new ArrayList<>();
            record.headers().forEach(h -> headers.add(h.value() == null ? h.key() : new String(h.value(), StandardCharsets.UTF_8)));
            read.add(record.key() + "|" + record.value() + "|" + record.timestamp() + "|" + String.join(",", headers));
        }
        Harness.same(read, sent, "records");
    }

    static void topicCompression() throws Exception {
        String topic = Clients.topic("compression", 1, "compression.type", "zstd");
        try (KafkaProducer<String, String> producer = Clients.producer("compression.type", "gzip")) {
            for (int i = 0; i < 50; i++) {
                producer.send(new ProducerRecord<>(topic, "same ".repeat(100) + i));
            }
        }
        Harness.same(Clients.readTopic(topic, 50, 1).get(49).value(), "same ".repeat(100) + 49, "last value");
    }

    static void logAppendTime() throws Exception {
        String topic = Clients.topic("append-time", 1, "message.timestamp.type", "LogAppendTime");
        RecordMetadata answer;
        try (KafkaProducer<String, String> producer = Clients.producer("compression.type", "lz4")) {
            answer = producer.send(new ProducerRecord<>(topic, 0, 1000L, "k", "v")).get();
        }
        ConsumerRecord<String, String> record = Clients.readTopic(topic, 1, 1).get(0);
        Harness.same(record.timestampType(), TimestampType.LOG_APPEND_TIME, "timestamp type");
        Harness.same(record.timestamp(), answer.timestamp(), "timestamp");
        Harness.yes(record.timestamp() > NOW - 60_000, "timestamp " + record.timestamp());
    }

    static void autoCreate() throws Exception {
        String topic = Harness.unique("auto");
        try (KafkaProducer<String, String> producer = Clients.producer()) {
            producer.send(new ProducerRecord<>(topic, "first")).get(20, TimeUnit.SECONDS);
        }
        Harness.same(Clients.values(Clients.readTopic(topic, 1, 1)), List.of("first"), "values");
    }

    static void tooLarge() throws Exception {
        String topic = Clients.topic("large", 1, "max.message.bytes", "20000");
        try (KafkaProducer<String, String> producer = Clients.producer()) {
            Harness.raises(RecordTooLargeException.class,
                () -> producer.send(new ProducerRecord<>(topic, "x".repeat(50_000))).get());
            producer.send(new ProducerRecord<>(topic, "small")).get();
            // Many records in one batch that is too large: the client splits it after MESSAGE_TOO_LARGE.
            for (int i = 0; i < 100; i++) {
                producer.send(new ProducerRecord<>(topic, "y".repeat(1000)));
            }
        }
        Harness.same(Clients.readTopic(topic, 101, 1).size(), 101, "records");
    }

    static void seekByTime() throws Exception {
        String topic = Clients.topic("time", 1);
        TopicPartition place = new TopicPartition(topic, 0);
        try (KafkaProducer<String, String> producer = Clients.producer()) {
            for (int i = 0; i < 100; i++) {
                producer.send(new ProducerRecord<>(topic, 0, NOW + i * 10, null, String.valueOf(i)));
                if (i % 9 == 0) {
                    producer.flush();
                }
            }
        }
        try (KafkaConsumer<String, String> consumer = Clients.consumer()) {
            consumer.assign(List.of(place));
            long[][] cases = {{0, 0}, {495, 50}, {500, 50}, {501, 51}, {990, 99}};
            for (long[] each : cases) {
                OffsetAndTimestamp found = consumer.offsetsForTimes(Map.of(place, NOW + each[0])).get(place);
                Harness.same(found.offset() + "@" + found.timestamp(), each[1] + "@" + (NOW + each[1] * 10), "at " + each[0] + " ms");
            }
            Harness.same(consumer.offsetsForTimes(Map.of(place, NOW + 10_000)).get(place), null, "after the end");
            consumer.seek(place, 70);
            Harness.same(Clients.values(Clients.read(consumer, 30)).get(0), "70", "first value from there");
            Harness.same(consumer.endOffsets(List.of(place)).get(place), 100L, "end offset");
            Harness.same(consumer.currentLag(place).orElse(-1), 0L, "lag");
        }
    }

    static void longPoll() throws Exception {
        String topic = Clients.topic("poll", 20);
        try (KafkaProducer<String, String> producer = Clients.producer("linger.ms", "0");
            KafkaConsumer<String, String> consumer = Clients.consumer("fetch.max.wait.ms", "5000")) {
            consumer.assign(Clients.partitions(topic, 20));
            consumer.seekToBeginning(consumer.assignment());
            consumer.poll(Duration.ofMillis(300));
            for (int i = 0; i < 60; i++) {
                producer.send(new ProducerRecord<>(topic, i % 20, null, String.valueOf(i))).get();
                Harness.same(Clients.values(Clients.read(consumer, 1)), List.of(String.valueOf(i)), "what a waiting fetch brings");
            }
            consumer.pause(Clients.partitions(topic, 10));
            producer.send(new ProducerRecord<>(topic, 3, null, "paused")).get();
            producer.send(new ProducerRecord<>(topic, 13, null, "live")).get();
            Harness.same(Clients.values(Clients.read(consumer, 1)), List.of("live"), "what comes while a partition is paused");
            consumer.resume(Clients.partitions(topic, 10));
            Harness.same(Clients.values(Clients.read(consumer, 1)), List.of("paused"), "what comes after it is resumed");
        }
    }

    private static void send(KafkaProducer<String, String> producer, String topic, int first, int last) {
        for (int i = first; i < last; i++) {
            producer.send(new ProducerRecord<>(topic, i % 4, null, String.valueOf(i)));
        }
        producer.flush();
    }

    static List<Integer> sorted(List<Integer> one, List<Integer> two) {
        List<Integer> all = new ArrayList<>(one);
        all.addAll(two);
        all.sort(null);
        return all;
    }

    static List<Integer> range(int first, int last) {
        return IntStream.range(first, last).boxed().collect(Collectors.toList());
    }

    static void group(String... settings) throws Exception {
        String topic = Clients.topic("group", 4);
        String group = Harness.unique("group");
        try (KafkaProducer<String, String> producer = Clients.producer()) {
            send(producer, topic, 0, 100);
            Clients.Member one = new Clients.Member(topic, group, settings);
            Harness.eventually(() -> one.count() >= 100, "the first member to read 100 records");
            Clients.Member two = new Clients.Member(topic, group, settings);
            Harness.eventually(() -> one.assigned.size() == 2 && two.assigned.size() == 2, "each member to get half");
            send(producer, topic, 100, 200);
            Harness.eventually(() -> one.count() + two.count() >= 200, "both members to read 200 records");
            Harness.yes(two.count() > 0, "the second member read nothing");
            List<Integer> seen = two.stop();
            send(producer, topic, 200, 300);
            Harness.eventually(() -> one.count() + seen.size() >= 300, "the first member to read all partitions again");
            Harness.same(sorted(one.stop(), seen), range(0, 300), "each record seen once");
            send(producer, topic, 300, 350);
            Clients.Member again = new Clients.Member(topic, group, settings);
            Harness.eventually(() -> again.count() >= 50, "the restarted member to go on");
            Harness.same(sorted(again.stop(), List.of()), range(300, 350), "records after the restart");
        }
    }

    static void staticMember(String protocol) throws Exception {
        String topic = Clients.topic("static", 4);
        String group = Harness.unique("group");
        String[] first = {"group.protocol", protocol, "group.instance.id", "one"};
        String[] second = {"group.protocol", protocol, "group.instance.id", "two"};
        Clients.Member one = new Clients.Member(topic, group, first);
        Clients.Member two = new Clients.Member(topic, group, second);
        Harness.eventually(() -> one.assigned.size() == 2 && two.assigned.size() == 2, "each member to get half");
        Object before = two.assigned;
        two.stop();
        Clients.Member back = new Clients.Member(topic, group, second);
        Harness.eventually(() -> back.assigned.size() == 2, "the static member to be back");
        Harness.same(back.assigned, before, "partitions of the member that came back");
        Harness.same(one.assigned.size(), 2, "partitions of the member that stayed");
        back.stop();
        one.stop();
    }

    static void upgrade() throws Exception {
        String topic = Clients.topic("upgrade", 4);
        String group = Harness.unique("group");
        try (KafkaProducer<String, String> producer = Clients.producer()) {
            send(producer, topic, 0, 40);
            Clients.Member old = new Clients.Member(topic, group, "group.protocol", "classic");
            Harness.eventually(() -> old.count() >= 40, "the classic member to read");
            old.stop();
            send(producer, topic, 40, 80);
            Clients.Member now = new Clients.Member(topic, group, "group.protocol", "consumer");
            Harness.eventually(() -> now.count() >= 40, "the member of the new protocol to go on");
            Harness.same(sorted(now.stop(), List.of()), range(40, 80), "records after the upgrade");
        }
    }
}
