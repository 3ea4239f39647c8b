//! Records as bytes that can be handed to another process, or kept on disk: a private form, read by the version that wrote it.
//!
//! ```text
//! magic "PKR1", then runs: topic length u16, topic, partition i32, next offset i64, leader epoch i32, timestamp type i8, has headers u8,
//! records u32, bytes u32, the records' spans (32 bytes each), the bytes
//! ```
//!
//! Little-endian. Bytes are copied as they lie in the chunk, so that packing is a copy and unpacking an index of one shared buffer.

use std::sync::Weak;

use bytes::Bytes;

use crate::arrow_columns::Slice;
use crate::record::{Chunk, RecordSpan, TimestampType};
use crate::varint::Cursor;

const MAGIC: &[u8; 4] = b"PKR1";
const SPAN_BYTES: usize = 32;
const CUT: PackError = PackError("cut short");

/// Packed bytes that make no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no packed records of this version: {0}")]
pub struct PackError(&'static str);

/// Some records of one partition, and its position after them.
#[derive(Debug)]
pub struct PackedRun {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The partition's position after these records.
    pub next_offset: i64,
    /// The records.
    pub chunk: Chunk,
}

/// All records of these slices, each with its partition's position after it.
pub fn pack(slices: &[(Slice, i64)]) -> Result<Vec<u8>, PackError> {
    let size = slices.iter().map(|(slice, _)| {
        64 + slice.topic.len()
            + (slice.end - slice.start) * (SPAN_BYTES + 16)
            + usize::try_from(slice.chunk.payload_bytes(slice.start, slice.end)).unwrap_or(0)
    });
    let mut out = Vec::with_capacity(MAGIC.len() + size.sum::<usize>());
    out.extend_from_slice(MAGIC);
    for (slice, next_offset) in slices {
        pack_run(&mut out, slice, *next_offset)?;
    }
    Ok(out)
}

fn pack_run(out: &mut Vec<u8>, slice: &Slice, next_offset: i64) -> Result<(), PackError> {
    let chunk = &slice.chunk;
    let spans = chunk.spans.get(slice.start..slice.end).unwrap_or_default();
    let (Some(first), true) = (spans.first(), slice.end > 0) else {
        return Ok(());
    };
    let begin = first.key_start.min(first.value_start);
    let end = end_of(chunk, slice.end - 1);
    let bytes = chunk
        .bytes
        .get(begin as usize..end)
        .ok_or(PackError("a span beyond its chunk"))?;
    let topic_len = u16::try_from(slice.topic.len()).map_err(|_| PackError("the topic's name"))?;
    let bytes_len =
        u32::try_from(bytes.len()).map_err(|_| PackError("more than 4 GiB in a run"))?;
    let count = u32::try_from(spans.len()).map_err(|_| PackError("too many records in a run"))?;
    out.extend_from_slice(&topic_len.to_le_bytes());
    out.extend_from_slice(slice.topic.as_bytes());
    out.extend_from_slice(&slice.partition.to_le_bytes());
    out.extend_from_slice(&next_offset.to_le_bytes());
    out.extend_from_slice(&chunk.leader_epoch.to_le_bytes());
    out.extend_from_slice(&(chunk.timestamp_type as i8).to_le_bytes());
    out.push(u8::from(chunk.has_headers));
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&bytes_len.to_le_bytes());
    for span in spans {
        out.extend_from_slice(&span.offset.to_le_bytes());
        out.extend_from_slice(&span.timestamp.to_le_bytes());
        out.extend_from_slice(&span.key_start.saturating_sub(begin).to_le_bytes());
        out.extend_from_slice(&span.key_len.to_le_bytes());
        out.extend_from_slice(&span.value_start.saturating_sub(begin).to_le_bytes());
        out.extend_from_slice(&span.value_len.to_le_bytes());
    }
    out.extend_from_slice(bytes);
    Ok(())
}

/// Where record `index` ends, its headers included.
fn end_of(chunk: &Chunk, index: usize) -> usize {
    let Some(span) = chunk.spans.get(index) else {
        return 0;
    };
    let at = span.value_start as usize + span.value_len.max(0) as usize;
    if chunk.has_headers {
        after_headers(&chunk.bytes, at).unwrap_or(at)
    } else {
        at
    }
}

