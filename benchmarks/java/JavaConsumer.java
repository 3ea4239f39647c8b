import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Kafka's own Java client, measured as benchmarks/meter.py measures the others. */
public final class JavaConsumer {
    private JavaConsumer() {
    }

    /** Arguments: bootstrap servers, topic, partitions, count, warm-up records, limit in seconds, max.poll.records. */
    public static void main(String[] args) throws IOException {
        Properties config = new Properties();
        config.put("bootstrap.servers", args[0]);
        config.put("enable.auto.commit", "false");
        config.put("key.deserializer", ByteArrayDeserializer.class.getName());
        config.put("value.deserializer", ByteArrayDeserializer.class.getName());
        config.put("max.poll.records", args[6]);
        List<TopicPartition> partitions = new ArrayList<>();
        for (int number = 0; number < Integer.parseInt(args[2]); number++) {
            partitions.add(new TopicPartition(args[1], number));
        }
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(config)) {
            consumer.assign(partitions);
            for (TopicPartition partition : partitions) {
                consumer.seek(partition, 0);
            }
            System.out.println(read(
                consumer, Long.parseLong(args[3]), Long.parseLong(args[4]), Double.parseDouble(args[5])));
        }
    }

    private static String read(KafkaConsumer<byte[], byte[]> consumer, long count, long warmup, double limitSeconds)
            throws IOException {
        long records = 0;
        long bytes = 0;
        long begin = 0;
        long beginCpu = 0;
        long beginRecords = 0;
        long beginBytes = 0;
        int empty = 0;
        while (true) {
            ConsumerRecords<byte[], byte[]> found = consumer.poll(Duration.ofMillis(200));
            for (ConsumerRecord<byte[], byte[]> record : found) {
                byte[] key = record.key();
                byte[] value = record.value();
                bytes += key.length + value.length;
            }
            records += found.count();
            empty = found.isEmpty() ? empty + 1 : 0;
            if (empty > 50) {
                throw new IllegalStateException("50 polls in a row brought nothing");
            }
            if (begin == 0) {
                if (records >= warmup) {
                    begin = System.nanoTime();
                    beginCpu = cpuNanos();
                    beginRecords = records;
                    beginBytes = bytes;
                }
                continue;
            }
            double seconds = (System.nanoTime() - begin) / 1e9;
            if (records >= count || seconds >= limitSeconds) {
                return String.format(
                    "{\"records\": %d, \"bytes\": %d, \"seconds\": %.6f, \"cpu_seconds\": %.6f, \"peak_rss_bytes\": %d}",
                    records - beginRecords, bytes - beginBytes, seconds, (cpuNanos() - beginCpu) / 1e9, peakRss());
            }
        }
    }

    private static long cpuNanos() {
        return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean())
            .getProcessCpuTime();
    }

    private static long peakRss() throws IOException {
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("VmHWM:")) {
                return Long.parseLong(line.replaceAll("[^0-9]", "")) * 1024;
            }
        }
        throw new IllegalStateException("/proc/self/status has no VmHWM");
    }
}
