import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.ConsumerPartitionAssignor;
import org.apache.kafka.clients.consumer.ConsumerPartitionAssignor.Assignment;
import org.apache.kafka.clients.consumer.ConsumerPartitionAssignor.GroupSubscription;
import org.apache.kafka.clients.consumer.ConsumerPartitionAssignor.Subscription;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.RangeAssignor;
import org.apache.kafka.clients.consumer.RoundRobinAssignor;
import org.apache.kafka.clients.consumer.StickyAssignor;
import org.apache.kafka.common.Cluster;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;

/**
 * What Kafka's own assignors give. Reads cases, tab-separated fields and "-" for nothing, from the standard input:
 *
 *   topic   NAME  RACKS   by partition, with semicolons: the racks of its replicas, with commas
 *   member  ID  INSTANCE  RACK  GENERATION  TOPICS  OWNED  DATA   topics with commas; owned as t:0,t:1; data, the user data of "sticky", as hex
 *   assign
 *
 * and writes for each case a line per assignor (its name, then member=t:0,t:1 each), and one per member: "data", its id, and as hex
 * what StickyAssignor and CooperativeStickyAssignor of a member write that was given what it owns in its generation.
 */
public class AssignorJudge {
    static final PrintStream OUT = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    static final Map<String, Node> NODES = new HashMap<>();
    static List<PartitionInfo> partitions = new ArrayList<>();
    static Map<String, String[]> members = new HashMap<>();

    public static void main(String[] arguments) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] fields = line.split("\t");
            switch (fields[0]) {
                case "topic" -> topic(fields[1], fields[2]);
                case "member" -> members.put(fields[1], fields);
                case "assign" -> {
                    for (ConsumerPartitionAssignor assignor : List.of(
                            new RangeAssignor(), new RoundRobinAssignor(), new StickyAssignor(), new CooperativeStickyAssignor()))
                        OUT.println(result(assignor));
                    members.forEach(AssignorJudge::data);
                    partitions = new ArrayList<>();
                    members = new HashMap<>();
                }
                default -> throw new IllegalArgumentException(line);
            }
        }
        OUT.flush();
    }

    static void topic(String name, String racks) {
        String[] each = racks.split(";", -1);
        for (int i = 0; i < each.length; i++) {
            List<Node> replicas = new ArrayList<>();
            for (String rack : split(each[i]))
                replicas.add(NODES.computeIfAbsent(rack, r -> new Node(NODES.size(), "host", 9092, r)));
            if (replicas.isEmpty()) replicas.add(NODES.computeIfAbsent("", r -> new Node(NODES.size(), "host", 9092)));
            Node[] nodes = replicas.toArray(new Node[0]);
            partitions.add(new PartitionInfo(name, i, nodes[0], nodes, nodes));
        }
    }

    static String result(ConsumerPartitionAssignor assignor) {
        boolean sticky = assignor instanceof StickyAssignor;
        Map<String, Subscription> subscriptions = new HashMap<>();
        members.forEach((id, fields) -> {
            ByteBuffer data = sticky && !fields[7].equals("-") ? ByteBuffer.wrap(HexFormat.of().parseHex(fields[7])) : null;
            Subscription subscription = new Subscription(
                split(fields[5]), data, sticky ? List.of() : owned(fields[6]), Integer.parseInt(fields[4]), optional(fields[3]));
            subscription.setGroupInstanceId(optional(fields[2]));
            subscriptions.put(id, subscription);
        });
        Set<Node> nodes = new HashSet<>(NODES.values());
        Cluster cluster = new Cluster("cluster", nodes, partitions, Set.of(), Set.of());
        StringBuilder line = new StringBuilder(assignor.name());
        try {
            Map<String, Assignment> given = assignor.assign(cluster, new GroupSubscription(subscriptions)).groupAssignment();
            new TreeMap<>(given).forEach((id, assignment) -> line.append("\t").append(id).append("=").append(text(assignment.partitions())));
        } catch (RuntimeException e) {
            line.append("\terror\t").append(e);
        }
        return line.toString();
    }

    static void data(String id, String[] fields) {
        Assignment given = new Assignment(owned(fields[6]));
        ConsumerGroupMetadata group = new ConsumerGroupMetadata("group", Integer.parseInt(fields[4]), id, Optional.empty());
        StringBuilder line = new StringBuilder("data\t" + id);
        for (ConsumerPartitionAssignor assignor : List.of(new StickyAssignor(), new CooperativeStickyAssignor())) {
            assignor.onAssignment(given, group);
            ByteBuffer data = assignor.subscriptionUserData(new HashSet<>(split(fields[5])));
            byte[] bytes = new byte[data.remaining()];
            data.get(bytes);
            line.append("\t").append(HexFormat.of().formatHex(bytes));
        }
        OUT.println(line);
    }

    static List<String> split(String text) {
        return text.equals("-") || text.isEmpty() ? List.of() : List.of(text.split(","));
    }

    static Optional<String> optional(String text) {
        return text.equals("-") ? Optional.empty() : Optional.of(text);
    }

    static List<TopicPartition> owned(String text) {
        List<TopicPartition> owned = new ArrayList<>();
        for (String one : split(text))
            owned.add(new TopicPartition(one.substring(0, one.indexOf(':')), Integer.parseInt(one.substring(one.indexOf(':') + 1))));
        return owned;
    }

    static String text(List<TopicPartition> partitions) {
        List<String> each = new ArrayList<>();
        for (TopicPartition partition : partitions) each.add(partition.topic() + ":" + partition.partition());
        return String.join(",", each);
    }
}
