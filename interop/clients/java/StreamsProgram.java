import java.io.BufferedReader;
import java.io.File;
import java.io.InputStreamReader;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.UnsupportedVersionException;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.ReadOnlyKeyValueStore;
import org.apache.kafka.tools.StreamsResetter;

/** Kafka Streams: counts, joins and windows, their internal topics, restored state, rebalances, and kills of the broker. */
public final class StreamsProgram {
    private static final int PARTITIONS = 3;
    private static final List<String> WORDS =
        IntStream.range(0, 20).mapToObj(number -> "word-" + number).collect(Collectors.toList());

    public static void main(String[] names) {
        Harness harness = new Harness();
        for (String guarantee : List.of("at_least_once", "exactly_once_v2")) {
            harness.test("word-count-" + guarantee, () -> wordCount(guarantee));
            harness.test("state-restored-" + guarantee, () -> restored(guarantee));
            harness.test("joins-" + guarantee, () -> joins(guarantee));
            harness.test("windows-" + guarantee, () -> windows(guarantee));
            harness.test("two-instances-" + guarantee, () -> instances(guarantee));
        }
        harness.test("broker-killed-exactly-once", StreamsProgram::killed);
        harness.test("application-reset", StreamsProgram::reset);
        harness.test("streams-group-or-a-clear-answer", StreamsProgram::streamsGroup);
        harness.main(names);
    }

    /** One running instance of an application, with a state folder of its own. */
    private static final class Application implements AutoCloseable {
        final String id;
        final File state;
        final KafkaStreams streams;
        volatile Throwable failure;

        Application(String id, String guarantee, Topology topology, String... pairs) throws Exception {
            this(id, Files.createTempDirectory("streams").toFile(), guarantee, topology, pairs);
        }

        Application(String id, File state, String guarantee, Topology topology, String... pairs) {
            this.id = id;
            this.state = state;
            Properties properties = Clients.settings(
                "application.id", id, "state.dir", state.getPath(), "processing.guarantee", guarantee, "commit.interval.ms", "100",
                "statestore.cache.max.bytes", "0", "num.stream.threads", "2", "consumer.session.timeout.ms", "10000",
                "consumer.auto.offset.reset", "earliest", "topology.optimization", "all");
            properties.put("default.key.serde", Serdes.String().getClass());
            properties.put("default.value.serde", Serdes.String().getClass());
            properties.putAll(Clients.settings(pairs));
            streams = new KafkaStreams(topology, properties);
            streams.setUncaughtExceptionHandler(raised -> {
                failure = raised;
                return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
            });
        }

        Application start() throws Exception {
            streams.start();
            Harness.eventually(() -> running() || failure != null, "the application to run");
            check();
            return this;
        }

        boolean running() {
            return streams.state() == KafkaStreams.State.RUNNING;
        }

        void check() {
            if (failure != null) {
                throw new AssertionError("the application failed: " + failure, failure);
            }
        }

        long stored(String word) {
            ReadOnlyKeyValueStore<String, Long> store = streams.store(
                StoreQueryParameters.fromNameAndType("counts", QueryableStoreTypes.keyValueStore()));
            Long value = store.get(word);
            return value == null ? 0 : value;
        }

        @Override
        public void close() {
            Harness.yes(streams.close(Duration.ofSeconds(20)), "the application did not close in 20 s");
        }
    }

    private static Topology counting(String source, String sink) {
        StreamsBuilder builder = new StreamsBuilder();
        builder.<String, String>stream(source).groupBy((key, word) -> word).count(Materialized.as("counts"))
            .toStream().mapValues(count -> String.valueOf(count)).to(sink);
        return builder.build();
    }

    private static void send(String topic, int count) {
        try (KafkaProducer<String, String> producer = Clients.producer("acks", "all", "linger.ms", "1")) {
            for (int i = 0; i < count; i++) {
                producer.send(new ProducerRecord<>(topic, i % PARTITIONS, null, WORDS.get(i % WORDS.size())));
            }
        }
    }

    /** Reads at least so many records, committed ones only, and what is there beyond. */
    private static List<ConsumerRecord<String, String>> results(String topic, int count, Application application) {
        List<ConsumerRecord<String, String>> found = new ArrayList<>();
        long deadline = System.nanoTime() + 40_000_000_000L;
        try (KafkaConsumer<String, String> consumer = Clients.consumer("isolation.level", "read_committed")) {
            consumer.assign(Clients.partitions(topic, PARTITIONS));
            consumer.seekToBeginning(consumer.assignment());
            while (found.size() < count) {
                consumer.poll(Duration.ofMillis(200)).forEach(found::add);
                application.check();
                Harness.yes(System.nanoTime() < deadline, "only " + found.size() + " of " + count + " results");
            }
            consumer.poll(Duration.ofMillis(500)).forEach(found::add);
        }
        return found;
    }

