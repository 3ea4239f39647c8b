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
    /// Only in answer to a request that names the epoch of the last record.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A version 12 answer: one topic, one partition with five bytes of records and a current leader (tag 1).
    fn answer() -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 9, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0];
        bytes.extend([2, 2, b't', 2, 0, 0, 0, 4, 0, 6]);
        for mark in [100_i64, 90, 5] {
            bytes.extend(mark.to_be_bytes());
        }
        bytes.extend([1, 0xff, 0xff, 0xff, 0xff, 6, b'b', b'y', b't', b'e', b's']);
        bytes.extend([1, 1, 9, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0]);
        bytes
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let frame = Bytes::from(answer());
        let mut found = Vec::new();
        let response = read(&frame, 12, |topic, data| found.push((topic.clone(), data))).unwrap();
        assert_eq!(response.throttle_time_ms, 3);
        let [(topic, data)] = found.try_into().unwrap();
        assert_eq!(topic, TopicKey::Name("t"));
        assert_eq!((data.partition, data.error_code), (4, 6));
        assert_eq!(
            (
                data.high_watermark,
                data.last_stable_offset,
                data.log_start_offset
            ),
            (100, 90, 5)
        );
        assert_eq!(
            (data.current_leader, data.records.as_ref()),
            (Some((7, 8)), b"bytes".as_slice())
        );
    }

    #[test]
    fn truncated_or_prolonged_it_is_refused() {
        let whole = answer();
        for length in 0..whole.len() {
            let frame = Bytes::copy_from_slice(&whole[..length]);
            assert!(read(&frame, 12, |_, _| {}).is_err(), "{length} bytes");
        }
        let frame = Bytes::from([whole, vec![0]].concat());
        assert_eq!(
            read(&frame, 12, |_, _| {}).unwrap_err(),
            "1 bytes are left after its end"
        );
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut seed = 1_u64;
        let mut next = move || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize
        };
        for _ in 0..20_000 {
            let mut bytes = [vec![(next() % 14) as u8], answer()].concat();
            for _ in 0..next() % 4 {
                let at = next() % bytes.len();
                bytes[at] = [0, 1, 0x7f, 0x80, 0xff, next() as u8][next() % 6];
            }
            bytes.truncate(bytes.len() - next() % 3);
            fuzz(&bytes);
        }
    }
}
