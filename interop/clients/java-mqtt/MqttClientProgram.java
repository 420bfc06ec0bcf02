import com.hivemq.client.mqtt.MqttClient;
import com.hivemq.client.mqtt.datatypes.MqttQos;
import com.hivemq.client.mqtt.mqtt3.Mqtt3BlockingClient;
import com.hivemq.client.mqtt.mqtt3.message.publish.Mqtt3Publish;
import com.hivemq.client.mqtt.mqtt5.Mqtt5AsyncClient;
import com.hivemq.client.mqtt.mqtt5.datatypes.Mqtt5UserProperties;
import com.hivemq.client.mqtt.mqtt5.exceptions.Mqtt5DisconnectException;
import com.hivemq.client.mqtt.mqtt5.message.connect.connack.Mqtt5ConnAck;
import com.hivemq.client.mqtt.mqtt5.message.disconnect.Mqtt5DisconnectReasonCode;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5PayloadFormatIndicator;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5Publish;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** HiveMQ's Java client 1.3, MQTT 5 and 3.1.1: what interop/clients/mqtt_scenarios.py asks of the Python libraries. */
public final class MqttClientProgram {
    static final String[] ADDRESS = System.getenv().getOrDefault("MQTT", "127.0.0.1:1883").split(":");
    static final int WAIT_S = 20;

    public static void main(String[] names) {
        Harness harness = new Harness();
        harness.test("qos-both-ways-v5", MqttClientProgram::qosBothWays);
        harness.test("qos-and-session-v3.1.1", MqttClientProgram::version3);
        harness.test("retained-v5", MqttClientProgram::retained);
        harness.test("will-v5", MqttClientProgram::will);
        harness.test("persistent-session-v5", () -> offline(""));
        harness.test("persistent-session-over-restart-v5", () -> offline("restart"));
        harness.test("persistent-session-over-kill-v5", () -> offline("kill"));
        harness.test("reconnects-by-itself-after-a-kill-v5", MqttClientProgram::reconnects);
        harness.test("shared-subscription-v5", MqttClientProgram::shared);
        harness.test("properties-v5", MqttClientProgram::properties);
        harness.test("topic-aliases-and-receive-maximum-v5", MqttClientProgram::restrictions);
        harness.test("large-payload-v5", MqttClientProgram::large);
        harness.test("keep-alive-v5", MqttClientProgram::keepAlive);
        harness.test("take-over-v5", MqttClientProgram::takeOver);
        harness.main(names);
    }

    /** A connected MQTT 5 client; `seen` holds every message in the order it came. */
    static final class Device {
        final List<Mqtt5Publish> seen = Collections.synchronizedList(new ArrayList<>());
        final CompletableFuture<Throwable> ended = new CompletableFuture<>();
        Mqtt5AsyncClient client;
        Mqtt5ConnAck connAck;

        static Device connect(String id, boolean clean, long expiry, boolean again, int keepAlive) throws Exception {
            Device device = new Device();
            var builder = MqttClient.builder().useMqttVersion5().identifier(id).serverHost(ADDRESS[0])
                .serverPort(Integer.parseInt(ADDRESS[1]))
                .addDisconnectedListener(context -> device.ended.complete(context.getCause()));
            if (again) {
                builder = builder.automaticReconnect().initialDelay(100, TimeUnit.MILLISECONDS)
                    .maxDelay(300, TimeUnit.MILLISECONDS).applyAutomaticReconnect();
            }
            device.client = builder.buildAsync();
            device.client.publishes(com.hivemq.client.mqtt.MqttGlobalPublishFilter.ALL, device.seen::add);
            device.connAck = answer(device.client.connectWith().cleanStart(clean).sessionExpiryInterval(expiry)
                .keepAlive(keepAlive).send());
            return device;
        }

        static Device connect() throws Exception {
            return connect(Harness.unique("java"), true, 0, false, 30);
        }

        void subscribe(String filter, MqttQos qos) throws Exception {
            answer(client.subscribeWith().topicFilter(filter).qos(qos).send());
        }

        CompletableFuture<?> publish(String topic, String payload, MqttQos qos) {
            return client.publishWith().topic(topic).payload(bytes(payload)).qos(qos).send();
        }

