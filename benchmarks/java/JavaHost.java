import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Kafka's own consumer in the part of benchmarks/groups/host.py: the same commands, the same events. */
public final class JavaHost {
    private static final Duration POLL = Duration.ofMillis(1_000);
    private static final long NOTED_NANOS = 10_000_000;
    private static volatile boolean stopped;

    private final Properties config = new Properties();
    private final String topic;
    private final String group;
    private final boolean ownGroups;
    private final int byHand;
    private int missing;
    private final Set<String> seen = new HashSet<>();
    private final List<Seat> seats = new ArrayList<>();
    private final List<Thread> threads = new ArrayList<>();

    private JavaHost(String[] args) {
        topic = args[1];
        group = args[2];
        ownGroups = args[3].equals("true");
        byHand = Integer.parseInt(args[4]);
        int consumers = Integer.parseInt(args[5]);
        missing = Integer.parseInt(args[6]);
        config.put("bootstrap.servers", args[0]);
        config.put("key.deserializer", ByteArrayDeserializer.class.getName());
        config.put("value.deserializer", ByteArrayDeserializer.class.getName());
        for (String setting : Arrays.asList(args).subList(7, args.length)) {
            config.put(setting.substring(0, setting.indexOf('=')), setting.substring(setting.indexOf('=') + 1));
        }
        for (int number = 0; number < consumers; number++) {
            seats.add(new Seat(number));
        }
    }

    /** Arguments: bootstrap servers, topic, group, own groups, partitions by hand, consumers, expected, name=value ... */
    public static void main(String[] args) throws Exception {
        JavaHost host = new JavaHost(args);
        Class.forName("org.apache.kafka.clients.consumer.KafkaConsumer");
        say("ready", System.nanoTime(), 0, "");
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            switch (line.trim()) {
                case "go" -> host.go(host.seats.size());
                case "next" -> host.go(1);
                case "mark" -> host.seats.forEach(Seat::mark);
                case "count" ->
                    say("count", System.nanoTime(), 0, " " + host.seats.stream().mapToLong(seat -> seat.records).sum());
                case "close" -> {
                    host.close();
                    say("bye", System.nanoTime(), 0, "");
                    Runtime.getRuntime().halt(0);
                }
                default -> throw new IllegalArgumentException(line);
            }
        }
        Runtime.getRuntime().halt(0);
    }

    private void go(int count) {
        List<Seat> next = seats.subList(threads.size(), Math.min(seats.size(), threads.size() + count));
        for (Seat seat : List.copyOf(next)) {
            Thread thread = new Thread(seat);
            thread.setDaemon(true);
            threads.add(thread);
            thread.start();
        }
    }

    private void close() throws InterruptedException {
        stopped = true;
        for (Thread thread : threads) {
            thread.join();
        }
        seats.forEach(Seat::tellGaps);
    }

    private static synchronized void say(String what, long nowNanos, int number, String rest) {
        System.out.println(what + " " + nowNanos + " " + number + rest);
        System.out.flush();
    }

    private synchronized boolean allSeen(Seat seat, Collection<Integer> partitions) {
        for (int partition : partitions) {
            seen.add((ownGroups ? seat.number : -1) + ":" + partition);
        }
        if (missing > 0 && seen.size() >= missing) {
            missing = 0;
            return true;
        }
        return false;
    }

    /** One consumer's place. */
    private final class Seat implements Runnable, ConsumerRebalanceListener {
        private final int number;
        private volatile long records;
        private volatile long marked;
        private final Set<Integer> fresh = new HashSet<>();
        private final Map<Integer, Long> last = new HashMap<>();
        private final List<String> gaps = new ArrayList<>();

        private Seat(int number) {
            this.number = number;
        }

        @Override
        public void run() {
            try {
                work();
            } catch (RuntimeException error) {
                say("failed", System.nanoTime(), number, " " + error.toString().replace('\n', ' '));
            }
        }

        private void work() {
            Properties own = new Properties();
            own.putAll(config);
            if (!group.isEmpty()) {
                own.put("group.id", group + (ownGroups ? "-" + number : ""));
            }
            say("opening", System.nanoTime(), number, "");
            KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(own);
            if (byHand > 0) {
                List<TopicPartition> partitions = new ArrayList<>();
                for (int partition = 0; partition < byHand; partition++) {
                    partitions.add(new TopicPartition(topic, partition));
                }
                consumer.assign(partitions);
            } else {
                consumer.subscribe(List.of(topic), this);
            }
            say("polling", System.nanoTime(), number, "");
            while (!stopped) {
                ConsumerRecords<byte[], byte[]> found = consumer.poll(POLL);
                if (!found.isEmpty()) {
                    for (ConsumerRecord<byte[], byte[]> record : found) {
                        record.value();
                    }
                    arrived(found.partitions(), found.count());
                }
            }
            say("closing", System.nanoTime(), number, "");
            consumer.close();
            say("closed", System.nanoTime(), number, "");
        }

        private void arrived(Set<TopicPartition> partitions, int count) {
            long now = System.nanoTime();
            records += count;
            List<Integer> numbers = new ArrayList<>();
            for (TopicPartition partition : partitions) {
                int one = partition.partition();
                numbers.add(one);
                if (fresh.remove(one)) {
                    say("first", now, number, " " + one);
                }
                long since = Math.max(last.getOrDefault(one, 0L), marked);
                if (marked > 0 && now - since >= NOTED_NANOS) {
                    gaps.add(" " + one + " " + (now - since) + " " + now);
                }
                last.put(one, now);
            }
            if (missing > 0 && allSeen(this, numbers)) {
                say("seen", System.nanoTime(), number, "");
            }
        }

        private void mark() {
            marked = System.nanoTime();
        }

        private void tellGaps() {
            gaps.forEach(gap -> say("gap", System.nanoTime(), number, gap));
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            StringBuilder numbers = new StringBuilder();
            for (TopicPartition partition : partitions) {
                fresh.add(partition.partition());
                numbers.append(' ').append(partition.partition());
            }
            say("assigned", System.nanoTime(), number, numbers.toString());
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            StringBuilder numbers = new StringBuilder();
            for (TopicPartition partition : partitions) {
                fresh.remove(partition.partition());
                numbers.append(' ').append(partition.partition());
            }
            say("revoked", System.nanoTime(), number, numbers.toString());
        }
    }
}
