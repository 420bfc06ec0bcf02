import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.GroupType;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.TopicCollection;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionReplica;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.quota.ClientQuotaAlteration;
import org.apache.kafka.common.quota.ClientQuotaEntity;
import org.apache.kafka.common.quota.ClientQuotaFilter;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Calls every method of the Java admin client 4.2 and prints what became of it, a line each, for
 * `interop.compare_admin`, which runs it against two brokers and shows the lines that differ.
 */
@SuppressWarnings({"deprecation", "removal"})
public final class AdminTour {
    private static final int LIMIT_MS = 10_000;
    private static final int SLOW_MS = 5_000;
    private static final ConfigResource TOPIC = new ConfigResource(ConfigResource.Type.TOPIC, "tour");
    private static final TopicPartition PLACE = new TopicPartition("tour", 0);
    private static final TopicPartition MISSING = new TopicPartition("missing", 0);
    private static final TopicPartition BEYOND = new TopicPartition("tour", 99);

    private final Admin admin;
    private final Set<String> called = new HashSet<>();
    private int node;

    private AdminTour(Admin admin) {
        this.admin = admin;
    }

    public static void main(String[] arguments) throws Exception {
        try (Admin admin = Admin.create(Clients.settings("request.timeout.ms", "5000", "default.api.timeout.ms", "8000"))) {
            AdminTour tour = new AdminTour(admin);
            tour.topics();
            tour.configs();
            tour.records();
            tour.groups();
            tour.shareGroups();
            tour.streamsGroups();
            tour.transactions();
            tour.cluster();
            tour.security();
            tour.end();
        }
        System.out.flush();
        Runtime.getRuntime().halt(0);
    }