    /** With exactly once each input changes its word's count by one, so that the counts of a word are 1, 2, 3, ... */
    private static void countedOnce(List<ConsumerRecord<String, String>> results, int each) {
        Map<String, List<String>> counts = new TreeMap<>();
        results.forEach(record -> counts.computeIfAbsent(record.key(), word -> new ArrayList<>()).add(record.value()));
        List<String> expected = IntStream.rangeClosed(1, each).mapToObj(String::valueOf).collect(Collectors.toList());
        for (String word : WORDS) {
            Harness.same(counts.get(word), expected, "counts of " + word);
        }
    }

    private static Map<String, String> configs(String topic) throws Exception {
        try (Admin admin = Clients.admin()) {
            ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            Config config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
            Map<String, String> found = new HashMap<>();
            config.entries().forEach(entry -> found.put(entry.name(), entry.value()));
            return found;
        }
    }

    static void wordCount(String guarantee) throws Exception {
        String source = Clients.topic("lines", PARTITIONS);
        String sink = Clients.topic("counts", PARTITIONS);
        send(source, 600);
        try (Application application = new Application(Harness.unique("count"), guarantee, counting(source, sink)).start()) {
            countedOnce(results(sink, 600, application), 30);
            String changelog = application.id + "-counts-changelog";
            String repartition = application.id + "-counts-repartition";
            Harness.same(configs(changelog).get("cleanup.policy"), "compact", "cleanup.policy of the changelog");
            Harness.same(configs(repartition).get("cleanup.policy"), "delete", "cleanup.policy of the repartition topic");
            Harness.same(configs(repartition).get("retention.ms"), "-1", "retention.ms of the repartition topic");
            for (String word : WORDS) {
                Harness.same(application.stored(word), 30L, "the store's count of " + word);
            }
        }
    }

    static void restored(String guarantee) throws Exception {
        String source = Clients.topic("lines", PARTITIONS);
        String sink = Clients.topic("counts", PARTITIONS);
        String id = Harness.unique("restore");
        for (int round = 1; round <= 3; round++) {
            send(source, 300);
            Application application = new Application(id, guarantee, counting(source, sink));
            try (application) {
                application.start();
                countedOnce(results(sink, 300 * round, application), 15 * round);
            }
            application.streams.cleanUp();
        }
    }

    static void joins(String guarantee) throws Exception {
        String orders = Clients.topic("orders", PARTITIONS);
        String users = Clients.topic("users", PARTITIONS, "cleanup.policy", "compact");
        String payments = Clients.topic("payments", PARTITIONS);
        String sink = Clients.topic("joined", PARTITIONS);
        StreamsBuilder builder = new StreamsBuilder();
        KTable<String, String> names = builder.table(users);
        KStream<String, String> ordered = builder.stream(orders);
        KStream<String, String> named = ordered.selectKey((order, user) -> user).join(names, (user, name) -> "user " + name);
        KStream<String, String> paid = ordered.join(
            builder.stream(payments), (user, sum) -> "paid " + user + " " + sum, JoinWindows.ofTimeDifferenceWithNoGrace(Duration.ofHours(1)));
        KTable<String, String> owners = ordered.toTable(Materialized.as("owners"));
        owners.join(names, user -> user, (user, name) -> "owner " + user + " " + name).toStream().to(sink);
        named.merge(paid).to(sink);
        Map<String, Integer> expected = new TreeMap<>();
        try (KafkaProducer<String, String> producer = Clients.producer()) {
            for (int user = 0; user < 10; user++) {
                producer.send(new ProducerRecord<>(users, "u" + user, "n" + user));
            }
        }
        try (Application application = new Application(Harness.unique("join"), guarantee, builder.build()).start();
            KafkaProducer<String, String> producer = Clients.producer()) {
            for (int order = 0; order < 60; order++) {
                String user = "u" + order % 10;
                producer.send(new ProducerRecord<>(orders, "o" + order, user));
                producer.send(new ProducerRecord<>(payments, "o" + order, "s" + order));
                expected.merge("user n" + order % 10, 1, Integer::sum);
                expected.put("paid " + user + " s" + order, 1);
                expected.merge("owner " + user + " n" + order % 10, 1, Integer::sum);
            }
            producer.flush();
            Map<String, Integer> found = new TreeMap<>();
            results(sink, 180, application).forEach(record -> found.merge(record.value(), 1, Integer::sum));
            Harness.same(found, expected, "joined");
        }
    }

