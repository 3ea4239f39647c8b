import java.time.Duration;
import java.util.List;
import java.util.Properties;
import java.util.TreeSet;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.MetricName;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Prints what Kafka's own consumer measures, one line each: group, name, tags without client-id. */
public final class MetricNames {
    private MetricNames() {
    }

    /** Arguments: bootstrap servers, topic with a record, group.protocol. */
    public static void main(String[] args) {
        Properties config = new Properties();
        config.put("bootstrap.servers", args[0]);
        config.put("group.id", "metric-names-" + args[2]);
        config.put("group.protocol", args[2]);
        config.put("auto.offset.reset", "earliest");
        config.put("enable.auto.commit", "false");
        config.put("key.deserializer", ByteArrayDeserializer.class.getName());
        config.put("value.deserializer", ByteArrayDeserializer.class.getName());
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(config)) {
            consumer.subscribe(List.of(args[1]));
            long deadline = System.nanoTime() + 30_000_000_000L;
            while (consumer.poll(Duration.ofMillis(200)).isEmpty() && System.nanoTime() < deadline) {
                continue;
            }
            consumer.commitSync();
            for (MetricName name : consumer.metrics().keySet()) {
                TreeSet<String> tags = new TreeSet<>(name.tags().keySet());
                tags.remove("client-id");
                System.out.println(name.group() + " " + name.name() + " " + String.join(",", tags));
            }
        }
    }
}
