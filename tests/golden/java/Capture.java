import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.Random;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.CompressionType;
import org.apache.kafka.common.record.internal.ControlRecordType;
import org.apache.kafka.common.record.internal.EndTransactionMarker;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.MemoryRecordsBuilder;
import org.apache.kafka.common.record.internal.MutableRecordBatch;
import org.apache.kafka.common.record.internal.Record;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.common.utils.Utils;

/**
 * Record sets as Kafka's own classes write them, and what Kafka's own classes read in them. Everything is fixed: times,
 * keys, values. Argument: the folder to write into.
 */
public final class Capture {
    private static final long TIME_MS = 1_700_000_000_000L;
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final int SHORT_BYTES = 64;
    private static final Header[] NONE = new Header[0];

    private final Path folder;
    private final ObjectNode index = JSON.createObjectNode();

    private Capture(Path folder) {
        this.folder = folder;
    }

    public static void main(String[] args) throws IOException {
        Capture capture = new Capture(Path.of(args[0]));
        Files.createDirectories(capture.folder);
        for (byte magic = 0; magic <= 2; magic++) {
            for (CompressionType codec : CompressionType.values()) {
                if (codec == CompressionType.ZSTD && magic < 2) {
                    continue; // KIP-110: zstd needs magic 2
                }
                capture.plain(magic, codec);
                if (codec != CompressionType.NONE) {
                    capture.large(magic, codec);
                }
            }
            capture.sparse(magic);
            if (magic > 0) {
                capture.appendTime(magic, CompressionType.NONE);
                capture.appendTime(magic, CompressionType.LZ4);
            }
        }
        capture.headers();
        capture.transaction();
        capture.sequence();
        capture.emptyBatch();
        StringBuilder lines = new StringBuilder();
        capture.index.fields().forEachRemaining(entry ->
            lines.append(lines.isEmpty() ? "{\n" : ",\n").append('"').append(entry.getKey()).append("\": ")
                .append(entry.getValue()));
        Files.writeString(capture.folder.resolve("expected.json"), lines.append("\n}\n"));
        capture.murmur2();
    }

    // ---------------------------------------------------------------- cases

    /** Nulls, empty and ordinary keys and values, from offset 100 on. */
    private void plain(byte magic, CompressionType codec) throws IOException {
        MemoryRecordsBuilder builder = builder(magic, codec, TimestampType.CREATE_TIME, 100);
        append(builder, magic, 100, 0, bytes("key"), bytes("value"));
        append(builder, magic, 101, 5, null, bytes("no key"));
        append(builder, magic, 102, -7, bytes("no value"), null);
        append(builder, magic, 103, 5, null, null);
        append(builder, magic, 104, 1_000_000, new byte[0], new byte[0]);
        append(builder, magic, 105, 6, bytes("Schlüssel"), bytes("値"));
        write("v" + magic + "-" + codec.name, builder.build());
    }

    /** More than one block of every codec: 300 kB before compression. */
    private void large(byte magic, CompressionType codec) throws IOException {
        MemoryRecordsBuilder builder = builder(magic, codec, TimestampType.CREATE_TIME, 0);
        for (int number = 0; number < 100; number++) {
            byte[] value = bytes(("record " + number + " of a large batch; ").repeat(120));
            append(builder, magic, number, number, bytes("k" + number % 10), value);
        }
        write("v" + magic + "-" + codec.name + "-large", builder.build());
    }

    /** Offsets with gaps, as compaction leaves them. */
    private void sparse(byte magic) throws IOException {
        CompressionType codec = CompressionType.GZIP;
        MemoryRecordsBuilder builder = builder(magic, codec, TimestampType.CREATE_TIME, 1_000);
        for (long offset : new long[] {1_000, 1_003, 1_004, 1_100}) {
            append(builder, magic, offset, offset - 1_000, bytes("k"), bytes("at " + offset));
        }
        write("v" + magic + "-sparse", builder.build());
    }

    /** The broker's time replaces the producers'. */
    private void appendTime(byte magic, CompressionType codec) throws IOException {
        MemoryRecordsBuilder builder = MemoryRecords.builder(
            ByteBuffer.allocate(1024), magic, Compression.of(codec).build(), TimestampType.LOG_APPEND_TIME, 7L,
            TIME_MS + 123_456);
        for (int number = 0; number < 3; number++) {
            append(builder, magic, 7 + number, number, bytes("k"), bytes("v" + number));
        }
        write("v" + magic + "-" + codec.name + "-append-time", builder.build());
    }