    static void windows(String guarantee) throws Exception {
        String source = Clients.topic("measured", PARTITIONS);
        String sink = Clients.topic("windows", PARTITIONS);
        StreamsBuilder builder = new StreamsBuilder();
        builder.<String, String>stream(source).groupBy((key, word) -> word, Grouped.as("by-word"))
            .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofSeconds(10), Duration.ofHours(1))).count(Materialized.as("windowed"))
            .toStream().map((window, count) -> org.apache.kafka.streams.KeyValue.pair(
                window.key() + "@" + window.window().start(), String.valueOf(count))).to(sink);
        long start = System.currentTimeMillis() / 10_000 * 10_000 - 100_000;
        try (KafkaProducer<String, String> producer = Clients.producer()) {
            for (int i = 0; i < 600; i++) {
                producer.send(new ProducerRecord<>(source, i % PARTITIONS, start + i % 5 * 10_000L, null, WORDS.get(i % 4)));
            }
        }
        try (Application application = new Application(Harness.unique("window"), guarantee, builder.build()).start()) {
            Map<String, Integer> found = new TreeMap<>();
            results(sink, 600, application).forEach(record -> found.merge(record.key(), Integer.valueOf(record.value()), Math::max));
            Harness.same(found.size(), 20, "windows");
            Harness.same(found.values().stream().mapToInt(Integer::intValue).sum(), 600, "counted in all windows");
            Map<String, String> changelog = configs(application.id + "-windowed-changelog");
            Harness.same(changelog.get("cleanup.policy"), "compact,delete", "cleanup.policy of the windows' changelog");
            Harness.yes(Long.parseLong(changelog.get("retention.ms")) > 3_600_000, "retention.ms " + changelog.get("retention.ms"));
        }
    }

    static void instances(String guarantee) throws Exception {
        String source = Clients.topic("lines", PARTITIONS);
        String sink = Clients.topic("counts", PARTITIONS);
        String id = Harness.unique("instances");
        String[] standby = {"num.standby.replicas", "1", "probing.rebalance.interval.ms", "60000", "acceptable.recovery.lag", "0"};
        send(source, 600);
        Application first = new Application(id, guarantee, counting(source, sink), standby).start();
        try (Application second = new Application(id, guarantee, counting(source, sink), standby).start()) {
            send(source, 600);
            countedOnce(results(sink, 1200, first), 60);
            first.close();
            send(source, 600);
            countedOnce(results(sink, 1800, second), 90);
            Harness.eventually(second::running, "the instance left to run");
            for (String word : WORDS) {
                Harness.same(second.stored(word), 90L, "the store's count of " + word);
            }
        }
    }

    private static void kill() throws Exception {
        String[] address = System.getenv("CONTROL").split(":");
        try (Socket socket = new Socket(address[0], Integer.parseInt(address[1]))) {
            socket.getOutputStream().write("kill\n".getBytes(StandardCharsets.UTF_8));
            Harness.same(new BufferedReader(new InputStreamReader(socket.getInputStream())).readLine(), "ok", "kill");
        }
    }

    /** Three kills while inputs come in and are counted: each input is counted once, also by a later reader. */
    static void killed() throws Exception {
        String source = Clients.topic("lines", PARTITIONS);
        String sink = Clients.topic("counts", PARTITIONS);
        int count = 3000;
        Thread sender = Harness.daemon(() -> {
            try (KafkaProducer<String, String> producer = Clients.producer("acks", "all", "linger.ms", "1")) {
                for (int i = 0; i < count; i++) {
                    producer.send(new ProducerRecord<>(source, i % PARTITIONS, null, WORDS.get(i % WORDS.size())));
                    if (i % 5 == 0) {
                        Thread.sleep(20);
                    }
                }
            } catch (InterruptedException stopped) {
                Thread.currentThread().interrupt();
            }
        });
        try (Application application = new Application(Harness.unique("killed"), "exactly_once_v2", counting(source, sink)).start()) {
            sender.start();
            for (int seen : new int[] {300, 900, 1800}) {
                results(sink, seen, application);
                kill();
            }
            countedOnce(results(sink, count, application), count / WORDS.size());
        }
    }

    static void reset() throws Exception {
        String source = Clients.topic("lines", PARTITIONS);
        String sink = Clients.topic("counts", PARTITIONS);
        String id = Harness.unique("reset");
        send(source, 300);
        Application first = new Application(id, "exactly_once_v2", counting(source, sink));
        try (first) {
            first.start();
            results(sink, 300, first);
        }
        first.streams.cleanUp();
        int code = new StreamsResetter().execute(new String[] {
            "--bootstrap-server", Harness.BOOTSTRAP, "--application-id", id, "--input-topics", source, "--force"});
        Harness.same(code, 0, "exit code of the resetter");
        try (Admin admin = Clients.admin()) {
            Harness.eventually(() -> admin.listTopics().names().get().stream().noneMatch(name -> name.startsWith(id)),
                "the internal topics to vanish");
        }
        try (Application again = new Application(id, "exactly_once_v2", counting(source, sink)).start()) {
            List<ConsumerRecord<String, String>> all = results(sink, 600, again);
            Harness.same(all.stream().filter(record -> record.value().equals("15")).count(), 2L * WORDS.size(), "last counts");
        }
    }

    /** KIP-1071: a broker without streams groups has to be refused by the client, not waited for. */
    static void streamsGroup() throws Exception {
        String source = Clients.topic("lines", PARTITIONS);
        String sink = Clients.topic("counts", PARTITIONS);
        send(source, 300);
        Application application = new Application(
            Harness.unique("kip1071"), "exactly_once_v2", counting(source, sink), "group.protocol", "streams");
        try (application) {
            application.streams.start();
            Harness.eventually(() -> application.failure != null || application.running(), "an answer");
            if (application.failure == null) {
                countedOnce(results(sink, 300, application), 15);
            } else {
                Harness.raises(UnsupportedVersionException.class, () -> {
                    throw new Exception(application.failure);
                });
            }
        }
    }
}
