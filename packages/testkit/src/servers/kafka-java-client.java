// What Apache Kafka's own Java clients say and do, for tests that compare with them: an HTTP server on a free port,
// which it prints. Run from its source: java -cp '<jars>/*' kafka-java-client.java <bootstrap>
// Texts of keys and values travel as base64, so that any bytes can.
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.acl.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.resource.*;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.common.utils.Utils;

class KafkaJavaClient {
  static String bootstrap;
  static Admin admin;
  static Producer<byte[], byte[]> producer;
  static KafkaConsumer<byte[], byte[]> consumer;

  public static void main(String[] args) throws Exception {
    bootstrap = args[0];
    HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), 0), 0);
    server.createContext("/", KafkaJavaClient::handle);
    // One thread: neither the consumer nor the tests need more.
    server.setExecutor(Executors.newSingleThreadExecutor());
    server.start();
    System.out.println("listening on " + server.getAddress().getPort());
  }

  static synchronized Admin admin() {
    if (admin == null) admin = Admin.create(Map.of("bootstrap.servers", bootstrap));
    return admin;
  }

  static void handle(HttpExchange exchange) {
    String answer;
    int status = 200;
    try {
      Map<String, String> query = new HashMap<>();
      String raw = exchange.getRequestURI().getRawQuery();
      for (String pair : (raw == null ? "" : raw).split("&")) {
        String[] parts = pair.split("=", 2);
        if (parts.length == 2) query.put(parts[0], java.net.URLDecoder.decode(parts[1], StandardCharsets.UTF_8));
      }
      String body = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
      answer = answer(exchange.getRequestURI().getPath(), query, body);
    } catch (Throwable error) {
      status = 500;
      answer = String.valueOf(error);
    }
    try {
      byte[] bytes = answer.getBytes(StandardCharsets.UTF_8);
      exchange.sendResponseHeaders(status, bytes.length == 0 ? -1 : bytes.length);
      exchange.getResponseBody().write(bytes);
    } catch (Exception gone) {
      // The test has gone away.
    } finally {
      exchange.close();
    }
  }

  static String answer(String path, Map<String, String> query, String body) throws Exception {
    switch (path) {
      case "/topic": {
        NewTopic topic = query.containsKey("assignment")
            ? new NewTopic(query.get("name"), assignment(query.get("assignment")))
            : new NewTopic(query.get("name"), Integer.parseInt(query.get("partitions")), (short) 1);
        Map<String, String> config = new HashMap<>();
        for (String line : body.split("\n")) if (line.contains("=")) config.put(line.split("=", 2)[0], line.split("=", 2)[1]);
        admin().createTopics(List.of(topic.configs(config))).all().get(20, TimeUnit.SECONDS);
        awaitTopic(query.get("name"));
        return "";
      }
      case "/partitions":
        admin().createPartitions(Map.of(query.get("name"), NewPartitions.increaseTo(Integer.parseInt(query.get("count")))))
            .all().get(20, TimeUnit.SECONDS);
        return "";
      case "/topics":
        return admin().listTopics().names().get(20, TimeUnit.SECONDS).stream().sorted().collect(Collectors.joining("\n"));
      case "/describe": {
        TopicDescription topic = admin().describeTopics(List.of(query.get("name"))).allTopicNames()
            .get(20, TimeUnit.SECONDS).get(query.get("name"));
        return topic.partitions().stream()
            .map(p -> p.partition() + " " + (p.leader() == null ? -1 : p.leader().id()) + " " + p.isr().size())
            .collect(Collectors.joining("\n"));
      }
      case "/reassign": {
        // name, partition, then the ids of brokers, the one that should lead first.
        TopicPartition at = new TopicPartition(query.get("name"), Integer.parseInt(query.get("partition")));
        List<Integer> brokers = Arrays.stream(query.get("brokers").split(",")).map(Integer::parseInt).toList();
        admin().alterPartitionReassignments(Map.of(at, Optional.of(new NewPartitionReassignment(brokers))))
            .all().get(20, TimeUnit.SECONDS);
        return "";
      }
      case "/scram":
        for (ScramMechanism mechanism : List.of(ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512))
          admin().alterUserScramCredentials(List.of(new UserScramCredentialUpsertion(query.get("user"),
              new ScramCredentialInfo(mechanism, 4096), query.get("password")))).all().get(20, TimeUnit.SECONDS);
        return "";
      case "/deny": {
        // With any rule for a topic the rule that everybody may is off: what stays allowed is said, too.
        ResourcePattern topic = new ResourcePattern(ResourceType.TOPIC, query.get("topic"), PatternType.LITERAL);
        String user = "User:" + query.get("user");
        admin().createAcls(List.of(
            new AclBinding(topic, new AccessControlEntry(user, "*", AclOperation.WRITE, AclPermissionType.DENY)),
            new AclBinding(topic, new AccessControlEntry(user, "*", AclOperation.DESCRIBE, AclPermissionType.ALLOW))))
            .all().get(20, TimeUnit.SECONDS);
        return "";
      }
      case "/murmur2":
        // Lines of `=` and base64; each answered by the hash and the partition out of `partitions`.
        return lines(body).map(key -> {
          int hash = Utils.murmur2(key);
          return hash + " " + Utils.toPositive(hash) % Integer.parseInt(query.get("partitions"));
        }).collect(Collectors.joining("\n"));
      case "/produce": {
        // Lines as above; answered by the partition the Java producer chose for each.
        if (producer == null)
          producer = new KafkaProducer<>(Map.of("bootstrap.servers", bootstrap, "max.block.ms", "20000"),
              new ByteArraySerializer(), new ByteArraySerializer());
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (byte[] key : lines(body).toList())
          sent.add(producer.send(new ProducerRecord<>(query.get("topic"), key, "by java".getBytes(StandardCharsets.UTF_8))));
        StringBuilder answer = new StringBuilder();
        for (Future<RecordMetadata> each : sent) answer.append(each.get(20, TimeUnit.SECONDS).partition()).append('\n');
        return answer.toString();
      }
      case "/consume":
        return consume(query.get("topic"));
      default:
        throw new IllegalArgumentException("no such path");
    }
  }

  /** It is made before brokers know of it: until one says who leads each partition. */
  static void awaitTopic(String name) throws Exception {
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(20);
    while (true) {
      try {
        if (admin().describeTopics(List.of(name)).allTopicNames().get(20, TimeUnit.SECONDS).get(name).partitions()
            .stream().allMatch(partition -> partition.leader() != null)) return;
      } catch (ExecutionException error) {
        if (!(error.getCause() instanceof org.apache.kafka.common.errors.UnknownTopicOrPartitionException)) throw error;
      }
      if (System.nanoTime() > deadline) throw new TimeoutException("no leader for " + name);
      Thread.sleep(10);
    }
  }

  static Map<Integer, List<Integer>> assignment(String text) {
    Map<Integer, List<Integer>> assignment = new HashMap<>();
    for (String part : text.split(";")) {
      String[] sides = part.split(":");
      assignment.put(Integer.parseInt(sides[0]), Arrays.stream(sides[1].split(",")).map(Integer::parseInt).toList());
    }
    return assignment;
  }

  static java.util.stream.Stream<byte[]> lines(String body) {
    return body.lines().map(line -> Base64.getDecoder().decode(line.substring(1)));
  }

  static KafkaConsumer<byte[], byte[]> consumer() {
    if (consumer == null)
      consumer = new KafkaConsumer<>(Map.of("bootstrap.servers", bootstrap, "enable.auto.commit", "false",
          "check.crcs", "true", "isolation.level", "read_committed", "allow.auto.create.topics", "false",
          // Tests wait for what is there, not for what may come; and for a broker that comes back.
          "fetch.max.wait.ms", "5", "reconnect.backoff.max.ms", "100", "retry.backoff.max.ms", "100"),
          new ByteArrayDeserializer(), new ByteArrayDeserializer());
    return consumer;
  }

  /** All that is there: partition, offset, timestamp, key, value, then name and value of each header, by line. */
  static String consume(String topic) throws Exception {
    StringBuilder answer = new StringBuilder();
    KafkaConsumer<byte[], byte[]> consumer = consumer();
    // Not what this consumer remembers of the topic: it may have more partitions by now.
    List<TopicPartition> partitions = admin().describeTopics(List.of(topic)).allTopicNames().get(20, TimeUnit.SECONDS)
        .get(topic).partitions().stream().map(info -> new TopicPartition(topic, info.partition())).toList();
    consumer.assign(partitions);
    consumer.seekToBeginning(partitions);
    Map<TopicPartition, Long> ends = consumer.endOffsets(partitions, Duration.ofSeconds(20));
    while (partitions.stream().anyMatch(at -> consumer.position(at) < ends.get(at))) {
      for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(100))) {
        answer.append(record.partition()).append(' ').append(record.offset()).append(' ').append(record.timestamp())
            .append(' ').append(base64(record.key())).append(' ').append(base64(record.value()));
        record.headers().forEach(header -> answer.append(' ')
            .append(base64(header.key().getBytes(StandardCharsets.UTF_8))).append(' ').append(base64(header.value())));
        answer.append('\n');
      }
    }
    return answer.toString();
  }

  /** `-` for null. */
  static String base64(byte[] bytes) {
    return bytes == null ? "-" : "=" + Base64.getEncoder().encodeToString(bytes);
  }
}