    private void headers() throws IOException {
        MemoryRecordsBuilder builder = builder((byte) 2, CompressionType.NONE, TimestampType.CREATE_TIME, 0);
        builder.appendWithOffset(0, TIME_MS, bytes("k"), bytes("v"), new Header[] {
            new RecordHeader("trace", bytes("00-abc")),
            new RecordHeader("trace", bytes("again, the same name")),
            new RecordHeader("null", (byte[]) null),
            new RecordHeader("", new byte[0]),
            new RecordHeader("größe", new byte[] {0, (byte) 0xff, 127, (byte) 128}),
        });
        builder.appendWithOffset(1, TIME_MS, bytes("k"), bytes("no headers"), NONE);
        Header[] many = new Header[200];
        for (int number = 0; number < many.length; number++) {
            many[number] = new RecordHeader("h" + number, bytes("v".repeat(number)));
        }
        builder.appendWithOffset(2, TIME_MS, bytes("k"), bytes("many headers"), many);
        write("v2-headers", builder.build());
    }

    /** Two transactions, one committed, one aborted, and a plain batch between. */
    private void transaction() throws IOException {
        ByteArrayOutputStream log = new ByteArrayOutputStream();
        add(log, transactional(10, 4_000, (short) 1, 3));
        add(log, marker(13, 4_000, (short) 1, ControlRecordType.COMMIT));
        MemoryRecordsBuilder plain = builder((byte) 2, CompressionType.NONE, TimestampType.CREATE_TIME, 14);
        append(plain, (byte) 2, 14, 0, bytes("k"), bytes("outside"));
        add(log, plain.build());
        add(log, transactional(15, 4_001, (short) 0, 2));
        add(log, marker(17, 4_001, (short) 0, ControlRecordType.ABORT));
        write("v2-transactions", MemoryRecords.readableRecords(ByteBuffer.wrap(log.toByteArray())));
    }

    /** Batches of every format one after the other, as an old log that lived through upgrades. */
    private void sequence() throws IOException {
        ByteArrayOutputStream log = new ByteArrayOutputStream();
        CompressionType[] codecs = {
            CompressionType.NONE, CompressionType.GZIP, CompressionType.SNAPPY, CompressionType.LZ4, CompressionType.ZSTD};
        long offset = 0;
        for (byte magic = 0; magic <= 2; magic++) {
            for (CompressionType codec : codecs) {
                if (codec == CompressionType.ZSTD && magic < 2) {
                    continue;
                }
                MemoryRecordsBuilder builder = builder(magic, codec, TimestampType.CREATE_TIME, offset);
                for (int number = 0; number < 3; number++) {
                    append(builder, magic, offset, number, bytes("v" + magic), bytes(codec.name + " " + number));
                    offset++;
                }
                add(log, builder.build());
            }
        }
        write("mixed", MemoryRecords.readableRecords(ByteBuffer.wrap(log.toByteArray())));
    }

    /** What compaction leaves of a producer's last batch: a header that stands for its offsets, and no record. */
    private void emptyBatch() throws IOException {
        ByteArrayOutputStream log = new ByteArrayOutputStream();
        ByteBuffer header = ByteBuffer.allocate(61);
        org.apache.kafka.common.record.internal.DefaultRecordBatch.writeEmptyHeader(
            header, (byte) 2, 5_000, (short) 3, 12, 20, 24, 9, TimestampType.CREATE_TIME, TIME_MS, false, false);
        log.write(header.array(), 0, header.position());
        MemoryRecordsBuilder builder = builder((byte) 2, CompressionType.NONE, TimestampType.CREATE_TIME, 25);
        append(builder, (byte) 2, 25, 0, bytes("k"), bytes("behind an empty batch"));
        add(log, builder.build());
        write("v2-empty-batch", MemoryRecords.readableRecords(ByteBuffer.wrap(log.toByteArray())));
    }

    // ---------------------------------------------------------------- writing

    private static MemoryRecordsBuilder builder(byte magic, CompressionType codec, TimestampType type, long offset) {
        return new MemoryRecordsBuilder(
            new org.apache.kafka.common.utils.ByteBufferOutputStream(1024), magic, Compression.of(codec).build(), type,
            offset, RecordBatch.NO_TIMESTAMP, RecordBatch.NO_PRODUCER_ID, RecordBatch.NO_PRODUCER_EPOCH,
            RecordBatch.NO_SEQUENCE, false, false, 9, Integer.MAX_VALUE);
    }

    private static void append(
            MemoryRecordsBuilder builder, byte magic, long offset, long afterMs, byte[] key, byte[] value) {
        long timestamp = magic == 0 ? RecordBatch.NO_TIMESTAMP : TIME_MS + afterMs;
        builder.appendWithOffset(offset, timestamp, key, value, NONE);
    }

