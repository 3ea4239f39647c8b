import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * What tests/support/member.py is for Python's clients: notes all it does, one line of JSON each, until its standard input ends.
 * Arguments: topic, then any number of name=value for the consumer.
 */
public class Member implements ConsumerRebalanceListener {
    static final FileOutputStream OUT = new FileOutputStream(FileDescriptor.out);
    static volatile boolean stop = false;

    final KafkaConsumer<byte[], byte[]> consumer;
    final Map<TopicPartition, Long> done = new HashMap<>();
    int commits = 0;

    Member(Properties config) {
        consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    public static void main(String[] arguments) throws Exception {
        Properties config = new Properties();
        for (int i = 1; i < arguments.length; i++) {
            String[] pair = arguments[i].split("=", 2);
            config.put(pair[0], pair[1]);
        }
        Member member = new Member(config);
        Thread end = new Thread(() -> {
            try {
                while (System.in.read() >= 0) { }
            } catch (IOException ignored) {
                // as good as its end
            }
            stop = true;
            member.consumer.wakeup();
        });
        end.setDaemon(true);
        end.start();
        member.run(arguments[0]);
    }

    void run(String topic) {
        consumer.subscribe(List.of(topic), this);
        try {
            while (!stop) step();
        } catch (WakeupException leaving) {
            // told to stop
        }
        consumer.close();
        note("\"e\": \"closed\"");
    }

    void step() {
        ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(100));
        if (records.isEmpty()) return;
        List<String> shown = new ArrayList<>();
        for (ConsumerRecord<byte[], byte[]> record : records) {
            shown.add(String.format("[\"%s\", %d, %d, \"%s\"]", record.topic(), record.partition(), record.offset(),
                new String(record.value(), StandardCharsets.UTF_8)));
            done.put(new TopicPartition(record.topic(), record.partition()), record.offset() + 1);
        }
        note("\"e\": \"read\", \"r\": [" + String.join(", ", shown) + "]");
        commit();
    }

    void commit() {
        if (done.isEmpty()) return;
        int id = commits++;
        note(String.format("\"e\": \"commit\", \"id\": %d, \"o\": %s", id, done.entrySet().stream()
            .map(e -> String.format("[\"%s\", %d, %d]", e.getKey().topic(), e.getKey().partition(), e.getValue()))
            .collect(Collectors.joining(", ", "[", "]"))));
        String error = "null";
        WakeupException woken = null;
        try {
            Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
            done.forEach((place, offset) -> offsets.put(place, new OffsetAndMetadata(offset)));
            consumer.commitSync(offsets);
        } catch (WakeupException leaving) {
            woken = leaving;
            error = "\"woken\"";
        } catch (RuntimeException refused) {
            error = "\"" + refused.getClass().getSimpleName() + "\"";
        }
        note(String.format("\"e\": \"committed\", \"id\": %d, \"x\": %s", id, error));
        if (woken != null) throw woken;
    }

    @Override
    public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
        note("\"e\": \"given\", \"p\": " + shown(partitions));
    }

    @Override
    public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
        commit();
        partitions.forEach(done::remove);
        note("\"e\": \"taken\", \"p\": " + shown(partitions));
    }

    @Override
    public void onPartitionsLost(Collection<TopicPartition> partitions) {
        partitions.forEach(done::remove);
        note("\"e\": \"lost\", \"p\": " + shown(partitions));
    }

    static String shown(Collection<TopicPartition> partitions) {
        return partitions.stream().map(p -> String.format("[\"%s\", %d]", p.topic(), p.partition()))
            .collect(Collectors.joining(", ", "[", "]"));
    }

    /** System.nanoTime() is the machine's monotonic clock, which Python's time.monotonic_ns() reads as well. */
    static synchronized void note(String fields) {
        try {
            OUT.write(("{\"t\": " + System.nanoTime() + ", " + fields + "}\n").getBytes(StandardCharsets.UTF_8));
        } catch (IOException gone) {
            Runtime.getRuntime().halt(1);
        }
    }
}
