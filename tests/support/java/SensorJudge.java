import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.common.metrics.MeasurableStat;
import org.apache.kafka.common.metrics.MetricConfig;
import org.apache.kafka.common.metrics.stats.Avg;
import org.apache.kafka.common.metrics.stats.Max;
import org.apache.kafka.common.metrics.stats.Min;
import org.apache.kafka.common.metrics.stats.Rate;
import org.apache.kafka.common.metrics.stats.WindowedCount;

/**
 * What Kafka's own statistics make of values. A line in: samples, window in ms, the time of reading, then pairs of a time and a
 * value. A line out: mean, greatest, least, rate, count by second, count by hour.
 */
public final class SensorJudge {
    private SensorJudge() {
    }

    public static void main(String[] args) throws IOException {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split(" ");
            MetricConfig config = new MetricConfig().samples(Integer.parseInt(words[0]))
                .timeWindow(Long.parseLong(words[1]), TimeUnit.MILLISECONDS);
            List<MeasurableStat> stats = List.of(new Avg(), new Max(), new Min(), new Rate(),
                new Rate(TimeUnit.SECONDS, new WindowedCount()), new Rate(TimeUnit.HOURS, new WindowedCount()));
            StringBuilder out = new StringBuilder();
            for (MeasurableStat stat : stats) {
                for (int index = 3; index < words.length; index += 2) {
                    stat.record(config, Double.parseDouble(words[index + 1]), Long.parseLong(words[index]));
                }
                out.append(stat.measure(config, Long.parseLong(words[2]))).append(' ');
            }
            System.out.println(out);
        }
    }
}
