//! Batches by their headers alone. Source: <https://kafka.apache.org/documentation/#recordbatch>, KIP-98, KIP-32.

use crate::error::DecodeError;

/// Bytes before a batch's length counts: its base offset and the length itself.
pub(crate) const LOG_OVERHEAD: usize = 12;
/// Where the magic byte stands, in every version.
pub(crate) const MAGIC_AT: usize = 16;
/// The size of a v2 batch without its records.
pub const V2_HEADER_BYTES: usize = 61;
/// Where a v2 batch's checksum begins to count.
pub(crate) const V2_CRC_FROM: usize = 21;
/// The least size of a v0 message: null key, null value.
pub(crate) const V0_MIN_BYTES: usize = 26;
/// The least size of a v1 message: a timestamp more.
pub(crate) const V1_MIN_BYTES: usize = 34;

/// One batch (v2), or one message (v0, v1), as it stands whole in a record set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// v2: of the first record. v0, v1: of the message; of the last one inside where it is a compressed wrapper.
    pub base_offset: i64,
    /// The offset after the last one that this batch covers, compacted or not.
    pub next_offset: i64,
    /// The whole size in bytes.
    pub size: usize,
    pub magic: i8,
    /// -1 before v2.
    pub leader_epoch: i32,
}

/// What stands at the head of the remaining bytes.
pub(crate) enum Head {
    Whole(Frame),
    /// The rest of a response that was cut at its limit; the size the batch would have, where that much is there to tell.
    Partial(Option<usize>),
}

pub(crate) fn i16_at(bytes: &[u8], at: usize) -> Option<i16> {
    bytes
        .get(at..at + 2)?
        .try_into()
        .ok()
        .map(i16::from_be_bytes)
}

pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(i32::from_be_bytes)
}

pub(crate) fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    bytes
        .get(at..at + 8)?
        .try_into()
        .ok()
        .map(i64::from_be_bytes)
}

/// Reads the frame at the head of `bytes`. `expected` is the offset to name where the bytes tell none.
pub(crate) fn head(bytes: &[u8], expected: i64) -> Result<Head, DecodeError> {
    let (Some(base_offset), Some(length)) = (i64_at(bytes, 0), i32_at(bytes, 8)) else {
        return Ok(Head::Partial(None));
    };
    let corrupt = |what: String| {
        DecodeError::corrupt(
            if base_offset < 0 {
                expected
            } else {
                base_offset
            },
            what,
        )
    };
    if base_offset < 0 {
        return Err(corrupt(format!(
            "a batch with the negative base offset {base_offset}"
        )));
    }
    let size = match usize::try_from(length) {
        Ok(length) if length + LOG_OVERHEAD >= V0_MIN_BYTES => length + LOG_OVERHEAD,
        _ => {
            return Err(corrupt(format!(
                "a batch that declares {length} bytes, fewer than any can have"
            )));
        }
    };
    let magic = match bytes.get(MAGIC_AT) {
        Some(&magic) => magic as i8,
        None => return Ok(Head::Partial(Some(size))),
    };
    let least = match magic {
        0 => V0_MIN_BYTES,
        1 => V1_MIN_BYTES,
        2 => V2_HEADER_BYTES,
        _ => {
            let what = format!(
                "a batch in format v{magic}; v0, v1 and v2 are known: a newer client may read it"
            );
            return Err(DecodeError::unsupported(base_offset, what));
        }
    };
    if size < least {
        return Err(corrupt(format!(
            "a v{magic} batch that declares {size} bytes, fewer than its {least} of header"
        )));
    }
    if size > bytes.len() {
        return Ok(Head::Partial(Some(size)));
    }
    let (last_delta, leader_epoch) = match (magic, i32_at(bytes, 23), i32_at(bytes, 12)) {
        (2, Some(delta), Some(epoch)) => (delta, epoch),
        _ => (0, -1),
    };
    let next_offset = base_offset
        .checked_add(i64::from(last_delta))
        .and_then(|last| last.checked_add(1));
    match next_offset {
        Some(next_offset) if last_delta >= 0 => Ok(Head::Whole(Frame {
            base_offset,
            next_offset,
            size,
            magic,
            leader_epoch,
        })),
        _ => Err(corrupt(format!(
            "a batch whose last offset is {last_delta} after its base offset"
        ))),
    }
}

/// What the headers alone tell, before any decoding: where the next fetch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The offset after the last whole batch; None without a whole one.
    pub next_offset: Option<i64>,
    /// How many bytes the whole batches take; what follows is the cut rest of a response.
    pub complete_bytes: usize,
    /// The leader epoch of the last whole batch; -1 without one, and before v2.
    pub last_leader_epoch: i32,
    /// The number of whole batches.
    pub batches: usize,
}

/// Walks the batch headers of a record set; touches no record and checks no checksum.
///
/// # Errors
/// A header that makes no sense, wherever it stands. The decoder returns the records before it first, then this error.
pub fn scan(record_set: &[u8]) -> Result<Scan, DecodeError> {
    let mut scan = Scan {
        next_offset: None,
        complete_bytes: 0,
        last_leader_epoch: -1,
        batches: 0,
    };
    while let Some(rest) = record_set
        .get(scan.complete_bytes..)
        .filter(|rest| !rest.is_empty())
    {
        match head(rest, scan.next_offset.unwrap_or(-1))? {
            Head::Partial(_) => break,
            Head::Whole(frame) => {
                scan.next_offset = scan.next_offset.max(Some(frame.next_offset));
                scan.complete_bytes += frame.size;
                scan.last_leader_epoch = frame.leader_epoch;
                scan.batches += 1;
            }
        }
    }
    Ok(scan)
}

/// The header of a v2 batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// The epoch of the leader that appended it.
    pub leader_epoch: i32,
    /// CRC-32C of all that follows it.
    pub crc: u32,
    /// Codec in bits 0-2, timestamp type 3, transactional 4, control 5, delete horizon 6.
    pub attributes: i16,
    /// Offset of the last record, less the base offset; stays when compaction removes records.
    pub last_offset_delta: i32,
    /// What the records' timestamps are added to.
    pub base_timestamp: i64,
    /// The greatest timestamp; of every record under LogAppendTime.
    pub max_timestamp: i64,
    /// The producer's id, -1 without one.
    pub producer_id: i64,
    /// The producer's epoch, -1 without one.
    pub producer_epoch: i16,
    /// The sequence number of the first record, -1 without one.
    pub base_sequence: i32,
    /// How many records follow.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header of a v2 batch; None where the bytes are too few.
    pub fn read(batch: &[u8]) -> Option<Self> {
        Some(Self {
            base_offset: i64_at(batch, 0)?,
            leader_epoch: i32_at(batch, 12)?,
            crc: i32_at(batch, 17)? as u32,
            attributes: i16_at(batch, 21)?,
            last_offset_delta: i32_at(batch, 23)?,
            base_timestamp: i64_at(batch, 27)?,
            max_timestamp: i64_at(batch, 35)?,
            producer_id: i64_at(batch, 43)?,
            producer_epoch: i16_at(batch, 51)?,
            base_sequence: i32_at(batch, 53)?,
            record_count: i32_at(batch, 57)?,
        })
    }

    /// All records carry `max_timestamp`, set by the broker.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & 0x08 != 0
    }

    /// Part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// Written by the broker for readers' bookkeeping; not for the user.
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }
}
