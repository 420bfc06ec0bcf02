import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ListShareGroupOffsetsSpec;
import org.apache.kafka.clients.admin.ShareGroupDescription;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Share groups (KIP-932) with the Java client 4.2. */
final class Shares {
    static void register(Harness harness) {
        harness.test("share-group-shares-a-partition", Shares::sharesAPartition);
        harness.test("share-group-acknowledges-each", Shares::acknowledgesEach);
        harness.test("share-group-hands-out-again", Shares::handsOutAgain);
        harness.test("share-group-members-of-different-topics", Shares::differentTopics);
        harness.test("share-group-admin", Shares::admin);
    }

    static String group() throws Exception {
        String group = Harness.unique("share");
        ConfigResource resource = new ConfigResource(ConfigResource.Type.GROUP, group);
        AlterConfigOp earliest = new AlterConfigOp(new ConfigEntry("share.auto.offset.reset", "earliest"), AlterConfigOp.OpType.SET);
        try (Admin admin = Clients.admin()) {
            admin.incrementalAlterConfigs(Map.of(resource, List.of(earliest))).all().get();
        }
        return group;
    }

    static KafkaShareConsumer<String, String> consumer(String group, Collection<String> topics, String... pairs) {
        Properties properties = Clients.settings("group.id", group);
        properties.putAll(Clients.settings(pairs));
        KafkaShareConsumer<String, String> made =
            new KafkaShareConsumer<>(properties, new StringDeserializer(), new StringDeserializer());
        made.subscribe(topics);
        return made;
    }

    static void fill(String topic, int count) throws Exception {
        try (KafkaProducer<String, String> producer = Clients.producer("linger.ms", "5")) {
            for (int i = 0; i < count; i++) {
                producer.send(new ProducerRecord<>(topic, 0, "k", String.valueOf(i)));
            }
        }
    }

    static List<String> numbers(int from, int to) {
        return IntStream.range(from, to).mapToObj(String::valueOf).collect(Collectors.toList());
    }

    /** Polls until so many records came. */
    static List<ConsumerRecord<String, String>> read(KafkaShareConsumer<String, String> consumer, int count) {
        List<ConsumerRecord<String, String>> records = new ArrayList<>();
        long deadline = System.nanoTime() + 30_000_000_000L;
        while (records.size() < count) {
            consumer.poll(Duration.ofMillis(200)).forEach(records::add);
            Harness.yes(System.nanoTime() < deadline, "only " + records.size() + " of " + count + " records after 30 s");
        }
        return records;
    }

    static void sharesAPartition() throws Exception {
        String topic = Clients.topic("shared", 1);
        String group = group();
        int count = 2_000;
        ConcurrentLinkedQueue<Integer> seen = new ConcurrentLinkedQueue<>();
        Map<Integer, Integer> perMember = new HashMap<>();
        List<Thread> threads = new ArrayList<>();
        boolean[] stop = new boolean[1];
        for (int i = 0; i < 3; i++) {
            int me = i;
            Thread thread = Harness.daemon(() -> {
                try (KafkaShareConsumer<String, String> member = consumer(group, List.of(topic), "max.poll.records", "50")) {
                    int mine = 0;
                    while (!stop[0]) {
                        for (ConsumerRecord<String, String> record : member.poll(Duration.ofMillis(100))) {
                            seen.add(Integer.valueOf(record.value()));
                            mine++;
                        }
                    }
                    synchronized (perMember) {
                        perMember.put(me, mine);
                    }
                }
            });
            thread.start();
            threads.add(thread);
        }
        for (int round = 0; round < 10; round++) {
            try (KafkaProducer<String, String> producer = Clients.producer()) {
                for (int i = 0; i < count / 10; i++) {
                    producer.send(new ProducerRecord<>(topic, "k", String.valueOf(round * count / 10 + i)));
                }
            }
        }
        Harness.eventually(() -> seen.size() >= count, "all records shared out");
        stop[0] = true;
        for (Thread thread : threads) {
            thread.join(20_000);
        }
        List<Integer> sorted = seen.stream().sorted().collect(Collectors.toList());
        Harness.same(sorted, IntStream.range(0, count).boxed().collect(Collectors.toList()), "each record once");
        Harness.yes(perMember.values().stream().filter(mine -> mine > 0).count() >= 2, "one partition shared by members: " + perMember);
    }

