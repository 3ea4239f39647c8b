//! Fetch requests, version 4 to 17. Source: Kafka's `FetchRequest.json`; KIP-74, KIP-227, KIP-320, KIP-392, KIP-482, KIP-516,
//! KIP-595, KIP-903.

use std::sync::Arc;

use super::FetchConfig;
use super::session::Place;
use super::wire::Writer;

/// The oldest version that gives v2 batches and the last stable offset.
pub const MIN_VERSION: i16 = 4;
/// The newest version that is spoken here.
pub const MAX_VERSION: i16 = 17;
const FETCH_API_KEY: i16 = 1;
const CONSUMER_REPLICA_ID: i32 = -1;
const UNKNOWN_OFFSET: i64 = -1;
const SESSIONS_FROM: i16 = 7;
/// The first version that knows topics by their id (KIP-516).
pub(crate) const TOPIC_IDS_FROM: i16 = 13;
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
    /// The leader epoch of the last record before `offset`, -1 where that is not known. A leader whose log has other records
    /// there says so (KIP-595). Left out to a follower: one that lags would seem to have another log.
    pub last_fetched_epoch: i32,
}

impl Wanted {
    pub fn has_topic_id(&self) -> bool {
        self.topic_id != [0; 16]
    }

    /// A request names both in the same way.
    pub fn is_named_as(&self, other: &Self, by_ids: bool) -> bool {
        let same_topic = match by_ids {
            true => self.topic_id == other.topic_id,
            false => self.topic == other.topic,
        };
        same_topic && self.partition == other.partition
    }

    /// Nothing that a request says of the partition differs, its name apart.
    pub fn asks_the_same_as(&self, other: &Self) -> bool {
        let says = |w: &Self| (w.offset, w.leader_epoch, w.last_fetched_epoch);
        says(self) == says(other)
    }
}

/// What one request says.
#[derive(Clone, Debug)]
pub(crate) struct FetchPlan {
    /// The version to speak.
    pub version: i16,
    pub session_id: i32,
    pub session_epoch: i32,
    /// All partitions, or those that the session does not know as they are.
    pub wanted: Vec<Wanted>,
    /// What the session is to forget, in order of topics.
    pub forgotten: Vec<Place>,
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
    correlation_id: i32,
    config: &FetchConfig,
    rack: &str,
) -> Vec<u8> {
    let version = plan.version;
    let mut out = Writer {
        bytes: Vec::with_capacity(128 + plan.wanted.len() * 48 + plan.forgotten.len() * 24),
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
    if version >= SESSIONS_FROM {
        out.i32(plan.session_id);
        out.i32(plan.session_epoch);
    }
    topics(&mut out, plan, config.max_partition_bytes);
    if version >= SESSIONS_FROM {
        forgotten(&mut out, &plan.forgotten);
    }
    if version >= 11 {
        out.string(rack);
    }
    out.end();
    out.bytes
}

/// Neighbours of one topic stand together; a topic may come more than once. Gathering all of a topic would undo the order
/// of partitions, which is what keeps a busy one from starving those behind it.
fn topics(out: &mut Writer, plan: &FetchPlan, max_partition_bytes: i32) {
    let version = plan.version;
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
                out.i32(wanted.last_fetched_epoch);
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

fn forgotten(out: &mut Writer, places: &[Place]) {
    let same_topic = |a: &Place, b: &Place| match (a, b) {
        (Place::Name(a, _), Place::Name(b, _)) => a == b,
        (Place::Id(a, _), Place::Id(b, _)) => a == b,
        _ => false,
    };
    out.array_len(places.chunk_by(same_topic).count());
    for group in places.chunk_by(same_topic) {
        match group.first() {
            Some(Place::Name(name, _)) => out.string(name),
            Some(Place::Id(id, _)) => out.bytes.extend_from_slice(id),
            None => continue,
        }
        out.array_len(group.len());
        for place in group {
            let (Place::Name(_, partition) | Place::Id(_, partition)) = place;
            out.i32(*partition);
        }
        out.end();
    }
}