        List<String> payloads(String topic) {
            synchronized (seen) {
                return seen.stream().filter(one -> topic.isEmpty() || one.getTopic().toString().equals(topic))
                    .map(one -> text(one.getPayloadAsBytes())).collect(Collectors.toList());
            }
        }

        void await(int count) throws Exception {
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_S);
            while (seen.size() < count) {
                Harness.yes(System.nanoTime() < deadline, "only " + seen.size() + " of " + count + " messages");
                Thread.sleep(20);
            }
        }

        void end() throws Exception {
            answer(client.disconnect());
        }
    }

    static <T> T answer(CompletableFuture<T> future) throws Exception {
        return future.get(WAIT_S, TimeUnit.SECONDS);
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String text(byte[] bytes) {
        return new String(bytes, StandardCharsets.UTF_8);
    }

    static List<String> numbers(int count) {
        return IntStream.range(0, count).mapToObj(String::valueOf).collect(Collectors.toList());
    }

    static List<String> sorted(List<String> numbers) {
        return numbers.stream().map(Integer::valueOf).sorted().map(String::valueOf).collect(Collectors.toList());
    }

    /** Has the broker restarted, see interop/control.py. */
    static void control(String command) throws Exception {
        String[] at = System.getenv("CONTROL").split(":");
        try (Socket socket = new Socket(at[0], Integer.parseInt(at[1]))) {
            socket.getOutputStream().write(bytes(command + "\n"));
            Harness.same(new BufferedReader(new InputStreamReader(socket.getInputStream())).readLine(), "ok", command);
        }
    }

    static void publishAll(Device publisher, String topic, int count, MqttQos qos) throws Exception {
        List<CompletableFuture<?>> sent = new ArrayList<>();
        for (String number : numbers(count)) {
            sent.add(publisher.publish(topic, number, qos));
        }
        for (CompletableFuture<?> one : sent) {
            answer(one);
        }
    }

    static void qosBothWays() throws Exception {
        String topic = Harness.unique("qos");
        List<Device> subscribers = new ArrayList<>();
        for (MqttQos qos : MqttQos.values()) {
            subscribers.add(Device.connect());
            subscribers.get(qos.getCode()).subscribe(topic + "/+", qos);
        }
        Device publisher = Device.connect();
        for (MqttQos qos : MqttQos.values()) {
            publishAll(publisher, topic + "/" + qos.getCode(), 60, qos);
        }
        for (Device one : subscribers) {
            one.await(180);
            for (MqttQos qos : MqttQos.values()) {
                Harness.same(one.payloads(topic + "/" + qos.getCode()), numbers(60), "payloads at " + qos);
            }
            one.end();
        }
        publisher.end();
    }

    static void version3() throws Exception {
        String topic = Harness.unique("old");
        String id = Harness.unique("device");
        Mqtt3BlockingClient client = MqttClient.builder().useMqttVersion3().identifier(id).serverHost(ADDRESS[0])
            .serverPort(Integer.parseInt(ADDRESS[1])).buildBlocking();
        client.connectWith().cleanSession(false).send();
        client.subscribeWith().topicFilter(topic + "/#").qos(MqttQos.EXACTLY_ONCE).send();
        client.disconnect();
        Device publisher = Device.connect();
        publishAll(publisher, topic + "/a", 40, MqttQos.EXACTLY_ONCE);
        List<String> found = new ArrayList<>();
        try (Mqtt3BlockingClient.Mqtt3Publishes publishes =
                 client.publishes(com.hivemq.client.mqtt.MqttGlobalPublishFilter.ALL)) {
            Harness.yes(client.connectWith().cleanSession(false).send().isSessionPresent(), "session present");
            while (found.size() < 40) {
                Mqtt3Publish one = publishes.receive(WAIT_S, TimeUnit.SECONDS).orElseThrow();
                Harness.same(one.getQos(), MqttQos.EXACTLY_ONCE, "QoS");
                found.add(text(one.getPayloadAsBytes()));
            }
        }
        Harness.same(found, numbers(40), "payloads");
        client.disconnect();
        publisher.end();
    }

    static void retained() throws Exception {
        String topic = Harness.unique("retained");
        Device publisher = Device.connect();
        for (String number : numbers(3)) {
            answer(publisher.client.publishWith().topic(topic + "/" + number).payload(bytes(number))
                .qos(MqttQos.AT_LEAST_ONCE).retain(true).send());
        }
        answer(publisher.client.publishWith().topic(topic + "/1").qos(MqttQos.AT_LEAST_ONCE).retain(true).send());
        Device late = Device.connect();
        late.subscribe(topic + "/#", MqttQos.AT_LEAST_ONCE);
        late.await(2);
        Harness.same(sorted(late.payloads("")), List.of("0", "2"), "retained");
        Harness.yes(late.seen.stream().allMatch(Mqtt5Publish::isRetain), "RETAIN");
        late.end();
        publisher.end();
    }

    static void will() throws Exception {
        String topic = Harness.unique("will");
        Device watcher = Device.connect();
        watcher.subscribe(topic + "/#", MqttQos.AT_LEAST_ONCE);
        Mqtt5AsyncClient doomed = MqttClient.builder().useMqttVersion5().identifier(Harness.unique("doomed"))
            .serverHost(ADDRESS[0]).serverPort(Integer.parseInt(ADDRESS[1])).buildAsync();
        answer(doomed.connectWith().willPublish().topic(topic + "/gone").payload(bytes("cut"))
            .qos(MqttQos.AT_LEAST_ONCE).delayInterval(1).applyWillPublish().sessionExpiryInterval(60).send());
        answer(doomed.disconnectWith().reasonCode(Mqtt5DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE).send());
        watcher.await(1);
        Harness.same(watcher.payloads(topic + "/gone"), List.of("cut"), "will");
        watcher.end();
    }

    static void offline(String how) throws Exception {
        String topic = Harness.unique("session");
        String id = Harness.unique("device");
        Device device = Device.connect(id, true, 3600, false, 30);
        device.subscribe(topic + "/#", MqttQos.EXACTLY_ONCE);
        device.end();
        Device publisher = Device.connect();
        publishAll(publisher, topic + "/a", 30, MqttQos.AT_LEAST_ONCE);
        publishAll(publisher, topic + "/b", 30, MqttQos.EXACTLY_ONCE);
        publisher.end();
        if (!how.isEmpty()) {
            control(how);
        }
        device = Device.connect(id, false, 3600, false, 30);
        Harness.yes(device.connAck.isSessionPresent(), "session present");
        device.await(60);
        Harness.same(device.payloads(topic + "/a"), numbers(30), "QoS 1");
        Harness.same(device.payloads(topic + "/b"), numbers(30), "QoS 2");
        device.end();
    }

    static void reconnects() throws Exception {
        String topic = Harness.unique("again");
        Device device = Device.connect(Harness.unique("device"), true, 3600, true, 30);
        device.subscribe(topic, MqttQos.EXACTLY_ONCE);
        Device publisher = Device.connect(Harness.unique("device"), true, 3600, true, 30);
        List<CompletableFuture<?>> sent = new ArrayList<>();
        for (String number : numbers(200)) {
            sent.add(publisher.publish(topic, number, MqttQos.EXACTLY_ONCE));
        }
        control("kill");
        for (CompletableFuture<?> one : sent) {
            answer(one);
        }
        device.await(200);
        Harness.same(device.payloads(""), numbers(200), "each message once, in order");
        device.end();
        publisher.end();
    }

    static void shared() throws Exception {
        String topic = Harness.unique("shared");
        List<Device> members = List.of(Device.connect(), Device.connect());
        for (Device one : members) {
            one.subscribe("$share/group/" + topic + "/#", MqttQos.AT_LEAST_ONCE);
        }
        Device publisher = Device.connect();
        publishAll(publisher, topic + "/x", 100, MqttQos.AT_LEAST_ONCE);
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_S);
        while (members.get(0).seen.size() + members.get(1).seen.size() < 100 && System.nanoTime() < deadline) {
            Thread.sleep(20);
        }
        List<String> every = new ArrayList<>(members.get(0).payloads(""));
        every.addAll(members.get(1).payloads(""));
        Harness.same(sorted(every), numbers(100), "each message to one member");
        for (Device one : members) {
            one.end();
        }
        publisher.end();
    }

    static void properties() throws Exception {
        String topic = Harness.unique("properties");
        Device device = Device.connect();
        Device publisher = Device.connect();
        device.subscribe(topic, MqttQos.EXACTLY_ONCE);
        Mqtt5UserProperties user = Mqtt5UserProperties.builder().add("b", "2").add("a", "1").add("b", "2").build();
        answer(publisher.client.publishWith().topic(topic).payload(bytes("x")).qos(MqttQos.EXACTLY_ONCE)
            .userProperties(user).contentType("text/plain").responseTopic("answers/x").messageExpiryInterval(60)
            .correlationData(new byte[] {0, -1}).payloadFormatIndicator(Mqtt5PayloadFormatIndicator.UTF_8).send());
        device.await(1);
        Mqtt5Publish got = device.seen.get(0);
        Harness.same(got.getUserProperties(), user, "user properties");
        Harness.same(got.getContentType().orElseThrow().toString(), "text/plain", "content type");
        Harness.same(got.getResponseTopic().orElseThrow().toString(), "answers/x", "response topic");
        Harness.same(got.getCorrelationData().orElseThrow(), ByteBuffer.wrap(new byte[] {0, -1}), "correlation data");
        Harness.yes(got.getMessageExpiryInterval().orElseThrow() >= 55, "expiry");
        Harness.same(got.getPayloadFormatIndicator().orElseThrow(), Mqtt5PayloadFormatIndicator.UTF_8, "format");
        device.end();
        publisher.end();
    }

    static void restrictions() throws Exception {
        String topic = Harness.unique("alias");
        Device publisher = Device.connect();
        Device device = new Device();
        device.client = MqttClient.builder().useMqttVersion5().identifier(Harness.unique("device"))
            .serverHost(ADDRESS[0]).serverPort(Integer.parseInt(ADDRESS[1])).buildAsync();
        device.client.publishes(com.hivemq.client.mqtt.MqttGlobalPublishFilter.ALL, device.seen::add);
        answer(device.client.connectWith().restrictions().topicAliasMaximum(4).receiveMaximum(2).applyRestrictions()
            .send());
        device.subscribe(topic + "/#", MqttQos.EXACTLY_ONCE);
        for (int number = 0; number < 60; number++) {
            answer(publisher.publish(topic + "/" + number % 6, String.valueOf(number), MqttQos.EXACTLY_ONCE));
        }
        device.await(60);
        for (int number = 0; number < 60; number++) {
            Mqtt5Publish got = device.seen.get(number);
            Harness.same(got.getTopic() + " " + text(got.getPayloadAsBytes()), topic + "/" + number % 6 + " " + number, "message");
        }
        device.end();
        publisher.end();
    }

    static void large() throws Exception {
        String topic = Harness.unique("large");
        Device device = Device.connect();
        Device publisher = Device.connect();
        device.subscribe(topic, MqttQos.AT_LEAST_ONCE);
        List<Integer> sizes = List.of(65_535, 65_536, 300_000, 1_000_000);
        for (int size : sizes) {
            answer(publisher.publish(topic, "x".repeat(size), MqttQos.AT_LEAST_ONCE));
        }
        device.await(4);
        Harness.same(device.seen.stream().map(one -> one.getPayloadAsBytes().length).collect(Collectors.toList()), sizes, "sizes");
        device.end();
        publisher.end();
    }

    static void keepAlive() throws Exception {
        String topic = Harness.unique("idle");
        Device device = Device.connect(Harness.unique("device"), true, 0, false, 1);
        device.subscribe(topic, MqttQos.AT_LEAST_ONCE);
        Thread.sleep(3000);
        Device publisher = Device.connect();
        answer(publisher.publish(topic, "still there", MqttQos.AT_LEAST_ONCE));
        device.await(1);
        device.end();
        publisher.end();
    }

    static void takeOver() throws Exception {
        String id = Harness.unique("device");
        Device first = Device.connect(id, true, 3600, false, 30);
        Device second = Device.connect(id, false, 3600, false, 30);
        Harness.yes(second.connAck.isSessionPresent(), "session present");
        Throwable cause = answer(first.ended);
        Harness.yes(cause instanceof Mqtt5DisconnectException, "a DISCONNECT from the broker, not " + cause);
        Harness.same(((Mqtt5DisconnectException) cause).getMqttMessage().getReasonCode(),
            Mqtt5DisconnectReasonCode.SESSION_TAKEN_OVER, "reason code");
        second.end();
    }
}
