import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.FeatureMetadata;
import org.apache.kafka.clients.admin.MemberToRemove;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.RemoveMembersFromConsumerGroupOptions;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.GroupType;
import org.apache.kafka.common.TopicCollection;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.common.errors.GroupNotEmptyException;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidPartitionsException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/** The Java admin client 4.2: topics, partitions, configs, groups, offsets, records, cluster. */
final class Administration {
    static void register(Harness harness) {
        harness.test("admin-topics", Administration::topics);
        harness.test("admin-configs", Administration::configs);
        harness.test("admin-groups", () -> groups("classic"));
        harness.test("admin-groups-kip848", () -> groups("consumer"));
        harness.test("admin-remove-members", Administration::removeMembers);
        harness.test("admin-records-and-offsets", Administration::records);
        harness.test("admin-cluster", Administration::cluster);
    }

    static void topics() throws Exception {
        try (Admin admin = Clients.admin()) {
            String topic = Harness.unique("admin");
            NewTopic fresh = new NewTopic(topic, 3, (short) 1);
            Harness.same(admin.createTopics(List.of(fresh)).numPartitions(topic).get(), 3, "partitions in the answer");
            Harness.raises(TopicExistsException.class, () -> admin.createTopics(List.of(fresh)).all().get());
            Harness.raises(InvalidTopicException.class,
                () -> admin.createTopics(List.of(new NewTopic("not a name", 1, (short) 1))).all().get());
            Harness.raises(InvalidPartitionsException.class,
                () -> admin.createTopics(List.of(new NewTopic(Harness.unique("zero"), 0, (short) 1))).all().get());
            Harness.eventually(() -> admin.listTopics().names().get().contains(topic), "the topic");
            TopicDescription found = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
            Harness.same(found.partitions().size(), 3, "partitions");
            TopicDescription byId = admin.describeTopics(TopicCollection.ofTopicIds(List.of(found.topicId())))
                .allTopicIds().get().get(found.topicId());
            Harness.same(byId.name(), topic, "name by id");
            admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all().get();
            Harness.eventually(() -> admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size() == 5,
                "five partitions");
            Harness.raises(InvalidPartitionsException.class,
                () -> admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(2))).all().get());
            admin.deleteTopics(TopicCollection.ofTopicIds(List.of(found.topicId()))).all().get();
            Harness.eventually(() -> !admin.listTopics().names().get().contains(topic), "the topic to vanish");
            Harness.raises(UnknownTopicOrPartitionException.class, () -> admin.deleteTopics(List.of(topic)).all().get());
        }
    }

    private static Config config(Admin admin, String topic) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        return admin.describeConfigs(List.of(resource)).all().get().get(resource);
    }

    private static void alter(Admin admin, String topic, String name, String value, AlterConfigOp.OpType type) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        Collection<AlterConfigOp> operations = List.of(new AlterConfigOp(new ConfigEntry(name, value), type));
        admin.incrementalAlterConfigs(Map.of(resource, operations)).all().get();
    }

    static void configs() throws Exception {
        try (Admin admin = Clients.admin()) {
            String topic = Clients.topic("configs", 1, "retention.ms", "100000");
            Harness.same(config(admin, topic).get("retention.ms").value(), "100000", "retention.ms");
            Harness.same(config(admin, topic).get("retention.ms").source(), ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, "source");
            Harness.same(config(admin, topic).get("cleanup.policy").source(), ConfigEntry.ConfigSource.DEFAULT_CONFIG, "source");
            alter(admin, topic, "cleanup.policy", "compact", AlterConfigOp.OpType.APPEND);
            Harness.eventually(() -> config(admin, topic).get("cleanup.policy").value().equals("delete,compact"), "cleanup.policy");
            alter(admin, topic, "cleanup.policy", "delete", AlterConfigOp.OpType.SUBTRACT);
            alter(admin, topic, "retention.ms", null, AlterConfigOp.OpType.DELETE);
            Harness.eventually(() -> config(admin, topic).get("retention.ms").value().equals("604800000"), "retention.ms");
            Harness.same(config(admin, topic).get("cleanup.policy").value(), "compact", "cleanup.policy");
            Harness.raises(InvalidConfigurationException.class,
                () -> alter(admin, topic, "no.such.config", "1", AlterConfigOp.OpType.SET));
            Harness.raises(InvalidConfigurationException.class,
                () -> alter(admin, topic, "retention.ms", "soon", AlterConfigOp.OpType.SET));
            String node = admin.describeCluster().controller().get().idString();
            ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, node);
            Harness.yes(admin.describeConfigs(List.of(broker)).all().get().get(broker).entries().size() > 5, "broker configs");
            Harness.yes(!admin.listConfigResources(Set.of(ConfigResource.Type.TOPIC), new org.apache.kafka.clients.admin.ListConfigResourcesOptions())
                .all().get().isEmpty(), "no topic has a config");
        }
    }

    private static void fill(String topic, int partitions, int count) {
        try (KafkaProducer<String, String> producer = Clients.producer()) {
            for (int i = 0; i < count; i++) {
                producer.send(new ProducerRecord<>(topic, i % partitions, null, String.valueOf(i)));
            }
        }
    }

    static void groups(String protocol) throws Exception {
        String topic = Clients.topic("groups", 2);
        String group = Harness.unique("group");
        TopicPartition place = new TopicPartition(topic, 1);
        fill(topic, 2, 10);
        try (Admin admin = Clients.admin()) {
            Clients.Member member = new Clients.Member(topic, group, "group.protocol", protocol, "client.id", "a-member");
            Harness.eventually(() -> member.count() == 10, "the member to read");
            ConsumerGroupDescription found = admin.describeConsumerGroups(List.of(group)).all().get().get(group);
            Harness.same(found.groupState(), GroupState.STABLE, "state");
            Harness.same(found.type(), protocol.equals("classic") ? GroupType.CLASSIC : GroupType.CONSUMER, "type");
            Harness.same(found.members().iterator().next().clientId(), "a-member", "client id");
            Harness.same(found.members().iterator().next().assignment().topicPartitions().size(), 2, "assigned partitions");
            Harness.yes(admin.listGroups().all().get().stream().anyMatch(g -> g.groupId().equals(group)), "not listed");
            Harness.raises(GroupNotEmptyException.class, () -> admin.deleteConsumerGroups(List.of(group)).all().get());
            member.stop();
            Harness.same(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(place).offset(), 5L, "offset");
            admin.alterConsumerGroupOffsets(group, Map.of(place, new OffsetAndMetadata(2, "moved"))).all().get();
            OffsetAndMetadata moved = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(place);
            Harness.same(moved.offset() + moved.metadata(), "2moved", "altered offset");
            admin.deleteConsumerGroupOffsets(group, Set.of(place)).all().get();
            Harness.same(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(place), null, "deleted offset");
            admin.deleteConsumerGroups(List.of(group)).all().get();
            Harness.raises(GroupIdNotFoundException.class, () -> admin.deleteConsumerGroups(List.of(group)).all().get());
        }
    }

    static void removeMembers() throws Exception {
        String topic = Clients.topic("remove", 1);
        String group = Harness.unique("group");
        try (Admin admin = Clients.admin()) {
            Clients.Member member = new Clients.Member(topic, group, "group.instance.id", "stays", "session.timeout.ms", "40000");
            Harness.eventually(() -> member.assigned.size() == 1, "the member to join");
            member.stop();
            Harness.same(admin.describeConsumerGroups(List.of(group)).all().get().get(group).members().size(), 1, "static members");
            admin.removeMembersFromConsumerGroup(group, new RemoveMembersFromConsumerGroupOptions(
                List.of(new MemberToRemove("stays")))).all().get();
            Harness.same(admin.describeConsumerGroups(List.of(group)).all().get().get(group).members().size(), 0, "members left");
        }
    }

    static void records() throws Exception {
        String topic = Clients.topic("records", 1);
        TopicPartition place = new TopicPartition(topic, 0);
        fill(topic, 1, 10);
        try (Admin admin = Clients.admin()) {
            Harness.same(offset(admin, place, OffsetSpec.latest()), 10L, "end offset");
            Harness.same(offset(admin, place, OffsetSpec.maxTimestamp()) >= 0, true, "offset of the greatest timestamp");
            long low = admin.deleteRecords(Map.of(place, RecordsToDelete.beforeOffset(4))).lowWatermarks().get(place).get().lowWatermark();
            Harness.same(low, 4L, "low watermark");
            Harness.same(offset(admin, place, OffsetSpec.earliest()), 4L, "first offset");
            Harness.same(Clients.values(Clients.readTopic(topic, 6, 1)).get(0), "4", "first value left");
            admin.deleteRecords(Map.of(place, RecordsToDelete.beforeOffset(-1))).all().get();
            Harness.same(offset(admin, place, OffsetSpec.earliest()), 10L, "first offset after deleting everything");
        }
    }

    private static long offset(Admin admin, TopicPartition place, OffsetSpec spec) throws Exception {
        return admin.listOffsets(Map.of(place, spec)).partitionResult(place).get().offset();
    }

    static void cluster() throws Exception {
        String topic = Clients.topic("dirs", 1);
        fill(topic, 1, 100);
        try (Admin admin = Clients.admin()) {
            Harness.yes(!admin.describeCluster().clusterId().get().isEmpty(), "no cluster id");
            Harness.same(admin.describeCluster().nodes().get().size(), 1, "nodes");
            FeatureMetadata features = admin.describeFeatures().featureMetadata().get();
            Harness.same((int) features.finalizedFeatures().get("transaction.version").maxVersionLevel(), 2, "transaction.version");
            Harness.same((int) features.finalizedFeatures().get("group.version").maxVersionLevel(), 1, "group.version");
            int node = admin.describeCluster().controller().get().id();
            long size = admin.describeLogDirs(List.of(node)).allDescriptions().get().get(node).values().stream()
                .flatMap(dir -> dir.replicaInfos().entrySet().stream())
                .filter(entry -> entry.getKey().topic().equals(topic)).mapToLong(entry -> entry.getValue().size()).sum();
            Harness.yes(size > 100, "size of the log " + size);
            Harness.yes(admin.describeMetadataQuorum().quorumInfo().get().leaderId() >= 0, "no quorum leader");
        }
    }
}
