import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Makes clients, topics and reads for the tests of the Java client 4.2. */
final class Clients {
    static Properties settings(String... pairs) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", Harness.BOOTSTRAP);
        for (int i = 0; i < pairs.length; i += 2) {
            properties.put(pairs[i], pairs[i + 1]);
        }
        return properties;
    }

    static KafkaProducer<String, String> producer(String... pairs) {
        return new KafkaProducer<>(settings(pairs), new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(String... pairs) {
        Properties properties = settings("auto.offset.reset", "earliest", "enable.auto.commit", "false");
        properties.putAll(settings(pairs));
        return new KafkaConsumer<>(properties, new StringDeserializer(), new StringDeserializer());
    }

    static Admin admin() {
        return Admin.create(settings());
    }

    static String topic(String prefix, int partitions, String... pairs) throws Exception {
        String name = Harness.unique(prefix);
        Map<String, String> configs = new HashMap<>();
        for (int i = 0; i < pairs.length; i += 2) {
            configs.put(pairs[i], pairs[i + 1]);
        }
        try (Admin admin = admin()) {
            admin.createTopics(List.of(new NewTopic(name, partitions, (short) 1).configs(configs))).all().get();
            Harness.eventually(() -> admin.listTopics().names().get().contains(name), "the topic " + name);
        }
        return name;
    }

    static List<TopicPartition> partitions(String topic, int count) {
        return IntStream.range(0, count).mapToObj(number -> new TopicPartition(topic, number)).collect(Collectors.toList());
    }

    static List<ConsumerRecord<String, String>> read(KafkaConsumer<String, String> consumer, int count) {
        List<ConsumerRecord<String, String>> records = new ArrayList<>();
        long deadline = System.nanoTime() + 20_000_000_000L;
        while (records.size() < count) {
            consumer.poll(Duration.ofMillis(200)).forEach(records::add);
            Harness.yes(System.nanoTime() < deadline, "only " + records.size() + " of " + count + " records after 20 s");
        }
        return records;
    }

    static List<ConsumerRecord<String, String>> readTopic(String topic, int count, int partitions, String... pairs) {
        try (KafkaConsumer<String, String> consumer = consumer(pairs)) {
            consumer.assign(partitions(topic, partitions));
            consumer.seekToBeginning(consumer.assignment());
            List<ConsumerRecord<String, String>> records = read(consumer, count);
            records.sort(Comparator.comparingInt((ConsumerRecord<String, String> r) -> r.partition())
                .thenComparingLong(ConsumerRecord::offset));
            return records;
        }
    }

    static List<String> values(List<ConsumerRecord<String, String>> records) {
        return records.stream().map(ConsumerRecord::value).collect(Collectors.toList());
    }

    /** A group member in its own thread: polls, commits after every poll with records, notes what it saw. */
    static final class Member implements Runnable {
        final List<Integer> seen = new ArrayList<>();
        volatile Set<TopicPartition> assigned = Set.of();
        private volatile boolean stopping;
        private volatile Exception error;
        private final KafkaConsumer<String, String> consumer;
        private final Thread thread = Harness.daemon(this);

        Member(String topic, String group, String... pairs) {
            Properties properties = settings("group.id", group, "auto.offset.reset", "earliest", "enable.auto.commit", "false");
            properties.putAll(settings(pairs));
            consumer = new KafkaConsumer<>(properties, new StringDeserializer(), new StringDeserializer());
            consumer.subscribe(List.of(topic));
            thread.start();
        }

        @Override
        public void run() {
            try (consumer) {
                while (!stopping) {
                    List<Integer> polled = new ArrayList<>();
                    consumer.poll(Duration.ofMillis(100)).forEach(record -> polled.add(Integer.valueOf(record.value())));
                    if (!polled.isEmpty()) {
                        consumer.commitSync();
                    }
                    assigned = new HashSet<>(consumer.assignment());
                    synchronized (seen) {
                        seen.addAll(polled);
                    }
                }
            } catch (Exception raised) {
                error = raised;
            }
        }

        int count() {
            synchronized (seen) {
                return seen.size();
            }
        }

        List<Integer> stop() throws Exception {
            stopping = true;
            thread.join(20_000);
            Harness.yes(!thread.isAlive(), "a member did not stop");
            if (error != null) {
                throw error;
            }
            return seen;
        }
    }
}
