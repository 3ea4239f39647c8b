import java.io.PrintWriter;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Random;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.ConsumerPartitionAssignor.Assignment;
import org.apache.kafka.clients.consumer.ConsumerPartitionAssignor.Subscription;
import org.apache.kafka.clients.consumer.RangeAssignor;
import org.apache.kafka.clients.consumer.RoundRobinAssignor;
import org.apache.kafka.clients.consumer.internals.AbstractPartitionAssignor;
import org.apache.kafka.clients.consumer.internals.ConsumerProtocol;
import org.apache.kafka.common.TopicPartition;

/** What Kafka's own assignors give, and the bytes that its members exchange, as JSON. */
public class GroupCapture {
    static final String[] TOPICS = {"a", "b", "B", "topic-10", "topic-9", "missing"};

    public static void main(String[] arguments) throws Exception {
        try (PrintWriter out = new PrintWriter(Path.of(arguments[0]).toFile(), "UTF-8")) {
            out.println("{\"assignments\": [");
            Random random = new Random(20);
            for (int i = 0; i < 120; i++) out.println((i == 0 ? " " : ",") + assignment(random));
            out.println("],\n\"subscriptions\": [");
            int line = 0;
            for (short version = 0; version <= 3; version++)
                for (Subscription subscription : subscriptions())
                    out.println((line++ == 0 ? " " : ",") + subscription(subscription, version));
            out.println("],\n\"given\": [");
            line = 0;
            for (short version = 0; version <= 3; version++)
                for (Assignment given : assignments())
                    out.println((line++ == 0 ? " " : ",") + String.format(
                        "{\"version\": %d, \"partitions\": %s, \"user_data\": %s, \"bytes\": %s}", version,
                        partitions(given.partitions()), hex(given.userData()),
                        hex(ConsumerProtocol.serializeAssignment(given, version))));
            out.println("]}");
        }
    }

    static String assignment(Random random) {
        Map<String, Integer> counts = new TreeMap<>();
        for (String topic : TOPICS)
            if (!topic.equals("missing") && random.nextInt(5) > 0) counts.put(topic, random.nextInt(9));
        Map<String, Subscription> members = new TreeMap<>();
        List<String> shown = new ArrayList<>();
        int size = 1 + random.nextInt(6);
        boolean same = random.nextBoolean();
        List<String> common = topics(random);
        for (int i = 0; i < size; i++) {
            String id = (random.nextBoolean() ? "consumer-" : "Client-") + random.nextInt(1000) + "-" + i;
            List<String> topics = same ? common : topics(random);
            Subscription subscription = new Subscription(topics);
            String instance = random.nextInt(3) == 0 ? "i" + random.nextInt(50) + "-" + i : null;
            subscription.setGroupInstanceId(Optional.ofNullable(instance));
            members.put(id, subscription);
            shown.add(String.format("[%s, %s, %s]", text(id), text(instance), texts(topics)));
        }
        return String.format("{\"counts\": %s, \"members\": [%s], \"range\": %s, \"roundrobin\": %s}",
            counts.entrySet().stream().map(e -> text(e.getKey()) + ": " + e.getValue()).collect(Collectors.joining(", ", "{", "}")),
            String.join(", ", shown), result(new RangeAssignor(), counts, members), result(new RoundRobinAssignor(), counts, members));
    }

    static List<String> topics(Random random) {
        List<String> topics = new ArrayList<>();
        for (String topic : TOPICS) if (random.nextInt(3) > 0) topics.add(topic);
        return topics;
    }

    static String result(AbstractPartitionAssignor assignor, Map<String, Integer> counts, Map<String, Subscription> members) {
        return new TreeMap<>(assignor.assign(counts, members)).entrySet().stream()
            .map(e -> text(e.getKey()) + ": " + partitions(e.getValue())).collect(Collectors.joining(", ", "{", "}"));
    }

    static List<Subscription> subscriptions() {
        List<TopicPartition> owned = List.of(new TopicPartition("a", 0), new TopicPartition("a", 7), new TopicPartition("b", 1));
        return List.of(
            new Subscription(List.of()),
            new Subscription(List.of("a", "b")),
            new Subscription(List.of("a"), ByteBuffer.wrap(new byte[] {1, 2, -1}), owned, 5, Optional.of("rack-1")));
    }

    static List<Assignment> assignments() {
        return List.of(
            new Assignment(List.of()),
            new Assignment(List.of(new TopicPartition("a", 0), new TopicPartition("a", 2), new TopicPartition("b", 1))),
            new Assignment(List.of(new TopicPartition("a", 1)), ByteBuffer.wrap(new byte[] {9})));
    }

    static String subscription(Subscription s, short version) {
        return String.format(
            "{\"version\": %d, \"topics\": %s, \"user_data\": %s, \"owned\": %s, \"generation\": %d, \"rack\": %s, \"bytes\": %s}",
            version, texts(s.topics()), hex(s.userData()), partitions(s.ownedPartitions()), s.generationId().orElse(-1),
            text(s.rackId().orElse(null)), hex(ConsumerProtocol.serializeSubscription(s, version)));
    }

    static String partitions(List<TopicPartition> partitions) {
        return partitions.stream().map(p -> "[" + text(p.topic()) + ", " + p.partition() + "]").collect(Collectors.joining(", ", "[", "]"));
    }

    static String texts(List<String> texts) {
        return texts.stream().map(GroupCapture::text).collect(Collectors.joining(", ", "[", "]"));
    }

    static String text(String text) {
        return text == null ? "null" : "\"" + text + "\"";
    }

    static String hex(ByteBuffer buffer) {
        if (buffer == null) return "null";
        byte[] bytes = new byte[buffer.remaining()];
        buffer.duplicate().get(bytes);
        return "\"" + HexFormat.of().formatHex(bytes) + "\"";
    }
}
