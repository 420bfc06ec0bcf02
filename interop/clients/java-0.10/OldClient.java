import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** The Java client 0.10.2.2: message format v1, old versions of every request. Lines as interop/clients/harness.py says. */
public final class OldClient {
    private static final String BOOTSTRAP =
        System.getenv("BOOTSTRAP") == null ? "127.0.0.1:9092" : System.getenv("BOOTSTRAP");
    private static final long NOW = System.currentTimeMillis();
    private static final int TEST_TIMEOUT_S = 60;

    interface Test {
        void run() throws Exception;
    }

    public static void main(String[] names) {
        Map<String, Test> tests = new LinkedHashMap<>();
        for (String codec : Arrays.asList("none", "gzip", "snappy", "lz4")) {
            for (String acks : Arrays.asList("0", "1", "all")) {
                tests.put("produce-" + codec + "-acks-" + acks, () -> produce(codec, acks));
            }
        }
        tests.put("topic-created-by-produce", OldClient::autoCreate);
        tests.put("seek-by-time", OldClient::seekByTime);
        tests.put("fetch-from-inside-a-batch", OldClient::insideBatch);
        tests.put("commit-with-metadata", OldClient::commitWithMetadata);
        tests.put("group-rebalance-and-restart", OldClient::group);
        List<String> chosen = names.length > 0 ? Arrays.asList(names) : new ArrayList<>(tests.keySet());
        System.out.println("PLAN " + String.join(" ", chosen));
        ExecutorService runner = Executors.newCachedThreadPool(OldClient::daemon);
        boolean failed = false;
        for (String name : chosen) {
            try {
                Future<Void> done = runner.submit((Callable<Void>) () -> {
                    tests.get(name).run();
                    return null;
                });
                done.get(TEST_TIMEOUT_S, TimeUnit.SECONDS);
                System.out.println("PASS " + name);
            } catch (Exception error) {
                failed = true;
                Throwable cause = error.getCause() == null ? error : error.getCause();
                System.out.println("FAIL " + name + " " + String.valueOf(cause).replaceAll("\\s+", " "));
            }
        }
        Runtime.getRuntime().halt(failed ? 1 : 0);
    }

    private static Thread daemon(Runnable body) {
        Thread thread = new Thread(body);
        thread.setDaemon(true);
        return thread;
    }

    private static String unique(String prefix) {
        return prefix + "-" + UUID.randomUUID().toString().substring(0, 8);
    }

    private static void same(Object found, Object expected, String what) {
        if (!Objects.equals(found, expected)) {
            throw new AssertionError(what + ": found " + found + ", expected " + expected);
        }
    }

