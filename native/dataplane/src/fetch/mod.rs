//! Fetching: what to ask for, from whom, and what becomes of the answers.
//!
//! [`Fetcher`] is what engine and user call; [`table`] what they share with the fetch loops; [`rider`] the loop itself,
//! which runs on a connection's thread; `session` what a broker has been told; `request` and `response` the wire.

mod fetcher;
mod node;
mod request;
mod response;
mod rider;
mod session;
mod table;
#[cfg(test)]
mod table_tests;
mod wire;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use fetcher::{Fetcher, Polled};
pub use request::{MAX_VERSION, MIN_VERSION};
pub use response::fuzz;
pub use table::Taken;

use crate::batch::{self, Head};
use crate::decode::DecodeOptions;

/// What `ConsumerConfig` says of fetching.
#[derive(Clone, Debug)]
pub struct FetchConfig {
    /// `client.id`.
    pub client_id: String,
    /// `client.rack`; "" for none (KIP-392).
    pub client_rack: String,
    /// 0: read_uncommitted, 1: read_committed.
    pub isolation_level: i8,
    /// `fetch.max.wait.ms`.
    pub max_wait_ms: i32,
    /// `fetch.min.bytes`.
    pub min_bytes: i32,
    /// `fetch.max.bytes`.
    pub max_bytes: i32,
    /// `max.partition.fetch.bytes`.
    pub max_partition_bytes: i32,
    /// `check.crcs`, and the bound of one batch after decompression.
    pub decode: DecodeOptions,
    /// The bound of what waits for `poll`, after decompression.
    pub buffer_bytes: usize,
    /// `request.timeout.ms`.
    pub request_timeout: Duration,
}

/// One response is at most this part of the buffer: two of them, one being decoded and one on its way, fill it.
const RESPONSES_PER_BUFFER: usize = 2;
/// A chunk is the unit in which records go into the buffer: small enough for a processor's cache and for the budget, large
/// enough that its overhead does not count.
const CHUNK_BYTES: usize = 256 << 10;
const CHUNKS_PER_BUFFER: usize = 8;

impl FetchConfig {
    /// What a request asks for at most. The broker still gives a first batch above it whole (KIP-74).
    fn response_bytes(&self) -> i32 {
        let half = i32::try_from(self.buffer_bytes / RESPONSES_PER_BUFFER).unwrap_or(i32::MAX);
        self.max_bytes.min(half.max(self.max_partition_bytes))
    }

    fn chunk_bytes(&self) -> usize {
        CHUNK_BYTES.min(self.buffer_bytes / CHUNKS_PER_BUFFER)
    }

    fn reads_committed(&self) -> bool {
        self.isolation_level == 1
    }
}

/// The offset after the first of the last `remaining_bytes` of a record set: where to seek to if that batch, at which a
/// decoder stopped, cannot be read.
pub fn offset_past(record_set: &[u8], remaining_bytes: usize) -> Option<i64> {
    let start = record_set.len().checked_sub(remaining_bytes)?;
    match batch::head(record_set.get(start..)?, -1) {
        Ok(Head::Whole(frame)) => Some(frame.next_offset),
        _ => None,
    }
}

/// Counters since the fetcher was made.
#[derive(Debug, Default)]
pub struct Stats {
    /// Fetch requests sent.
    pub fetches: AtomicU64,
    /// Fetch responses received.
    pub responses: AtomicU64,
    /// Bytes of them.
    pub bytes: AtomicU64,
    /// Whole batches in them.
    pub batches: AtomicU64,
    /// Records that went into the buffer.
    pub records: AtomicU64,
    /// Chunks that went into the buffer.
    pub chunks: AtomicU64,
    /// Partitions' answers that were dropped because a seek or a revocation came first.
    pub stale: AtomicU64,
    /// Error codes of partitions and of whole responses.
    pub errors: AtomicU64,
    /// Batches that could not be decoded, of whatever reason.
    pub decode_failures: AtomicU64,
    /// Of those, batches that failed their checksum.
    pub crc_failures: AtomicU64,
    /// Times that a fetch loop had to wait for room in the buffer.
    pub full_waits: AtomicU64,
    /// Calls of `poll`.
    pub polls: AtomicU64,
    /// Microseconds from a request's sending until its answer was taken up, summed; the broker's waiting is in it.
    pub fetch_latency_us_total: AtomicU64,
    /// The longest of them.
    pub fetch_latency_us_max: AtomicU64,
    /// Milliseconds for which brokers asked for silence (KIP-219), summed.
    pub throttle_ms_total: AtomicU64,
    /// The longest of them.
    pub throttle_ms_max: AtomicU64,
    /// Bytes of record batches in the responses, as they came.
    pub fetch_bytes: AtomicU64,
    /// Records that `poll` handed out.
    pub records_returned: AtomicU64,
    /// Bytes of their keys and values.
    pub bytes_returned: AtomicU64,
    /// Fetch sessions that a broker had forgotten, or found at odds with a request (KIP-227).
    pub session_resets: AtomicU64,
    /// Partitions that requests named; without what sessions spared.
    pub partitions_asked: AtomicU64,
}

impl Stats {
    /// Each counter with its name.
    pub fn all(&self) -> [(&'static str, u64); 21] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("fetches", read(&self.fetches)),
            ("responses", read(&self.responses)),
            ("bytes", read(&self.bytes)),
            ("batches", read(&self.batches)),
            ("records", read(&self.records)),
            ("chunks", read(&self.chunks)),
            ("stale", read(&self.stale)),
            ("errors", read(&self.errors)),
            ("decode_failures", read(&self.decode_failures)),
            ("crc_failures", read(&self.crc_failures)),
            ("full_waits", read(&self.full_waits)),
            ("polls", read(&self.polls)),
            ("fetch_latency_us_total", read(&self.fetch_latency_us_total)),
            ("fetch_latency_us_max", read(&self.fetch_latency_us_max)),
            ("throttle_ms_total", read(&self.throttle_ms_total)),
            ("throttle_ms_max", read(&self.throttle_ms_max)),
            ("fetch_bytes", read(&self.fetch_bytes)),
            ("records_returned", read(&self.records_returned)),
            ("bytes_returned", read(&self.bytes_returned)),
            ("session_resets", read(&self.session_resets)),
            ("partitions_asked", read(&self.partitions_asked)),
        ]
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

/// One more measurement of what is kept as a sum and a maximum.
fn measure(total: &AtomicU64, max: &AtomicU64, value: u64) {
    total.fetch_add(value, Ordering::Relaxed);
    max.fetch_max(value, Ordering::Relaxed);
}