fn after_headers(bytes: &[u8], at: usize) -> Option<usize> {
    let mut cursor = Cursor::new(bytes, at);
    for _ in 0..cursor.varint().ok()?.max(0) {
        cursor.header_key().ok()?;
        cursor.header_value().ok()?;
    }
    Some(cursor.at())
}

/// A reading position in packed bytes, which are not trusted.
struct Reader<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], PackError> {
        let end = self.at.checked_add(count).ok_or(CUT)?;
        let taken = self.data.get(self.at..end).ok_or(CUT)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PackError> {
        self.take(N)?.try_into().map_err(|_| CUT)
    }
}

/// What pack() made. Nothing is copied; the runs share `data`.
pub fn unpack(data: &Bytes) -> Result<Vec<PackedRun>, PackError> {
    let mut reader = Reader {
        data: data.as_ref(),
        at: 0,
    };
    if reader.take(MAGIC.len())? != MAGIC.as_slice() {
        return Err(PackError("another magic"));
    }
    let mut runs = Vec::new();
    while reader.at < data.len() {
        runs.push(unpack_run(data, &mut reader)?);
    }
    Ok(runs)
}

fn unpack_run(data: &Bytes, reader: &mut Reader<'_>) -> Result<PackedRun, PackError> {
    let topic_len = u16::from_le_bytes(reader.array()?) as usize;
    let topic = std::str::from_utf8(reader.take(topic_len)?)
        .map_err(|_| PackError("the topic's name"))?
        .to_owned();
    let partition = i32::from_le_bytes(reader.array()?);
    let next_offset = i64::from_le_bytes(reader.array()?);
    let leader_epoch = i32::from_le_bytes(reader.array()?);
    let timestamp_type = match i8::from_le_bytes(reader.array()?) {
        -1 => TimestampType::None,
        0 => TimestampType::Create,
        1 => TimestampType::LogAppend,
        _ => return Err(PackError("the timestamp type")),
    };
    let has_headers = match reader.take(1)? {
        [0] => false,
        [1] => true,
        _ => return Err(PackError("whether there are headers")),
    };
    let count = u32::from_le_bytes(reader.array()?) as usize;
    let bytes_len = u32::from_le_bytes(reader.array()?) as usize;
    if count == 0 {
        return Err(PackError("a run of no records"));
    }
    let index = reader.take(count.checked_mul(SPAN_BYTES).ok_or(CUT)?)?;
    let mut spans = Vec::with_capacity(count);
    let mut before = -1;
    for encoded in index.chunks_exact(SPAN_BYTES) {
        let mut fields = Reader {
            data: encoded,
            at: 0,
        };
        let span = RecordSpan {
            offset: i64::from_le_bytes(fields.array()?),
            timestamp: i64::from_le_bytes(fields.array()?),
            key_start: u32::from_le_bytes(fields.array()?),
            key_len: i32::from_le_bytes(fields.array()?),
            value_start: u32::from_le_bytes(fields.array()?),
            value_len: i32::from_le_bytes(fields.array()?),
        };
        let fits = |start: u32, len: i32| {
            len >= -1 && start as usize + len.max(0).unsigned_abs() as usize <= bytes_len
        };
        if span.offset <= before
            || !fits(span.key_start, span.key_len)
            || !fits(span.value_start, span.value_len)
        {
            return Err(PackError("a span"));
        }
        before = span.offset;
        spans.push(span);
    }
    let bytes = data.slice_ref(reader.take(bytes_len)?);
    let headers_make_sense = |span: &RecordSpan| {
        let at = span.value_start as usize + span.value_len.max(0) as usize;
        after_headers(&bytes, at).is_some()
    };
    if has_headers && !spans.iter().all(headers_make_sense) {
        return Err(PackError("headers"));
    }
    Ok(PackedRun {
        topic,
        partition,
        next_offset,
        chunk: Chunk {
            retained_bytes: bytes.len(),
            bytes,
            spans,
            leader_epoch,
            timestamp_type,
            has_headers,
            recycler: Weak::new(),
        },
    })
}