    private static void eventually(Callable<Boolean> condition, String what) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
        while (!condition.call()) {
            same(System.nanoTime() < deadline, true, "within 30 s: " + what);
            Thread.sleep(50);
        }
    }

    private static Properties settings(String... pairs) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", BOOTSTRAP);
        for (int i = 0; i < pairs.length; i += 2) {
            properties.put(pairs[i], pairs[i + 1]);
        }
        return properties;
    }

    private static KafkaProducer<String, String> producer(String... pairs) {
        return new KafkaProducer<>(settings(pairs), new StringSerializer(), new StringSerializer());
    }

    private static KafkaConsumer<String, String> consumer(String... pairs) {
        Properties properties = settings("auto.offset.reset", "earliest", "enable.auto.commit", "false");
        properties.putAll(settings(pairs));
        return new KafkaConsumer<>(properties, new StringDeserializer(), new StringDeserializer());
    }

    private static List<ConsumerRecord<String, String>> read(KafkaConsumer<String, String> consumer, int count) {
        List<ConsumerRecord<String, String>> records = new ArrayList<>();
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(20);
        while (records.size() < count) {
            consumer.poll(200).forEach(records::add);
            if (System.nanoTime() > deadline) {
                throw new AssertionError("only " + records.size() + " of " + count + " records after 20 s");
            }
        }
        return records;
    }

    private static void produce(String codec, String acks) throws Exception {
        String topic = unique("produce");
        List<String> sent = new ArrayList<>();
        try (KafkaProducer<String, String> producer = producer("acks", acks, "compression.type", codec, "linger.ms", "5")) {
            for (int i = 0; i < 300; i++) {
                String key = i % 7 == 0 ? null : "key-" + i % 10;
                String value = i % 11 == 5 ? null : "value-" + i + String.join("", Collections.nCopies(i % 30, "-filler"));
                sent.add(key + "|" + value + "|" + (NOW + i));
                Future<RecordMetadata> answer = producer.send(new ProducerRecord<>(topic, 0, NOW + i, key, value));
                if (i == 0) {
                    answer.get(20, TimeUnit.SECONDS);
                }
            }
        }
        try (KafkaConsumer<String, String> consumer = consumer()) {
            TopicPartition place = new TopicPartition(topic, 0);
            consumer.assign(Collections.singletonList(place));
            consumer.seekToBeginning(Collections.singletonList(place));
            List<ConsumerRecord<String, String>> records = read(consumer, 300);
            for (int i = 0; i < 300; i++) {
                ConsumerRecord<String, String> record = records.get(i);
                same(record.offset(), (long) i, "offset");
                same(record.key() + "|" + record.value() + "|" + record.timestamp(), sent.get(i), "record " + i);
            }
        }
    }

    private static void autoCreate() throws Exception {
        String topic = unique("auto");
        try (KafkaProducer<String, String> producer = producer()) {
            same(producer.send(new ProducerRecord<>(topic, "first")).get(20, TimeUnit.SECONDS).offset(), 0L, "offset");
            same(producer.partitionsFor(topic).size(), 1, "partitions");
        }
        try (KafkaConsumer<String, String> consumer = consumer()) {
            same(consumer.listTopics().containsKey(topic), true, "the topic is listed");
        }
    }

    private static String filled(String codec, int count) throws Exception {
        String topic = unique("filled");
        try (KafkaProducer<String, String> producer = producer("compression.type", codec, "linger.ms", "50")) {
            producer.send(new ProducerRecord<>(topic, 0, NOW, null, "0")).get(20, TimeUnit.SECONDS);
            for (int i = 1; i < count; i++) {
                producer.send(new ProducerRecord<>(topic, 0, NOW + i * 10, null, String.valueOf(i)));
            }
        }
        return topic;
    }

    private static void seekByTime() throws Exception {
        TopicPartition place = new TopicPartition(filled("none", 100), 0);
        try (KafkaConsumer<String, String> consumer = consumer()) {
            consumer.assign(Collections.singletonList(place));
            long[][] cases = {{0, 0}, {495, 50}, {500, 50}, {501, 51}, {990, 99}};
            for (long[] each : cases) {
                OffsetAndTimestamp found = consumer.offsetsForTimes(Collections.singletonMap(place, NOW + each[0])).get(place);
                same(found.offset() + "@" + found.timestamp(), each[1] + "@" + (NOW + each[1] * 10), "at " + each[0] + " ms");
            }
            same(consumer.offsetsForTimes(Collections.singletonMap(place, NOW + 100_000)).get(place), null, "after the end");
            same(consumer.endOffsets(Collections.singletonList(place)).get(place), 100L, "end offset");
            same(consumer.beginningOffsets(Collections.singletonList(place)).get(place), 0L, "first offset");
        }
    }

    private static void insideBatch() throws Exception {
        for (String codec : Arrays.asList("none", "gzip", "snappy", "lz4")) {
            TopicPartition place = new TopicPartition(filled(codec, 100), 0);
            try (KafkaConsumer<String, String> consumer = consumer("max.partition.fetch.bytes", "100")) {
                consumer.assign(Collections.singletonList(place));
                consumer.seek(place, 57);
                List<ConsumerRecord<String, String>> records = read(consumer, 43);
                same(records.get(0).offset() + records.get(0).value(), "5757", codec + ": first record");
                same(records.get(42).offset() + records.get(42).value(), "9999", codec + ": last record");
            }
        }
    }

    private static void commitWithMetadata() throws Exception {
        TopicPartition place = new TopicPartition(filled("none", 10), 0);
        String group = unique("group");
        try (KafkaConsumer<String, String> consumer = consumer("group.id", group)) {
            consumer.assign(Collections.singletonList(place));
            consumer.commitSync(Collections.singletonMap(place, new OffsetAndMetadata(7, "a note")));
        }
        try (KafkaConsumer<String, String> consumer = consumer("group.id", group)) {
            consumer.assign(Collections.singletonList(place));
            OffsetAndMetadata found = consumer.committed(place);
            same(found.offset() + found.metadata(), "7a note", "committed");
            same(read(consumer, 3).get(0).value(), "7", "first value from there");
        }
    }

    /** A group member in its own thread, over several topics, as this client cannot create partitions. */
    private static final class Member implements Runnable {
        final List<String> seen = Collections.synchronizedList(new ArrayList<>());
        volatile Set<TopicPartition> assigned = new HashSet<>();
        private volatile boolean stopping;
        private volatile Exception error;
        private final KafkaConsumer<String, String> consumer;
        private final Thread thread = daemon(this);

        Member(List<String> topics, String group) {
            consumer = consumer("group.id", group, "session.timeout.ms", "10000", "heartbeat.interval.ms", "500");
            consumer.subscribe(topics);
            thread.start();
        }

        @Override
        public void run() {
            try {
                while (!stopping) {
                    List<String> polled = new ArrayList<>();
                    consumer.poll(100).forEach(record -> polled.add(record.value()));
                    if (!polled.isEmpty()) {
                        consumer.commitSync();
                    }
                    assigned = new HashSet<>(consumer.assignment());
                    seen.addAll(polled);
                }
                consumer.close();
            } catch (Exception raised) {
                error = raised;
            }
        }

        List<String> stop() throws Exception {
            stopping = true;
            thread.join(20_000);
            if (error != null) {
                throw error;
            }
            return seen;
        }
    }

    private static void send(KafkaProducer<String, String> producer, List<String> topics, int first, int last) throws Exception {
        for (int i = first; i < last; i++) {
            producer.send(new ProducerRecord<>(topics.get(i % topics.size()), 0, null, String.valueOf(i)));
        }
        producer.flush();
    }

    private static void group() throws Exception {
        List<String> topics = Arrays.asList(unique("group-a"), unique("group-b"), unique("group-c"), unique("group-d"));
        String group = unique("group");
        try (KafkaProducer<String, String> producer = producer("partitioner.class",
                "org.apache.kafka.clients.producer.internals.DefaultPartitioner")) {
            for (String topic : topics) {
                producer.partitionsFor(topic);
            }
            send(producer, topics, 0, 100);
            Member one = new Member(topics, group);
            eventually(() -> one.seen.size() >= 100, "the first member to read 100 records");
            Member two = new Member(topics, group);
            // The range assignor gives each topic's only partition to the first member; both know of the group's change.
            eventually(() -> one.assigned.size() + two.assigned.size() == 4, "all partitions to be assigned");
            send(producer, topics, 100, 200);
            eventually(() -> one.seen.size() + two.seen.size() >= 200, "both members to read 200 records");
            Member first = one.assigned.isEmpty() ? two : one;
            Member second = first == one ? two : one;
            Set<String> all = new TreeSet<>(first.stop());
            eventually(() -> second.assigned.size() == 4, "the other member to take over");
            send(producer, topics, 200, 300);
            eventually(() -> all.size() + second.seen.size() >= 300, "the other member to go on");
            same(first.seen.size() + second.stop().size(), 300, "times that a record was seen");
            all.addAll(second.seen);
            same(all.size(), 300, "records");
        }
    }
}
