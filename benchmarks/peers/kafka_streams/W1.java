import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/** W1 in Kafka Streams: one thread, a persistent store with the record cache and a changelog. */
public final class W1 {
  private static final Schema READING =
      new Schema.Parser()
          .parse(
              """
              {"type":"record","name":"Reading","fields":[
               {"name":"device","type":"string"},{"name":"at","type":"long"},
               {"name":"kind","type":"string"},{"name":"latency","type":"double"}]}
              """);
  private static final String STATE = "state";
  private static final double SMOOTHING = 0.1;
  private static final long EVENTS = Long.parseLong(System.getenv("EVENTS"));
  private static final CountDownLatch DONE = new CountDownLatch(1);
  private static long stepped; // one thread

  private static void tell(String word) {
    System.out.println(word);
    System.out.flush();
  }

  private static final class Stepping implements Processor<byte[], byte[], Void, Void> {
    private final GenericDatumReader<GenericRecord> reader = new GenericDatumReader<>(READING);
    private BinaryDecoder decoder;
    private GenericRecord reading;
    private KeyValueStore<byte[], byte[]> states;

    @Override
    public void init(ProcessorContext<Void, Void> context) {
      states = context.getStateStore(STATE);
    }

    @Override
    public void process(Record<byte[], byte[]> message) {
      if (stepped == 0) tell("first");
      try {
        decoder = DecoderFactory.get().binaryDecoder(message.value(), decoder);
        reading = reader.read(reading, decoder);
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
      long at = (Long) reading.get("at");
      double latency = (Double) reading.get("latency");
      states.put(message.key(), step(states.get(message.key()), at, latency));
      if (++stepped == EVENTS) DONE.countDown();
    }

    private static byte[] step(byte[] state, long at, double latency) {
      long count = 0;
      double mean = latency;
      double most = latency;
      if (state != null) {
        ByteBuffer old = ByteBuffer.wrap(state);
        old.getLong();
        count = old.getLong();
        mean = SMOOTHING * latency + (1 - SMOOTHING) * old.getDouble();
        most = Math.max(latency, old.getDouble());
      }
      ByteBuffer next = ByteBuffer.allocate(32);
      return next.putLong(at).putLong(count + 1).putDouble(mean).putDouble(most).array();
    }
  }

  public static void main(String[] arguments) throws Exception {
    Properties settings = new Properties();
    settings.put("application.id", System.getenv("GROUP"));
    settings.put("bootstrap.servers", System.getenv("BOOTSTRAP"));
    settings.put("state.dir", System.getenv("STATE_DIR"));
    settings.put("num.stream.threads", "1");
    settings.put("processing.guarantee", "at_least_once");
    settings.put("commit.interval.ms", "1000");
    settings.put("auto.offset.reset", "earliest");
    settings.put("replication.factor", "1");
    settings.put("producer.compression.type", "lz4");
    settings.put("producer.linger.ms", "20");
    var bytes = Serdes.ByteArray();
    var store =
        Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(STATE), bytes, bytes)
            .withLoggingEnabled(Map.of())
            .withCachingEnabled();
    Topology topology = new Topology();
    topology
        .addSource("readings", bytes.deserializer(), bytes.deserializer(), System.getenv("TOPIC"))
        .addProcessor("stepping", Stepping::new, "readings")
        .addStateStore(store, "stepping");
    KafkaStreams streams = new KafkaStreams(topology, settings);
    streams.start();
    DONE.await();
    tell("done");
    System.in.read(); // the harness reads the CPU time once the offsets are committed
    Runtime.getRuntime().halt(0);
  }
}
