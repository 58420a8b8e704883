"""What tests share: waiting, Kafka, folding."""
