//! Fetch responses, version 4 to 17, read over the frame's shared bytes.
//! Source: Kafka's `FetchResponse.json`; KIP-98, KIP-219, KIP-320, KIP-392, KIP-595, KIP-951.

use bytes::Bytes;

use super::request::{has_topic_ids, is_flexible};
use super::wire::{Flaw, Reader};
use crate::decode::Aborted;

/// How the response names a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TopicKey<'a> {
    Name(&'a str),
    Id([u8; 16]),
}

/// Where the log of a broker departs from what the fetcher has seen (KIP-595).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DivergingEpoch {
    pub epoch: i32,
    pub end_offset: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionData {
    pub partition: i32,
    pub error_code: i16,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start_offset: i64,
    /// Only in answer to a request that names the epoch of the last record, which none does yet.
    pub diverging_epoch: Option<DivergingEpoch>,
    /// (leader, epoch) with a leadership error (KIP-951).
    pub current_leader: Option<(i32, i32)>,
    /// Empty under read_uncommitted.
    pub aborted: Vec<Aborted>,
    /// The follower to fetch from (KIP-392), or -1.
    pub preferred_read_replica: i32,
    pub records: Bytes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Response {
    pub throttle_time_ms: i32,
    pub error_code: i16,
    pub session_id: i32,
}

const LEAST_TOPIC_BYTES: usize = 3;
const LEAST_PARTITION_BYTES: usize = 26;
const LEAST_ABORTED_BYTES: usize = 16;
/// The tagged fields of a partition.
const TAG_DIVERGING_EPOCH: u32 = 0;
const TAG_CURRENT_LEADER: u32 = 1;

/// Reads a frame, which begins with the correlation id, and gives each partition to `each` in the response's order.
pub(crate) fn read<'a>(
    frame: &'a Bytes,
    version: i16,
    mut each: impl FnMut(&TopicKey<'a>, PartitionData),
) -> Result<Response, Flaw> {
    let mut reader = Reader::new(frame, is_flexible(version));
    reader.i32()?;
    reader.skip_tags()?;
    let mut response = Response {
        throttle_time_ms: reader.i32()?,
        ..Response::default()
    };
    if version >= 7 {
        response.error_code = reader.i16()?;
        response.session_id = reader.i32()?;
    }
    for _ in 0..reader.array_len(LEAST_TOPIC_BYTES)? {
        let topic = if has_topic_ids(version) {
            TopicKey::Id(reader.uuid()?)
        } else {
            TopicKey::Name(reader.string()?)
        };
        for _ in 0..reader.array_len(LEAST_PARTITION_BYTES)? {
            each(&topic, partition(&mut reader, version)?);
        }
        reader.skip_tags()?;
    }
    reader.skip_tags()?; // Addresses of new leaders (KIP-951): the engine's metadata has them.
    match reader.remaining() {
        0 => Ok(response),
        left => Err(format!("{left} bytes are left after its end")),
    }
}

fn partition(reader: &mut Reader<'_>, version: i16) -> Result<PartitionData, Flaw> {
    let mut data = PartitionData {
        partition: reader.i32()?,
        error_code: reader.i16()?,
        high_watermark: reader.i64()?,
        last_stable_offset: reader.i64()?,
        log_start_offset: if version >= 5 { reader.i64()? } else { -1 },
        diverging_epoch: None,
        current_leader: None,
        aborted: Vec::new(),
        preferred_read_replica: -1,
        records: Bytes::new(),
    };
    data.aborted = aborted(reader)?;
    if version >= 11 {
        data.preferred_read_replica = reader.i32()?;
    }
    data.records = reader.shared_bytes()?;
    reader.tags(|tag, field| {
        match tag {
            TAG_DIVERGING_EPOCH => {
                let (epoch, end_offset) = (field.i32()?, field.i64()?);
                data.diverging_epoch = Some(DivergingEpoch { epoch, end_offset });
            }
            TAG_CURRENT_LEADER => data.current_leader = Some((field.i32()?, field.i32()?)),
            _ => {}
        }
        Ok(())
    })?;
    Ok(data)
}

fn aborted(reader: &mut Reader<'_>) -> Result<Vec<Aborted>, Flaw> {
    let count = reader.array_len(LEAST_ABORTED_BYTES)?;
    let mut list = Vec::with_capacity(count);
    for _ in 0..count {
        let (producer_id, first_offset) = (reader.i64()?, reader.i64()?);
        reader.skip_tags()?;
        list.push(Aborted {
            producer_id,
            first_offset,
        });
    }
    Ok(list)
}

/// The fuzz target `fetch_response`: whatever the bytes, a response or an error, and every record set lies within them.
pub fn fuzz(data: &[u8]) {
    let Some((&version, frame)) = data.split_first() else {
        return;
    };
    let frame = Bytes::copy_from_slice(frame);
    let mut total = 0;
    let _ = read(&frame, 4 + i16::from(version % 14), |_, partition| {
        total += partition.records.len();
    });
    assert!(total <= frame.len());
}
