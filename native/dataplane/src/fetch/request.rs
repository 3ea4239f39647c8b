//! Fetch requests, version 4 to 17. Source: Kafka's `FetchRequest.json`; KIP-74, KIP-320, KIP-392, KIP-482, KIP-516, KIP-903.

use std::sync::Arc;

use super::FetchConfig;
use super::wire::Writer;

/// The oldest version that gives v2 batches and the last stable offset.
pub const MIN_VERSION: i16 = 4;
/// The newest version that is spoken here.
pub const MAX_VERSION: i16 = 17;
const FETCH_API_KEY: i16 = 1;
const CONSUMER_REPLICA_ID: i32 = -1;
/// No fetch session (KIP-227): id 0 and this epoch ask for everything that the request lists, once.
const NO_SESSION: i32 = 0;
const FULL_FETCH_EPOCH: i32 = -1;
const UNKNOWN_OFFSET: i64 = -1;
/// Consumers leave the epoch of their last record out: a broker that found it diverging would answer without records.
const NO_LAST_FETCHED_EPOCH: i32 = -1;
/// The first version that knows topics by their id (KIP-516).
const TOPIC_IDS_FROM: i16 = 13;
const FLEXIBLE_FROM: i16 = 12;

/// One partition of a request, with what its answer is checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub handle: u64,
    /// The partition's epoch (of seeks) when it was asked for.
    pub epoch: u64,
    pub topic: Arc<str>,
    pub topic_id: [u8; 16],
    pub partition: i32,
    pub offset: i64,
    pub leader_epoch: i32,
}

/// What one request lists. Fetch sessions (KIP-227) would yield the difference to what the broker knows here, and the
/// partitions to forget; as it is, every request lists all of its node's partitions.
#[derive(Clone, Debug, Default)]
pub(crate) struct FetchPlan {
    pub session_id: i32,
    pub session_epoch: i32,
    pub wanted: Vec<Wanted>,
}

impl FetchPlan {
    pub fn full(wanted: Vec<Wanted>) -> Self {
        Self {
            session_id: NO_SESSION,
            session_epoch: FULL_FETCH_EPOCH,
            wanted,
        }
    }

    /// The version to speak: one that names topics where the id of one is not known.
    pub fn version(&self, highest: i16) -> i16 {
        let all_have_ids = self.wanted.iter().all(|wanted| wanted.topic_id != [0; 16]);
        if all_have_ids {
            highest
        } else {
            highest.min(TOPIC_IDS_FROM - 1)
        }
    }
}

pub(crate) fn is_flexible(version: i16) -> bool {
    version >= FLEXIBLE_FROM
}

pub(crate) fn has_topic_ids(version: i16) -> bool {
    version >= TOPIC_IDS_FROM
}

/// Header and body, without the length prefix. `rack` "" asks for no follower.
pub(crate) fn encode(
    plan: &FetchPlan,
    version: i16,
    correlation_id: i32,
    config: &FetchConfig,
    rack: &str,
) -> Vec<u8> {
    let mut out = Writer {
        bytes: Vec::with_capacity(128 + plan.wanted.len() * 48),
        flexible: is_flexible(version),
    };
    out.i16(FETCH_API_KEY);
    out.i16(version);
    out.i32(correlation_id);
    out.classic_string(&config.client_id);
    out.end();
    if version <= 14 {
        out.i32(CONSUMER_REPLICA_ID);
    }
    out.i32(config.max_wait_ms);
    out.i32(config.min_bytes);
    out.i32(config.response_bytes());
    out.i8(config.isolation_level);
    if version >= 7 {
        out.i32(plan.session_id);
        out.i32(plan.session_epoch);
    }
    topics(&mut out, plan, version, config.max_partition_bytes);
    if version >= 7 {
        out.array_len(0); // Topics to forget: of a session.
    }
    if version >= 11 {
        out.string(rack);
    }
    out.end();
    out.bytes
}

/// Neighbours of one topic stand together; a topic may come more than once. Gathering all of a topic would undo the order
/// of partitions, which is what keeps a busy one from starving those behind it.
fn topics(out: &mut Writer, plan: &FetchPlan, version: i16, max_partition_bytes: i32) {
    let same_topic = |a: &Wanted, b: &Wanted| a.topic == b.topic && a.topic_id == b.topic_id;
    out.array_len(plan.wanted.chunk_by(same_topic).count());
    for group in plan.wanted.chunk_by(same_topic) {
        let Some(first) = group.first() else { continue };
        if has_topic_ids(version) {
            out.bytes.extend_from_slice(&first.topic_id);
        } else {
            out.string(&first.topic);
        }
        out.array_len(group.len());
        for wanted in group {
            out.i32(wanted.partition);
            if version >= 9 {
                out.i32(wanted.leader_epoch);
            }
            out.i64(wanted.offset);
            if version >= 12 {
                out.i32(NO_LAST_FETCHED_EPOCH);
            }
            if version >= 5 {
                out.i64(UNKNOWN_OFFSET); // The log start offset: of followers.
            }
            out.i32(max_partition_bytes);
            out.end();
        }
        out.end();
    }
}
