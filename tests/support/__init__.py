"""What tests share: a real Kafka, a real PostgreSQL, and a proxy that misbehaves on command."""