    static void acknowledgesEach() throws Exception {
        String topic = Clients.topic("each", 1);
        String group = group();
        fill(topic, 9);
        try (KafkaShareConsumer<String, String> consumer =
            consumer(group, List.of(topic), "share.acknowledgement.mode", "explicit")) {
            Map<String, List<Short>> counts = new TreeMap<>();
            AcknowledgeType[] types = {AcknowledgeType.ACCEPT, AcknowledgeType.RELEASE, AcknowledgeType.REJECT};
            long deadline = System.nanoTime() + 30_000_000_000L;
            while (counts.values().stream().mapToInt(List::size).sum() < 12) {
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(200))) {
                    boolean first = record.deliveryCount().get() == 1;
                    counts.computeIfAbsent(record.value(), value -> new ArrayList<>()).add(record.deliveryCount().get());
                    consumer.acknowledge(record, first ? types[(int) (record.offset() % 3)] : AcknowledgeType.ACCEPT);
                }
                consumer.commitSync().values().forEach(error -> Harness.yes(error.isEmpty(), "acknowledged: " + error));
                Harness.yes(System.nanoTime() < deadline, "12 deliveries, found " + counts);
            }
            for (int i = 0; i < 9; i++) {
                List<Short> expected = i % 3 == 1 ? List.of((short) 1, (short) 2) : List.of((short) 1);
                Harness.same(counts.get(String.valueOf(i)), expected, "what was released comes again, nothing else: " + i);
            }
        }
        try (KafkaShareConsumer<String, String> consumer = consumer(group, List.of(topic))) {
            Harness.same(consumer.poll(Duration.ofSeconds(2)).count(), 0, "nothing is left");
        }
    }

    static void handsOutAgain() throws Exception {
        String topic = Clients.topic("again", 2);
        String group = group();
        fill(topic, 20);
        KafkaShareConsumer<String, String> quitter = consumer(group, List.of(topic), "share.acknowledgement.mode", "explicit");
        Harness.same(read(quitter, 20).size(), 20, "records");
        quitter.close(Duration.ofSeconds(5)); // with nothing acknowledged
        try (KafkaShareConsumer<String, String> heir = consumer(group, List.of(topic))) {
            List<ConsumerRecord<String, String>> records = read(heir, 20);
            Harness.same(Clients.values(records).stream().map(Integer::valueOf).sorted().map(String::valueOf)
                .collect(Collectors.toList()), numbers(0, 20), "records");
            Harness.yes(records.stream().allMatch(record -> record.deliveryCount().get() == 2), "delivered twice");
            heir.commitSync();
        }
    }

    static void differentTopics() throws Exception {
        String one = Clients.topic("one", 1);
        String other = Clients.topic("other", 1);
        String group = group();
        try (KafkaShareConsumer<String, String> first = consumer(group, List.of(one));
            KafkaShareConsumer<String, String> second = consumer(group, List.of(other))) {
            fill(one, 5);
            Harness.same(Clients.values(read(first, 5)), numbers(0, 5), "of its topic");
            fill(other, 6);
            Harness.same(Clients.values(read(second, 6)), numbers(0, 6), "of its topic");
        }
    }

    static void admin() throws Exception {
        String topic = Clients.topic("administered", 1);
        String group = group();
        fill(topic, 10);
        TopicPartition partition = new TopicPartition(topic, 0);
        try (Admin admin = Clients.admin()) {
            try (KafkaShareConsumer<String, String> consumer = consumer(group, List.of(topic), "client.id", "share-me")) {
                read(consumer, 10);
                consumer.commitSync();
                ShareGroupDescription described = admin.describeShareGroups(List.of(group)).all().get().get(group);
                Harness.same(described.groupState(), GroupState.STABLE, "state");
                Harness.same(described.members().size(), 1, "members");
                Harness.same(described.members().iterator().next().clientId(), "share-me", "client id");
                Harness.same(described.members().iterator().next().assignment().topicPartitions().contains(partition), true, "assigned");
                Harness.yes(admin.listGroups().all().get().stream().anyMatch(listed -> listed.groupId().equals(group)), "is listed");
            }
            Harness.eventually(() -> admin.describeShareGroups(List.of(group)).all().get().get(group).groupState() == GroupState.EMPTY, "empty");
            Harness.same(offset(admin, group, partition), 10L, "offset");
            admin.alterShareGroupOffsets(group, Map.of(partition, 7L)).all().get(20, TimeUnit.SECONDS);
            Harness.same(offset(admin, group, partition), 7L, "offset");
            try (KafkaShareConsumer<String, String> consumer = consumer(group, List.of(topic))) {
                Harness.same(Clients.values(read(consumer, 3)), numbers(7, 10), "from the new offset");
                consumer.commitSync();
            }
            Harness.eventually(() -> admin.describeShareGroups(List.of(group)).all().get().get(group).groupState() == GroupState.EMPTY, "empty");
            admin.deleteShareGroups(List.of(group)).all().get(20, TimeUnit.SECONDS);
            Harness.yes(admin.listGroups().all().get().stream().noneMatch(listed -> listed.groupId().equals(group)), "is gone");
        }
    }

    static Long offset(Admin admin, String group, TopicPartition partition) throws Exception {
        ListShareGroupOffsetsSpec spec = new ListShareGroupOffsetsSpec().topicPartitions(List.of(partition));
        Object found = admin.listShareGroupOffsets(Map.of(group, spec)).partitionsToOffsetInfo(group).get().get(partition);
        return found == null ? null : ((org.apache.kafka.clients.admin.SharePartitionOffsetInfo) found).startOffset();
    }
}