    private static MemoryRecords transactional(long offset, long producerId, short epoch, int count) {
        MemoryRecordsBuilder builder = new MemoryRecordsBuilder(
            new org.apache.kafka.common.utils.ByteBufferOutputStream(1024), (byte) 2, Compression.snappy().build(),
            TimestampType.CREATE_TIME, offset, RecordBatch.NO_TIMESTAMP, producerId, epoch, 0, true, false, 9,
            Integer.MAX_VALUE);
        for (int number = 0; number < count; number++) {
            builder.appendWithOffset(offset + number, TIME_MS, bytes("tx"), bytes(producerId + " " + number), NONE);
        }
        return builder.build();
    }

    private static MemoryRecords marker(long offset, long producerId, short epoch, ControlRecordType type) {
        return MemoryRecords.withEndTransactionMarker(
            offset, TIME_MS, 9, producerId, epoch, new EndTransactionMarker(type, 0));
    }

    private static void add(ByteArrayOutputStream log, MemoryRecords records) {
        ByteBuffer buffer = records.buffer();
        byte[] copy = new byte[buffer.remaining()];
        buffer.get(copy);
        log.writeBytes(copy);
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    // ---------------------------------------------------------------- what Kafka reads in it

    private void write(String name, MemoryRecords records) throws IOException {
        ByteArrayOutputStream copy = new ByteArrayOutputStream();
        add(copy, records);
        Files.write(folder.resolve(name + ".bin"), copy.toByteArray());
        ArrayNode batches = JSON.createArrayNode();
        for (MutableRecordBatch batch : records.batches()) {
            batch.ensureValid();
            batches.add(describe(batch));
        }
        index.set(name, batches);
    }

    private static ObjectNode describe(RecordBatch batch) {
        ObjectNode found = JSON.createObjectNode();
        found.put("magic", batch.magic());
        found.put("codec", batch.compressionType().name);
        found.put("last_offset", batch.lastOffset());
        found.put("control", batch.isControlBatch());
        found.put("transactional", batch.isTransactional());
        found.put("producer_id", batch.producerId());
        found.put("leader_epoch", batch.partitionLeaderEpoch());
        found.put("timestamp_type", batch.timestampType().id);
        ArrayNode records = found.putArray("records");
        for (Record record : batch) {
            ArrayNode one = records.addArray();
            one.add(record.offset()).add(record.timestamp()).add(hex(record.key())).add(hex(record.value()));
            ArrayNode headers = one.addArray();
            for (Header header : record.headers()) {
                headers.addArray().add(header.key()).add(hex(header.value()));
            }
        }
        return found;
    }

    private static String hex(ByteBuffer buffer) {
        return buffer == null ? null : hex(Utils.toArray(buffer));
    }

    /** Hexadecimal digits; of what is longer than 64 bytes the size and the SHA-256. */
    private static String hex(byte[] content) {
        if (content == null) {
            return null;
        }
        if (content.length <= SHORT_BYTES) {
            return HexFormat.of().formatHex(content);
        }
        try {
            return content.length + ":" + HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(content));
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException(error);
        }
    }

    /** Keys of every length up to 40 and some more, their hash, and their partition among 1, 2, 6, 7, 12 and 1000. */
    private void murmur2() throws IOException {
        ArrayNode vectors = JSON.createArrayNode();
        Random chance = new Random(20);
        for (int size = 0; size <= 40; size++) {
            byte[] key = new byte[size];
            chance.nextBytes(key);
            vectors.add(vector(key));
        }
        for (String text : new String[] {"21", "foobar", "a-little-bit-long-string", "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                "größe", "\u0000", "\uffff"}) {
            vectors.add(vector(bytes(text)));
        }
        StringBuilder lines = new StringBuilder();
        vectors.forEach(one -> lines.append(lines.isEmpty() ? "[\n" : ",\n").append(one));
        Files.writeString(folder.resolve("murmur2.json"), lines.append("\n]\n"));
    }

    private static ObjectNode vector(byte[] key) {
        ObjectNode vector = JSON.createObjectNode();
        vector.put("key", hex(key));
        vector.put("murmur2", Utils.murmur2(key));
        ObjectNode partitions = vector.putObject("partitions");
        for (int count : new int[] {1, 2, 6, 7, 12, 1000}) {
            partitions.put(Integer.toString(count), BuiltInPartitioner.partitionForKey(key, count));
        }
        return vector;
    }
}