    /** Prints one line: the value, or error, of each future that the call's result has. */
    private void step(String name, Callable<?> call) {
        called.add(name.split(" ")[0]);
        long began = System.nanoTime();
        List<String> outcomes = new ArrayList<>();
        try {
            Object result = call.call();
            List<Method> methods = new ArrayList<>(List.of(result.getClass().getMethods()));
            methods.removeIf(method -> method.getParameterCount() > 0 || result instanceof KafkaFuture
                || !(KafkaFuture.class.isAssignableFrom(method.getReturnType()) || Map.class.isAssignableFrom(method.getReturnType())));
            methods.sort(Comparator.comparing(Method::getName));
            if (methods.isEmpty()) {
                outcomes.add(outcome(result));
            }
            for (Method method : methods) {
                method.setAccessible(true);
                try {
                    outcomes.add("." + method.getName() + " " + outcome(method.invoke(result)));
                } catch (InvocationTargetException raised) {
                    outcomes.add("." + method.getName() + " " + error(raised.getCause()));
                }
            }
        } catch (Exception raised) {
            outcomes.add(error(raised instanceof ExecutionException ? raised.getCause() : raised));
        }
        if (TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - began) > SLOW_MS) {
            outcomes.add("and that slowly");
        }
        System.out.println(name + " = " + String.join(" ", outcomes));
    }

    private static String outcome(Object value) throws Exception {
        if (value instanceof KafkaFuture<?> future) {
            try {
                return outcome(future.get(LIMIT_MS, TimeUnit.MILLISECONDS));
            } catch (ExecutionException raised) {
                return error(raised.getCause());
            }
        }
        if (value instanceof Map<?, ?> map) {
            TreeMap<String, String> sorted = new TreeMap<>();
            for (Map.Entry<?, ?> entry : map.entrySet()) {
                sorted.put(show(entry.getKey()), outcome(entry.getValue()));
            }
            return sorted.toString();
        }
        return show(value);
    }

    private static String error(Throwable raised) {
        return neutral(raised.getClass().getSimpleName() + ": " + raised.getMessage());
    }

    private static String show(Object value) {
        if (value instanceof Collection<?> collection) {
            return collection.stream().map(AdminTour::show).sorted().collect(Collectors.toList()).toString();
        }
        if (value instanceof Optional<?> optional) {
            return optional.map(AdminTour::show).orElse("none");
        }
        if (value instanceof Config config) {
            return config.entries().stream().filter(entry -> entry.source().name().matches("DYNAMIC_(TOPIC|GROUP|BROKER|CLIENT_METRICS)_CONFIG"))
                .map(entry -> entry.name() + "=" + entry.value()).sorted().collect(Collectors.toList()).toString();
        }
        return neutral(String.valueOf(value));
    }

    /** Without what differs from run to run by its nature: ids, ports, times, epochs, counts of attempts, the order of sets. */
    private static String neutral(String text) {
        String plain = text.replaceAll("\\b(?=[A-Z_-]*[a-z0-9])[A-Za-z0-9_-]{22}\\b", "ID").replaceAll("[0-9a-f]{8}-[0-9a-f]{4}-[A-Za-z0-9-]+", "ID")
            .replaceAll("127\\.0\\.0\\.1:\\d+", "HOST:PORT").replaceAll("\\b1[78]\\d{11}\\b", "TIME").replaceAll("@[0-9a-f]{5,8}\\b", "@")
            .replaceAll("(?i)(epoch=)(Optional\\[)?\\d+\\]?", "$1N").replaceAll("tries=\\d+|after \\d+ attempt", "tries").replaceAll("\\s+", " ")
            .replaceAll("TimeoutException: .*", "TimeoutException");
        return Pattern.compile("(?<=[\\[=])[A-Za-z_]+[-A-Za-z0-9_]*(,\\s?[A-Za-z_]+[-A-Za-z0-9_]*)+(?=[\\])])").matcher(plain)
            .replaceAll(found -> Matcher.quoteReplacement(Stream.of(found.group().split(",\\s?")).sorted().collect(Collectors.joining(","))));
    }

    private static AlterConfigOp set(String name, String value) {
        return new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET);
    }

    private void topics() throws Exception {
        NewTopic tour = new NewTopic("tour", Optional.of(2), Optional.empty()).configs(Map.of("retention.ms", "800000000000"));
        step("createTopics validate", () -> admin.createTopics(List.of(new NewTopic("validated", 3, (short) 1)), new CreateTopicsOptions().validateOnly(true)));
        step("createTopics", () -> admin.createTopics(List.of(tour)));
        step("createTopics again", () -> admin.createTopics(List.of(tour)));
        step("createTopics bad", () -> admin.createTopics(List.of(new NewTopic("bad name", 1, (short) 1),
            new NewTopic("minus", -5, (short) 1), new NewTopic("config", 1, (short) 1).configs(Map.of("nonsense", "1")),
            new NewTopic("value", 1, (short) 1).configs(Map.of("retention.ms", "x")), new NewTopic("fine", 1, (short) 1))));
        step("createTopics assigned", () -> admin.createTopics(List.of(new NewTopic("assigned", Map.of(0, List.of(nodeId()), 1, List.of(nodeId()))))));
        step("createTopics assigned to nobody", () -> admin.createTopics(List.of(new NewTopic("astray", Map.of(0, List.of(99))))));
        Harness.eventually(() -> admin.listTopics().names().get().contains("assigned"), "the topics");
        step("listTopics", () -> admin.listTopics(new ListTopicsOptions().listInternal(false)));
        step("describeTopics", () -> admin.describeTopics(List.of("tour", "missing"), new DescribeTopicsOptions().includeAuthorizedOperations(true)));
        step("describeTopics paged", () -> admin.describeTopics(List.of("tour", "fine"), new DescribeTopicsOptions().partitionSizeLimitPerResponse(1)));
        step("describeTopics by unknown id", () -> admin.describeTopics(TopicCollection.ofTopicIds(List.of(new Uuid(1, 2)))));
        step("describeTopics empty name", () -> admin.describeTopics(List.of("")));
        step("createPartitions", () -> admin.createPartitions(Map.of("tour", NewPartitions.increaseTo(3), "missing", NewPartitions.increaseTo(3),
            "fine", NewPartitions.increaseTo(1))));
        step("createPartitions validate", () -> admin.createPartitions(Map.of("tour", NewPartitions.increaseTo(9)), new CreatePartitionsOptions().validateOnly(true)));
        step("createPartitions assigned", () -> admin.createPartitions(Map.of("fine", NewPartitions.increaseTo(2, List.of(List.of(99))))));
        step("deleteTopics", () -> admin.deleteTopics(List.of("fine", "missing")));
        step("deleteTopics by unknown id", () -> admin.deleteTopics(TopicCollection.ofTopicIds(List.of(new Uuid(1, 2)))));
    }

    private int nodeId() throws Exception {
        return node = admin.describeCluster().nodes().get().iterator().next().id();
    }

    private void configs() throws Exception {
        ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, String.valueOf(nodeId()));
        ConfigResource brokers = new ConfigResource(ConfigResource.Type.BROKER, "");
        ConfigResource logger = new ConfigResource(ConfigResource.Type.BROKER_LOGGER, String.valueOf(node));
        ConfigResource group = new ConfigResource(ConfigResource.Type.GROUP, "tour-group");
        ConfigResource metrics = new ConfigResource(ConfigResource.Type.CLIENT_METRICS, "tour-metrics");
        step("describeConfigs topic", () -> admin.describeConfigs(List.of(TOPIC)));
        step("describeConfigs missing topic", () -> admin.describeConfigs(List.of(new ConfigResource(ConfigResource.Type.TOPIC, "missing"))));
        step("describeConfigs group", () -> admin.describeConfigs(List.of(group)));
        step("describeConfigs other broker", () -> admin.describeConfigs(List.of(new ConfigResource(ConfigResource.Type.BROKER, "99"))));
        step("describeConfigs default broker", () -> admin.describeConfigs(List.of(brokers)));
        step("describeConfigs metrics", () -> admin.describeConfigs(List.of(metrics)));
        step("describeConfigs broker", () -> !admin.describeConfigs(List.of(broker)).all().get().get(broker).entries().isEmpty());
        step("describeConfigs logger", () -> !admin.describeConfigs(List.of(logger)).all().get().isEmpty());
        step("incrementalAlterConfigs", () -> admin.incrementalAlterConfigs(Map.of(TOPIC, List.of(set("retention.ms", "900000000000"), set("min.insync.replicas", "1")))));
        step("incrementalAlterConfigs validate", () -> admin.incrementalAlterConfigs(
            Map.of(TOPIC, List.of(set("retention.ms", "7"))), new AlterConfigsOptions().validateOnly(true)));
        step("incrementalAlterConfigs bad value", () -> admin.incrementalAlterConfigs(Map.of(TOPIC, List.of(set("cleanup.policy", "sometimes")))));
        step("incrementalAlterConfigs bad name", () -> admin.incrementalAlterConfigs(Map.of(TOPIC, List.of(set("nonsense", "1")))));
        step("incrementalAlterConfigs twice one name", () -> admin.incrementalAlterConfigs(
            Map.of(TOPIC, List.of(set("retention.ms", "1"), set("retention.ms", "2")))));
        step("incrementalAlterConfigs append", () -> admin.incrementalAlterConfigs(Map.of(TOPIC,
            List.of(new AlterConfigOp(new ConfigEntry("retention.ms", "1"), AlterConfigOp.OpType.APPEND)))));
        step("incrementalAlterConfigs missing topic", () -> admin.incrementalAlterConfigs(
            Map.of(new ConfigResource(ConfigResource.Type.TOPIC, "missing"), List.of(set("retention.ms", "1")))));
        step("incrementalAlterConfigs group", () -> admin.incrementalAlterConfigs(Map.of(group, List.of(set("consumer.session.timeout.ms", "50000")))));
        for (String config : List.of("share.session.timeout.ms=50000", "share.session.timeout.ms=6000", "share.session.timeout.ms=x",
            "share.heartbeat.interval.ms=6000", "share.heartbeat.interval.ms=50000", "share.record.lock.duration.ms=50000",
            "share.record.lock.duration.ms=6000", "share.record.lock.duration.ms=1", "share.auto.offset.reset=by_duration:PT1H",
            "share.auto.offset.reset=by_duration:1h", "share.isolation.level=read_committed", "share.isolation.level=1")) {
            String[] pair = config.split("=", 2);
            step("incrementalAlterConfigs group " + pair[0] + " " + pair[1],
                () -> admin.incrementalAlterConfigs(Map.of(group, List.of(set(pair[0], pair[1])))).all());
        }
        step("describeConfigs group after many", () -> admin.describeConfigs(List.of(group)).all());
        step("incrementalAlterConfigs group bad", () -> admin.incrementalAlterConfigs(Map.of(group, List.of(set("consumer.session.timeout.ms", "1")))));
        step("incrementalAlterConfigs broker", () -> admin.incrementalAlterConfigs(Map.of(broker, List.of(set("log.retention.ms", "86400000")))));
        step("incrementalAlterConfigs brokers", () -> admin.incrementalAlterConfigs(Map.of(brokers, List.of(set("log.cleaner.threads", "1")))));
        step("incrementalAlterConfigs read-only", () -> admin.incrementalAlterConfigs(Map.of(broker, List.of(set("node.id", "7")))));
        step("incrementalAlterConfigs metrics", () -> admin.incrementalAlterConfigs(Map.of(metrics, List.of(set("interval.ms", "60000")))));
        step("incrementalAlterConfigs logger", () -> admin.incrementalAlterConfigs(Map.of(logger, List.of(set("kafka.server", "INFO")))));
        step("describeConfigs group altered", () -> admin.describeConfigs(List.of(group)));
        step("describeConfigs topic altered", () -> admin.describeConfigs(List.of(TOPIC)));
        step("listConfigResources", admin::listConfigResources);
        step("listConfigResources groups", () -> admin.listConfigResources(Set.of(ConfigResource.Type.GROUP), new ListConfigResourcesOptions()));
        step("listClientMetricsResources", admin::listClientMetricsResources);
        step("incrementalAlterConfigs delete", () -> admin.incrementalAlterConfigs(Map.of(group,
            List.of(new AlterConfigOp(new ConfigEntry("consumer.session.timeout.ms", null), AlterConfigOp.OpType.DELETE)))));
        step("incrementalAlterConfigs delete broker", () -> admin.incrementalAlterConfigs(Map.of(broker,
            List.of(new AlterConfigOp(new ConfigEntry("log.retention.ms", null), AlterConfigOp.OpType.DELETE)))));
    }

    private void records() throws Exception {
        try (KafkaProducer<String, String> producer = Clients.producer()) {
            for (int i = 0; i < 10; i++) {
                producer.send(new ProducerRecord<>("tour", 0, 1_600_000_000_000L + i, "key", "value-" + i));
            }
        }
        for (OffsetSpec spec : List.of(OffsetSpec.earliest(), OffsetSpec.latest(), OffsetSpec.maxTimestamp(), OffsetSpec.forTimestamp(1_600_000_000_004L),
            OffsetSpec.forTimestamp(1_900_000_000_000L), OffsetSpec.earliestLocal(), OffsetSpec.latestTiered(), OffsetSpec.earliestPendingUpload())) {
            step("listOffsets " + spec.getClass().getSimpleName(), () -> admin.listOffsets(Map.of(PLACE, spec)));
        }
        step("listOffsets committed", () -> admin.listOffsets(Map.of(PLACE, OffsetSpec.latest()), new ListOffsetsOptions(IsolationLevel.READ_COMMITTED)));
        step("listOffsets empty partition", () -> admin.listOffsets(Map.of(new TopicPartition("tour", 1), OffsetSpec.maxTimestamp())));
        step("listOffsets missing", () -> admin.listOffsets(Map.of(MISSING, OffsetSpec.latest()), new ListOffsetsOptions().timeoutMs(2_000)));
        step("deleteRecords", () -> admin.deleteRecords(Map.of(PLACE, RecordsToDelete.beforeOffset(3))).lowWatermarks().get(PLACE).get().lowWatermark());
        step("deleteRecords beyond", () -> admin.deleteRecords(Map.of(PLACE, RecordsToDelete.beforeOffset(1000))));
        step("deleteRecords missing", () -> admin.deleteRecords(Map.of(MISSING, RecordsToDelete.beforeOffset(1)), new DeleteRecordsOptions().timeoutMs(2_000)));
        step("describeLogDirs", () -> admin.describeLogDirs(List.of(node)).allDescriptions().get().get(node).values().iterator().next()
            .replicaInfos().containsKey(PLACE));
        step("describeReplicaLogDirs", () -> admin.describeReplicaLogDirs(List.of(new TopicPartitionReplica("tour", 0, node))).values().size());
        String dir = admin.describeLogDirs(List.of(node)).allDescriptions().get().get(node).keySet().iterator().next();
        step("alterReplicaLogDirs", () -> admin.alterReplicaLogDirs(Map.of(new TopicPartitionReplica("tour", 0, node), dir)));
        step("alterReplicaLogDirs elsewhere", () -> admin.alterReplicaLogDirs(Map.of(new TopicPartitionReplica("tour", 0, node), "/no/such/dir")));
        step("describeProducers", () -> admin.describeProducers(List.of(new TopicPartition("tour", 1))));
        step("describeProducers missing", () -> admin.describeProducers(List.of(MISSING), new DescribeProducersOptions().timeoutMs(2_000)));
        step("describeProducers beyond", () -> admin.describeProducers(List.of(BEYOND), new DescribeProducersOptions().timeoutMs(2_000)));
    }

    private KafkaConsumer<String, String> member(String group, String... pairs) {
        List<String> all = new ArrayList<>(List.of("group.id", group, "client.id", "tour"));
        all.addAll(List.of(pairs));
        KafkaConsumer<String, String> consumer = Clients.consumer(all.toArray(String[]::new));
        consumer.subscribe(List.of("tour"));
        Clients.read(consumer, 5);
        consumer.commitSync();
        return consumer;
    }

    private void groups() throws Exception {
        try (KafkaConsumer<String, String> classic = member("classic", "group.instance.id", "static");
            KafkaConsumer<String, String> modern = member("modern", "group.protocol", "consumer")) {
            step("listGroups", admin::listGroups);
            step("listGroups classic", () -> admin.listGroups(new ListGroupsOptions().withTypes(Set.of(GroupType.CLASSIC)).inGroupStates(Set.of(GroupState.STABLE))));
            step("listGroups for consumers", () -> admin.listGroups(ListGroupsOptions.forConsumerGroups()));
            step("listConsumerGroups", admin::listConsumerGroups);
            step("describeConsumerGroups", () -> admin.describeConsumerGroups(List.of("classic", "modern", "missing"),
                new DescribeConsumerGroupsOptions().includeAuthorizedOperations(true)));
            step("describeClassicGroups", () -> admin.describeClassicGroups(List.of("classic", "modern", "missing")));
            step("deleteConsumerGroups live", () -> admin.deleteConsumerGroups(List.of("classic", "modern", "missing")));
            step("alterConsumerGroupOffsets live", () -> admin.alterConsumerGroupOffsets("classic", Map.of(PLACE, new OffsetAndMetadata(1))));
            step("alterConsumerGroupOffsets live modern", () -> admin.alterConsumerGroupOffsets("modern", Map.of(PLACE, new OffsetAndMetadata(1))));
            step("deleteConsumerGroupOffsets live", () -> admin.deleteConsumerGroupOffsets("classic", Set.of(PLACE)));
            step("deleteConsumerGroupOffsets missing", () -> admin.deleteConsumerGroupOffsets("classic", Set.of(MISSING)));
            step("deleteConsumerGroupOffsets live modern", () -> admin.deleteConsumerGroupOffsets("modern", Set.of(PLACE)));
            step("removeMembersFromConsumerGroup unknown", () -> admin.removeMembersFromConsumerGroup("classic",
                new RemoveMembersFromConsumerGroupOptions(List.of(new MemberToRemove("nobody")))).all());
            step("removeMembersFromConsumerGroup", () -> admin.removeMembersFromConsumerGroup("classic", new RemoveMembersFromConsumerGroupOptions()));
        }
        step("listConsumerGroupOffsets", () -> admin.listConsumerGroupOffsets("classic"));
        step("listConsumerGroupOffsets missing", () -> admin.listConsumerGroupOffsets("missing"));
        step("listConsumerGroupOffsets many", () -> admin.listConsumerGroupOffsets(Map.of(
            "classic", new ListConsumerGroupOffsetsSpec(), "modern", new ListConsumerGroupOffsetsSpec().topicPartitions(List.of(PLACE, MISSING)))));
        step("alterConsumerGroupOffsets", () -> admin.alterConsumerGroupOffsets("classic",
            Map.of(PLACE, new OffsetAndMetadata(1, Optional.of(0), "moved"), MISSING, new OffsetAndMetadata(1), BEYOND, new OffsetAndMetadata(1))));
        step("alterConsumerGroupOffsets new group", () -> admin.alterConsumerGroupOffsets("fresh", Map.of(PLACE, new OffsetAndMetadata(2))));
        step("describeConsumerGroups fresh", () -> admin.describeConsumerGroups(List.of("fresh")));
        step("describeClassicGroups fresh", () -> admin.describeClassicGroups(List.of("fresh")));
        step("deleteConsumerGroupOffsets", () -> admin.deleteConsumerGroupOffsets("classic", Set.of(PLACE)));
        step("deleteConsumerGroupOffsets missing group", () -> admin.deleteConsumerGroupOffsets("missing", Set.of(PLACE)));
        step("deleteConsumerGroups", () -> admin.deleteConsumerGroups(List.of("classic", "modern", "fresh")));
    }

    private void shareGroups() throws Exception {
        try (KafkaShareConsumer<String, String> consumer = new KafkaShareConsumer<>(
            Clients.settings("group.id", "share", "client.id", "tour"), new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of("tour"));
            Harness.eventually(() -> {
                consumer.poll(Duration.ofMillis(100));
                return admin.listGroups(ListGroupsOptions.forShareGroups()).all().get().stream().anyMatch(one -> one.groupId().equals("share"))
                    && admin.describeShareGroups(List.of("share")).all().get().get("share").members().stream()
                    .anyMatch(member -> !member.assignment().topicPartitions().isEmpty());
            }, "an assignment");
            step("describeShareGroups", () -> admin.describeShareGroups(List.of("share", "missing")));
            step("alterShareGroupOffsets live", () -> admin.alterShareGroupOffsets("share", Map.of(PLACE, 5L)));
            step("deleteShareGroups live", () -> admin.deleteShareGroups(List.of("share")));
        }
        step("alterShareGroupOffsets", () -> admin.alterShareGroupOffsets("share", Map.of(PLACE, 5L, MISSING, 5L)));
        step("alterShareGroupOffsets new group", () -> admin.alterShareGroupOffsets("new-share", Map.of(PLACE, 5L)));
        step("describeShareGroups new group", () -> admin.describeShareGroups(List.of("new-share")));
        step("listShareGroupOffsets", () -> admin.listShareGroupOffsets(Map.of("share", new ListShareGroupOffsetsSpec())));
        step("listShareGroupOffsets some", () -> admin.listShareGroupOffsets(Map.of("share", new ListShareGroupOffsetsSpec().topicPartitions(List.of(PLACE, MISSING)))));
        step("listShareGroupOffsets missing", () -> admin.listShareGroupOffsets(Map.of("missing", new ListShareGroupOffsetsSpec())));
        step("deleteShareGroupOffsets", () -> admin.deleteShareGroupOffsets("share", Set.of("tour")));
        step("deleteShareGroupOffsets missing topic", () -> admin.deleteShareGroupOffsets("share", Set.of("missing")));
        step("deleteShareGroupOffsets missing group", () -> admin.deleteShareGroupOffsets("missing", Set.of("tour")));
        step("deleteShareGroups", () -> admin.deleteShareGroups(List.of("share", "missing")));
    }

    private void streamsGroups() {
        step("describeStreamsGroups", () -> admin.describeStreamsGroups(List.of("missing")));
        step("listStreamsGroupOffsets", () -> admin.listStreamsGroupOffsets(Map.of("missing", new ListStreamsGroupOffsetsSpec())));
        step("alterStreamsGroupOffsets", () -> admin.alterStreamsGroupOffsets("streams", Map.of(PLACE, new OffsetAndMetadata(1))));
        step("deleteStreamsGroupOffsets", () -> admin.deleteStreamsGroupOffsets("streams", Set.of(PLACE)));
        step("deleteStreamsGroups", () -> admin.deleteStreamsGroups(List.of("streams", "missing")));
    }

    private void transactions() throws Exception {
        TopicPartition place = new TopicPartition("tour", 2);
        try (KafkaProducer<String, String> producer = Clients.producer("transactional.id", "tour-tx")) {
            producer.initTransactions();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>("tour", 2, null, "open")).get();
            step("describeTransactions", () -> admin.describeTransactions(List.of("tour-tx", "missing"))
                .description("tour-tx").thenApply(found -> found.state() + " " + found.topicPartitions()).get());
            step("describeTransactions missing", () -> admin.describeTransactions(List.of("missing")));
            step("describeTransactions empty", () -> admin.describeTransactions(List.of("")));
            step("listTransactions", () -> admin.listTransactions().all().get().stream().map(t -> t.transactionalId() + " " + t.state()).collect(Collectors.toList()));
            for (ListTransactionsOptions options : List.of(new ListTransactionsOptions().filterOnDuration(3_600_000),
                new ListTransactionsOptions().filterStates(Set.of(TransactionState.EMPTY)), new ListTransactionsOptions().filterOnTransactionalIdPattern("tour.*"),
                new ListTransactionsOptions().filterOnTransactionalIdPattern("(((")
            )) {
                step("listTransactions filtered", () -> admin.listTransactions(options).all().get().size());
            }
            ProducerState state = admin.describeProducers(List.of(place)).partitionResult(place).get().activeProducers().get(0);
            step("describeProducers in a transaction", () -> state.lastSequence() + " " + state.currentTransactionStartOffset());
            step("abortTransaction", () -> admin.abortTransaction(new AbortTransactionSpec(place, state.producerId(), (short) state.producerEpoch(),
                state.coordinatorEpoch().orElse(0))));
            step("forceTerminateTransaction", () -> admin.forceTerminateTransaction("tour-tx"));
            step("fenceProducers", () -> admin.fenceProducers(List.of("tour-tx", "new-tx")).all());
            step("describeTransactions new", () -> admin.describeTransactions(List.of("new-tx")).description("new-tx").thenApply(found -> found.state()).get());
            step("forceTerminateTransaction missing", () -> admin.forceTerminateTransaction("missing-tx"));
        }
    }

    private void cluster() throws Exception {
        step("describeCluster", () -> admin.describeCluster(new DescribeClusterOptions().includeAuthorizedOperations(true)).authorizedOperations());
        step("describeCluster fenced", () -> admin.describeCluster(new DescribeClusterOptions().includeFencedBrokers(true)).nodes().get().size());
        step("describeFeatures", () -> admin.describeFeatures().featureMetadata().get().finalizedFeatures().get("transaction.version"));
        step("updateFeatures", () -> admin.updateFeatures(Map.of("transaction.version", new FeatureUpdate((short) 2, FeatureUpdate.UpgradeType.UPGRADE)),
            new UpdateFeaturesOptions().validateOnly(true)));
        step("updateFeatures unknown", () -> admin.updateFeatures(Map.of("nonsense", new FeatureUpdate((short) 2, FeatureUpdate.UpgradeType.UPGRADE)), new UpdateFeaturesOptions()));
        step("describeMetadataQuorum", () -> admin.describeMetadataQuorum().quorumInfo().thenApply(found -> found.leaderId() >= 0).get());
        step("electLeaders preferred", () -> admin.electLeaders(ElectionType.PREFERRED, Set.of(PLACE, MISSING)));
        step("electLeaders unclean", () -> admin.electLeaders(ElectionType.UNCLEAN, Set.of(PLACE)));
        step("electLeaders all", () -> admin.electLeaders(ElectionType.PREFERRED, null));
        step("alterPartitionReassignments same", () -> admin.alterPartitionReassignments(
            Map.of(PLACE, Optional.of(new NewPartitionReassignment(List.of(node))), MISSING, Optional.of(new NewPartitionReassignment(List.of(node))))));
        step("alterPartitionReassignments other", () -> admin.alterPartitionReassignments(Map.of(PLACE, Optional.of(new NewPartitionReassignment(List.of(99))))));
        step("alterPartitionReassignments cancel", () -> admin.alterPartitionReassignments(Map.of(PLACE, Optional.empty())));
        step("listPartitionReassignments", admin::listPartitionReassignments);
        step("listPartitionReassignments some", () -> admin.listPartitionReassignments(Set.of(PLACE)));
        step("unregisterBroker", () -> admin.unregisterBroker(99));
        step("addRaftVoter", () -> admin.addRaftVoter(99, new Uuid(1, 2), Set.of(new RaftVoterEndpoint("CONTROLLER", "localhost", 1))));
        step("removeRaftVoter", () -> admin.removeRaftVoter(99, new Uuid(1, 2)));
        step("clientInstanceId", () -> admin.clientInstanceId(Duration.ofSeconds(5)));
        step("metrics", () -> !admin.metrics().isEmpty());
    }

    private void security() {
        AclBinding acl = new AclBinding(new ResourcePattern(ResourceType.TOPIC, "tour", PatternType.LITERAL),
            new AccessControlEntry("User:x", "*", AclOperation.READ, AclPermissionType.ALLOW));
        step("describeAcls", () -> admin.describeAcls(AclBindingFilter.ANY));
        step("createAcls", () -> admin.createAcls(List.of(acl)));
        step("deleteAcls", () -> admin.deleteAcls(List.of(AclBindingFilter.ANY)));
        step("describeClientQuotas", () -> admin.describeClientQuotas(ClientQuotaFilter.all()));
        step("alterClientQuotas", () -> admin.alterClientQuotas(List.of(new ClientQuotaAlteration(
            new ClientQuotaEntity(Map.of("client-id", "x")), List.of(new ClientQuotaAlteration.Op("producer_byte_rate", 1e9))))));
        step("describeUserScramCredentials", admin::describeUserScramCredentials);
        step("describeUserScramCredentials one", () -> admin.describeUserScramCredentials(List.of("x")));
        step("alterUserScramCredentials", () -> admin.alterUserScramCredentials(List.of(
            new UserScramCredentialUpsertion("x", new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 8192), "secret"))));
        step("createDelegationToken", admin::createDelegationToken);
        step("renewDelegationToken", () -> admin.renewDelegationToken(new byte[3]));
        step("expireDelegationToken", () -> admin.expireDelegationToken(new byte[3]));
        step("describeDelegationToken", admin::describeDelegationToken);
    }

    /** Every method of the interface has to have been called, so that a later client's are noticed. */
    private void end() {
        called.addAll(List.of("close", "create", "registerMetricForSubscription", "unregisterMetricFromSubscription"));
        Set<String> missed = new TreeSet<>();
        for (Method method : Admin.class.getMethods()) {
            if (!called.contains(method.getName())) {
                missed.add(method.getName());
            }
        }
        System.out.println("not called = " + missed);
    }
}
