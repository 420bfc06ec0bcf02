import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;

/** What is done to the broker or a group under consumers that run on: a reset of the group, kill -9 of the broker. */
final class Resets {
    private static final int COUNT = 400;

    static void register(Harness harness) {
        if (System.getenv("CONTROL") == null) {
            return;
        }
        harness.test("group-reset-while-it-runs", () -> reset("group.protocol", "classic", "heartbeat.interval.ms", "100"));
        harness.test("group-reset-while-it-runs-cooperative", () -> reset("heartbeat.interval.ms", "100",
            "partition.assignment.strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor"));
        harness.test("group-reset-while-it-runs-kip848", () -> reset("group.protocol", "consumer"));
        harness.test("share-group-goes-on-over-kill-9", Resets::shareOverKill);
    }

    private static void control(String command) throws Exception {
        String[] address = System.getenv("CONTROL").split(":");
        try (Socket socket = new Socket(address[0], Integer.parseInt(address[1]))) {
            socket.getOutputStream().write((command + "\n").getBytes(StandardCharsets.UTF_8));
            String said = new BufferedReader(new InputStreamReader(socket.getInputStream(), StandardCharsets.UTF_8)).readLine();
            Harness.same(said, "ok", command);
        }
    }

    /** Two consumers that commit all the time read everything, and after the reset everything again. */
    private static void reset(String... settings) throws Exception {
        String topic = Clients.topic("reset", 4);
        String group = Harness.unique("reset");
        try (KafkaProducer<String, String> producer = Clients.producer()) {
            for (int i = 0; i < COUNT; i++) {
                producer.send(new ProducerRecord<>(topic, i % 4, null, String.valueOf(i)));
            }
        }
        List<String> seen = Collections.synchronizedList(new ArrayList<>());
        boolean[] stop = new boolean[1];
        List<Thread> threads = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            Properties properties = Clients.settings("group.id", group, "auto.offset.reset", "earliest",
                "enable.auto.commit", "true", "auto.commit.interval.ms", "20");
            properties.putAll(Clients.settings(settings));
            Thread thread = Harness.daemon(() -> {
                try (KafkaConsumer<String, String> consumer =
                    new KafkaConsumer<>(properties, new StringDeserializer(), new StringDeserializer())) {
                    consumer.subscribe(List.of(topic));
                    while (!stop[0]) {
                        for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(100))) {
                            seen.add(record.value());
                        }
                    }
                }
            });
            thread.start();
            threads.add(thread);
        }
        Harness.eventually(() -> new HashSet<>(seen).size() == COUNT, "everything read");
        Thread.sleep(300); // and committed
        int before = seen.size();
        control("reset " + group);
        Harness.eventually(() -> new HashSet<>(seen.subList(before, seen.size())).size() == COUNT, "everything read again");
        stop[0] = true;
        for (Thread thread : threads) {
            thread.join(20_000);
        }
    }

    static void shareOverKill() throws Exception {
        String topic = Clients.topic("killed", 2);
        String group = Shares.group();
        try (KafkaProducer<String, String> producer = Clients.producer()) {
            for (int i = 0; i < COUNT; i++) {
                producer.send(new ProducerRecord<>(topic, i % 2, null, String.valueOf(i)));
            }
        }
        Set<String> seen = new HashSet<>();
        int kills = 0;
        long deadline = System.nanoTime() + 50_000_000_000L;
        try (KafkaShareConsumer<String, String> consumer = Shares.consumer(group, List.of(topic), "max.poll.records", "20")) {
            while (seen.size() < COUNT) {
                consumer.poll(Duration.ofMillis(200)).forEach(record -> seen.add(record.value()));
                Harness.yes(System.nanoTime() < deadline, "only " + seen.size() + " records");
                if (kills < 2 && seen.size() > COUNT * (kills + 1) / 4) {
                    kills++;
                    control("kill");
                }
            }
        }
        Harness.same(kills, 2, "kills");
    }
}
